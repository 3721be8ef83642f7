"""systemd services."""

from __future__ import annotations

from pyinfra.api.command import StringCommand

from vllm_hosts.facts import look
from vllm_hosts.facts.nginx import NginxState
from vllm_hosts.operations.base import Commands, host_operation


@host_operation
def nginx_enabled() -> Commands:
    """nginx runs, now and at boot."""
    state = look(NginxState)
    if not (state.active and state.enabled):
        yield StringCommand("nginx -t && systemctl enable --now nginx.service")
