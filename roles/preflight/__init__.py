"""Whether a host can take the deploy at all.

Promises: nothing is changed on a host that could not be finished. Needs: a login. Writes and
restarts nothing.
"""

from __future__ import annotations

from pyinfra.api.deploy import deploy

from roles.preflight.plan import folders, problems
from vllm_hosts import run
from vllm_hosts.facts import look
from vllm_hosts.facts.release import OsRelease
from vllm_hosts.facts.system import SystemState
from vllm_hosts.operations.checks import no_problems
from vllm_hosts.settings import HostSettings


@deploy("Preflight")
def preflight() -> None:
    """Refuse a host by name of what is missing: system, ports, disk, GPUs."""
    settings = run.current().settings
    no_problems(lambda: _problems(settings), name="The host can take this deploy")


def _problems(settings: HostSettings) -> list[str]:
    system = look(SystemState, folders=folders(settings), image=settings.vllm.image)
    return problems(settings, look(OsRelease), system)
