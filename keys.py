"""Only the clients' keys, on every edge: `pyinfra inventory/prod.py keys.py`. See docs/keys.md."""

from vllm_hosts.roles.client_keys import client_keys
from vllm_hosts.roles.lock import lock
from vllm_hosts.roles.ownership import ownership

lock()  # one run at a time on a host
ownership(first=False)  # no keys to a host of another inventory
client_keys()  # what the store says, one reload; no container is touched
