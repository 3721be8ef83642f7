"""systemd services."""

from __future__ import annotations

from collections.abc import Sequence

from pyinfra.api.command import StringCommand

from vllm_hosts.facts import look
from vllm_hosts.facts.nginx import NginxState
from vllm_hosts.facts.units import Units
from vllm_hosts.operations.base import Commands, host_operation


@host_operation
def nginx_enabled() -> Commands:
    """nginx runs, now and at boot."""
    state = look(NginxState)
    if not (state.active and state.enabled):
        yield StringCommand("nginx -t && systemctl enable --now nginx.service")


@host_operation
def units_enabled(at_boot: Sequence[str], running: Sequence[str]) -> Commands:
    """Units that are enabled at boot, and of them those that run now as well."""
    states = look(Units, names=[*at_boot, *running])
    idle = [name for name in running if not (states[name].active and states[name].enabled)]
    disabled = [name for name in at_boot if not states[name].enabled]
    if disabled:
        yield StringCommand(f"systemctl enable {' '.join(disabled)}")
    if idle:
        yield StringCommand(f"systemctl enable --now {' '.join(idle)}")
