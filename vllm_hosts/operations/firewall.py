"""Keeps our nftables table in force, without ever locking everybody out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pyinfra.api.command import StringCommand
from pyinfra.context import ctx_host, ctx_state

from vllm_hosts.facts import look
from vllm_hosts.facts.firewall import LISTING, FirewallLoaded, OtherFirewalls
from vllm_hosts.facts.tree import TreeState
from vllm_hosts.host.files import Entry, differing
from vllm_hosts.operations.base import Commands, host_operation
from vllm_hosts.operations.confirmed import armed, confirmed
from vllm_hosts.operations.differences import differs, entries_differ, remember
from vllm_hosts.operations.foreseen import leads_to
from vllm_hosts.operations.tree import change

_CHANGE = "firewall"
_TABLE = "table inet vllm_hosts"
_BLAME = "is this machine's network in firewall.ssh_from, and is sshd's port the same?"


@host_operation
def firewall_in_force(
    entries: Callable[[], Sequence[Entry]],
    rules: str,
    unit: str,
    *,
    afterwards: Callable[[], None] = lambda: None,
) -> Commands:
    """Write the rules, load them, and let them be loaded at boot.

    A changed table has to be confirmed by a new connection from here, or the host restores the
    table and the file that it had, also where it reboots before.

    :param entries: returns the wanted files; it may query the host.
    :param rules: path of the nftables file among them.
    :param unit: systemd unit that loads it.
    :param afterwards: called once it is in force.
    """
    wanted = entries()
    remember(wanted)
    found = look(TreeState, paths=[entry.path for entry in wanted], stamp=None)
    different = differing(wanted, found.paths)
    loaded = look(FirewallLoaded, rules=rules, unit=unit)
    entries_differ(different, found.paths)
    if not loaded.in_force:
        differs(_TABLE, "is not the one that its file describes")
    if (loaded.in_force and different) or (not loaded.in_force and loaded.active):
        leads_to("the firewall's table is reloaded; open connections stay")
    if different or not loaded.in_force:
        yield armed(
            _CHANGE,
            [rules],
            save=(
                f"{{ echo '{_TABLE}'; echo 'delete {_TABLE}';"
                f" {LISTING} 2>/dev/null || :; }} >table.nft"
            ),
            undo="nft -f table.nft",
        )
        load = f"systemctl daemon-reload && nft -f {rules}"
        if different:
            yield change(different, validate=f"nft -c -f {rules}", activate=load)
        else:
            yield StringCommand(load)
        # Enabled in the same moment, or a boot would come up without a table that is confirmed.
        enable = f"systemctl enable --quiet {unit} && sync /etc/systemd/system/*.wants"
        before = ":" if loaded.enabled else enable
        yield confirmed(_CHANGE, _BLAME, before=before)
    if not (loaded.enabled and loaded.active):
        differs(unit, "is not started at boot")
        yield StringCommand(f"systemctl enable --now {unit}")
    if ctx_state.get().is_executing:
        afterwards()


@host_operation
def other_firewalls_noted(ports: Sequence[int]) -> Commands:
    """Report any other active firewall, since it has to let clients in too. Changes nothing.

    :param ports: TCP ports that clients use.
    """
    if ctx_state.get().is_executing:
        for sentence in look(OtherFirewalls).sentences(ports):
            ctx_host.get().log(f"    {sentence}")
    yield from ()
