"""Whether gateways can get to the hosts behind them at all, as far as the inventory tells."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_network

from vllm_hosts.settings.host import HostSettings
from vllm_hosts.settings.virtual import parsed


def networks_of(gateway: HostSettings) -> tuple[IPv4Network | IPv6Network, ...]:
    """Where a gateway's connections come from; empty: nobody has said so."""
    if gateway.gateway.networks:
        return gateway.gateway.networks
    try:
        return (ip_network(gateway.address),)
    except ValueError:
        return ()


def reach_contradictions(
    front: Sequence[HostSettings], behind: Sequence[HostSettings]
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Why hosts are in no gateway's reach: a sentence, and whom it is about."""
    for host in behind:
        others = [gateway for gateway in front if gateway.name != host.name]
        # Gateways at a loopback address themselves are asked what they make of it: preflight.
        far = [gateway for gateway in others if not is_local(gateway.address)]
        if is_local(host.address) and far:
            yield (
                f"the inventory: the gateway {far[0].name} is to reach {host.name} at"
                f" {host.address!r}, which is that gateway itself; give the host's address in a"
                " network that gateways are in, as ssh_hostname",
                (),
            )
            continue
        address = parsed(host.address)
        for gateway in others:
            networks = networks_of(gateway)
            kinds = {network.version for network in networks}
            if address is not None and kinds and address.version not in kinds:
                yield (
                    f"the inventory: {host.name} has an IPv{address.version} address"
                    f" ({host.address}), and accepts the gateway {gateway.name} from"
                    f" {', '.join(map(str, networks))} only; give both an address of the same"
                    " kind, or say where the gateway's connections come from: gateway.networks in"
                    " its data",
                    (),
                )
                break


def is_local(text: str) -> bool:
    """Whether every machine is meant by it itself."""
    name = text.lower().rstrip(".")
    address = parsed(text)
    # Connections to the unspecified address end at the machine itself too.
    local = address is not None and (address.is_loopback or address.is_unspecified)
    return local or name == "localhost" or name.endswith(".localhost")
