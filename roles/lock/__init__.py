"""One deploy at a time on a host.

Promises: two runs that change a host never interleave; the second waits, or is refused by the name
of the first. Needs: a login. Writes: /run/vllm-hosts.lock while it runs, and a line of
/var/lib/vllm-hosts/history if something was changed. Restarts nothing.
"""

from __future__ import annotations

from pyinfra.api.deploy import deploy

from vllm_hosts.operations.locked import host_held
from vllm_hosts.project import run


@deploy("Lock")
def lock() -> None:
    """Hold the host until the run has ended, and wait for others that change it."""
    host_held(run.purpose(), name="No other deploy is at work on the host")
