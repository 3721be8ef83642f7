"""The agents as they were before the last deploy.

Promises: agents have the image, options and model revision with which they were healthy before, and
are healthy; or the host is refused with the reason, and stays as it is. Needs: an earlier deploy,
and the image and models of that time. Writes: compose.yaml, .env with the keys of now, what was
taken back. Restarts: agents whose definition differs. Keys of clients, the CA, the firewall and the
edge stay.
"""

from __future__ import annotations

from pyinfra.api.deploy import deploy

from vllm_hosts.operations.checks import no_problems
from vllm_hosts.operations.way_back import gone_back, refusals, way_back_announced
from vllm_hosts.project import run


@deploy("Roll back")
def rollback() -> None:
    """Return the agents to what they were before the last deploy."""
    way = run.current().way
    no_problems(lambda: refusals(way), name="There is something to go back to")
    way_back_announced(way, name="Hosts with the same model take turns")
    gone_back(way, name="The agents are those of before the last deploy")
