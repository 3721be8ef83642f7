"""Everything of ours away again: `pyinfra inventory/prod.py remove.py`. See docs/upkeep.md."""

from vllm_hosts.roles.lock import lock
from vllm_hosts.roles.removal import removal

lock()  # one run at a time on a host
removal()  # the edge first, the firewall last; what was there before us is as it was
