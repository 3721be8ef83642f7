"""Gateways send requests to the agents of a host behind them.

Promises: an agent that answers gets requests from every gateway, unless somebody drained it by
hand. Needs: vllm, nginx and client_keys, since the host's own edge is asked first. Writes nothing.
Does nothing where there are no gateways. What changed in this run is back by now; this finds what
an earlier one has left drained.
"""

from __future__ import annotations

from pyinfra.api.deploy import deploy

from vllm_hosts.operations.rotation import in_rotation
from vllm_hosts.project import run


@deploy("Rotation")
def rotation() -> None:
    """Put agents back that a run which was cut off, or failed, has left out of rotation."""
    current = run.current()
    if not current.settings.behind_gateways:
        return
    in_rotation(
        current.rotation,
        [agent.name for agent in current.settings.agents],
        name="Gateways send requests to the agents",
    )
