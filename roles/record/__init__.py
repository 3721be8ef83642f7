"""The record of what a deploy left on a host, kept there.

Promises: `vllm-hosts drift` and `vllm-hosts agents INVENTORY restart` can distinguish changes on
the host from changes in the settings. Needs: all roles that write files. Writes: digests
and copies of deployed files that are not secret, in /var/lib/vllm-hosts, for root only. Restarts
nothing.
"""

from __future__ import annotations

from pyinfra.api.deploy import deploy

from vllm_hosts.agents.prune import old_images_named
from vllm_hosts.keys.beside import shown
from vllm_hosts.operations.record import deployed_noted
from vllm_hosts.project import run


@deploy("Record")
def record() -> None:
    """Record what earlier versions of the toolkit left unrecorded, and name old images."""
    deployed_noted(name="The host has a record of what was deployed")
    settings = run.current().settings
    if settings.runs_agents:
        old_images_named(
            settings.vllm.image,
            shown(run.at_hand().claim.inventory),
            name="Old images are known",
        )
