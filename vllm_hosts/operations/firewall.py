"""Keeping our nftables table in force."""

from __future__ import annotations

from pyinfra.api.command import StringCommand

from vllm_hosts.facts import look
from vllm_hosts.facts.firewall import FirewallLoaded
from vllm_hosts.operations.base import Commands, host_operation


@host_operation
def firewall_loaded(rules: str, unit: str) -> Commands:
    """Reload the table if it is not exactly what the file says; start its unit at boot.

    :param rules: path of the nftables file.
    :param unit: systemd unit that loads it.
    """
    loaded = look(FirewallLoaded, rules=rules, unit=unit)
    if not loaded.in_force:
        yield StringCommand(f"nft -f {rules}")
    if not (loaded.enabled and loaded.active):
        yield StringCommand(f"systemctl enable --now {unit}")
