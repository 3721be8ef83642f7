"""Only the clients' keys, on every edge: `pyinfra inventory/prod.py keys.py`. See docs/keys.md."""

from roles.client_keys import client_keys

client_keys()  # what the store says, one reload; no container is touched
