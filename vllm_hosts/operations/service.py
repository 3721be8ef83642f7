"""systemd services."""

from __future__ import annotations

from collections.abc import Sequence

from pyinfra.api.command import StringCommand

from vllm_hosts.facts import look
from vllm_hosts.facts.nginx import NginxState
from vllm_hosts.facts.units import Units
from vllm_hosts.operations.base import Commands, host_operation
from vllm_hosts.operations.differences import differs


@host_operation
def nginx_enabled() -> Commands:
    """Run nginx, now and at boot."""
    state = look(NginxState)
    if not (state.active and state.enabled):
        differs("nginx.service", "does not run, or not at boot")
        yield StringCommand("nginx -t && systemctl enable --now nginx.service")


@host_operation
def units_enabled(names: Sequence[str]) -> Commands:
    """Run these units, now and at boot."""
    states = look(Units, names=list(names))
    idle = [name for name in names if not (states[name].active and states[name].enabled)]
    for name in idle:
        differs(name, "does not run, or not at boot")
    if idle:
        yield StringCommand(f"systemctl enable --now {' '.join(idle)}")
