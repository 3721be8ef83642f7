"""Which of several gateways has the address that they share, and who has a say in that."""

from __future__ import annotations

from dataclasses import replace
from shlex import quote

from testinfra.host import Host

from vllm_hosts.settings import HostSettings
from vllm_hosts.settings.fleet import VirtualAddress
from vllm_hosts.suite.conftest import Verified
from vllm_hosts.suite.packets import Packet, Table, listing
from vllm_hosts.suite.promise import promise, unit_runs

_UNIT = "vllm-hosts-keepalived"
_FOLDER = "/etc/vllm-hosts/keepalived"
_STRANGERS = ("203.0.113.9", "198.51.100.9", "10.0.0.9", "2001:db8:ffff::9", "fd00::9")


@promise("GW-06")
def test_one_gateway_has_the_address_and_only_gateways_decide(
    host: Host, settings: HostSettings, verified: Verified
) -> None:
    shared = settings.virtual
    assert shared is not None
    unit_runs(host, _UNIT)
    wrong = changeable(host, _FOLDER)
    table = Table(listing(host.check_output("nft -t -j list table inet vllm_hosts")))
    wrong += heard(table, shared)
    gateways = [one.name for one in verified.settings.values() if one.virtual is not None]
    holders = [name for name in gateways if holds(verified.hosts.get(name), str(shared.address))]
    if len(holders) != 1:
        wrong.append(f"{' and '.join(holders) or 'no gateway'} has {shared.address}")
    assert wrong == []


def changeable(host: Host, folder: str) -> list[str]:
    """What others than root could change of what keepalived reads and runs."""
    shown = host.check_output(f"find {quote(folder)} -printf '%p %u %m\\n'").splitlines()
    wrong = []
    for line in shown:
        path, owner, mode = line.rsplit(" ", 2)
        if owner != "root" or int(mode, 8) & 0o022:
            wrong.append(f"{path} is {owner}'s, with {mode}")
    return wrong if len(shown) > 2 else [*wrong, f"{folder} has no configuration and script"]


def heard(table: Table, shared: VirtualAddress) -> list[str]:
    """Whom a gateway's firewall lets in with VRRP against the settings, or keeps out."""
    peers = {str(peer) for peer in shared.peers}
    wrong = []
    # A rule for a single address is met by nobody else.
    for source in sorted({*_STRANGERS, *peers, *table.addresses()} - {str(shared.own)}):
        to = "192.0.2.1" if ":" not in source else "2001:db8::1"
        near = Packet("input", source, to, 0, "vrrp", hops=255)
        if table.accepts(near) != (source in peers):
            how = "keeps out" if source in peers else "lets in"
            wrong.append(f"the firewall {how} VRRP from {source}")
        # The kernel takes it for an answer to what was sent there.
        afar = [replace(near, hops=254, state=state) for state in ("new", "established")]
        if source in peers and any(map(table.accepts, afar)):
            wrong.append(f"the firewall lets in VRRP in the name of {source} from other networks")
    return wrong


def holds(host: Host, address: str) -> bool:
    """Whether a host has an address now."""
    return bool(host.check_output(f"ip -o address show to {quote(address)}").strip())
