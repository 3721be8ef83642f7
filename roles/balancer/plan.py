"""HAProxy of a gateway, from settings. Touches no host."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

from vllm_hosts.host.balancer import HAND_OVER_SCRIPT, RESPONSE_GONE, SAVE_SCRIPT
from vllm_hosts.host.files import Entry, File, Folder
from vllm_hosts.host.paths import (
    BALANCER_CONF,
    BALANCER_FOLDER,
    BALANCER_RUN,
    BALANCER_STATE,
    BALANCER_UNIT,
    GATEWAY_CA,
    GATEWAY_CLIENT,
)
from vllm_hosts.host.render import render
from vllm_hosts.settings import HostSettings
from vllm_hosts.settings.fleet import ALIVE, INNER_DOMAIN, MADE, Pool, Replica

#: nginx's workers, on Debian and Ubuntu.
_NGINX_USER = "www-data"
#: What the gateway's nginx says a request is to be balanced by.
_AFFINITY = "X-Vllm-Hosts-Affinity"
#: Which agent has the response that a request is about, or goes on from.
_MADE_BY = "X-Vllm-Hosts-Made-By"
#: Bytes: nginx takes four times 8 kB of headers, and adds its own; HAProxy keeps 1 kB for itself.
_BUFFER = 40960
#: Points on the ring for each unit of HAProxy's weight. Few make shares uneven.
_MOST_WEIGHT, _ENOUGH = 256, 16
#: Of the others in its pool, who takes an agent's refused requests.
_OTHERS = 2
#: Headers of one request.
_HEADERS = 2000
#: HAProxy multiplies a server's number by 4096 in 32 bits.
_NUMBERS = 1 << 20


@dataclass(frozen=True)
class _Server:
    name: str
    address: str
    id: int
    weight: int
    inner_name: str
    made_by: str
    #: Who is asked instead where this one has refused, the first of them that works.
    others: tuple[str, ...]


@dataclass(frozen=True)
class _Backend:
    """``again``: its name for requests that are sent once more; empty where there is one agent."""

    name: str
    servers: tuple[_Server, ...]
    again: str


def balancer_entries(settings: HostSettings) -> list[Entry]:
    """The configuration, the unit, and its scripts."""
    unit = render(
        f"balancer/{BALANCER_UNIT}.j2",
        haproxy="/usr/sbin/haproxy",
        conf=BALANCER_CONF,
        run=BALANCER_RUN,
        state=BALANCER_STATE,
        script=SAVE_SCRIPT,
        hand_over=HAND_OVER_SCRIPT,
        open_files=_open_files(settings),
        names=_dns_names(settings),
    )
    return [
        Folder(BALANCER_FOLDER),
        Folder("/usr/local/lib/vllm-hosts"),
        Folder(BALANCER_STATE, mode=0o700),
        File(BALANCER_CONF, configuration(settings).encode()),
        File(SAVE_SCRIPT, save_script().encode(), mode=0o700),
        File(HAND_OVER_SCRIPT, hand_over_script().encode(), mode=0o700),
        File(f"/etc/systemd/system/{BALANCER_UNIT}", unit.encode()),
    ]


def configuration(settings: HostSettings) -> str:
    """HAProxy's configuration."""
    edge, gateway = settings.edge, settings.gateway
    return render(
        "balancer/haproxy.cfg.j2",
        maxconn=_connections(settings),
        buffer=_BUFFER,
        headers=_HEADERS,
        # What an old process still does ends by itself, or is as silent as a client may be.
        hard_stop=max(edge.timeout, gateway.drain_timeout),
        run=BALANCER_RUN,
        state=BALANCER_STATE,
        timeout=edge.timeout,
        affinity=_AFFINITY,
        made_by=_MADE_BY,
        made=MADE,
        gone=RESPONSE_GONE,
        balance_factor=round(gateway.fair_share * 100),
        domain=INNER_DOMAIN,
        ca=GATEWAY_CA,
        client=GATEWAY_CLIENT,
        nginx_user=_NGINX_USER,
        pools=[_backend(pool) for pool in settings.pools],
        alive=ALIVE if settings.virtual else "",
    )


def save_script() -> str:
    """What a gateway runs before HAProxy is reloaded or stopped, and after a server is drained."""
    return render(
        "balancer/save-balancer-state.sh.j2",
        run=BALANCER_RUN,
        conf=BALANCER_CONF,
        state=BALANCER_STATE,
    )


def hand_over_script() -> str:
    """What a gateway runs to let HAProxy end, and before another one starts."""
    return render("balancer/hand-over-balancer.sh.j2", run=BALANCER_RUN)


def _connections(settings: HostSettings) -> int:
    """As many requests as nginx lets in, and some for the runtime socket."""
    return settings.edge.requests + 256


def _open_files(settings: HostSettings) -> int:
    """Two for a request, connections to hosts that wait for the next one, and one for a check."""
    servers = sum(len(pool.replicas) for pool in settings.pools)
    return 3 * _connections(settings) + 2 * servers + 4096


def _backend(pool: Pool) -> _Backend:
    finer = max(1, min(_ENOUGH, _MOST_WEIGHT // max(one.weight for one in pool.replicas)))
    names = [one.server for one in pool.replicas]
    numbers = _numbers(names)
    servers = tuple(
        _Server(
            name=one.server,
            address=_address(one),
            id=numbers[one.server],
            weight=one.weight * finer,
            inner_name=one.inner_name,
            made_by=one.made_by,
            others=tuple(
                names[(place + step) % len(names)]
                for step in range(1, min(_OTHERS, len(names) - 1) + 1)
            ),
        )
        for place, one in enumerate(pool.replicas)
    )
    return _Backend(pool.name, servers, pool.again)


def _numbers(names: Iterable[str]) -> dict[str, int]:
    """A server's place on the ring follows from its name alone: it is the same on all gateways, and
    stays where it is when others come and go."""
    found: dict[str, int] = {}
    for name in sorted(names):
        number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4])
        while (number := number % _NUMBERS or 1) in found.values():
            number += 1
        found[name] = number
    return found


def _dns_names(settings: HostSettings) -> list[str]:
    """Hosts' addresses that are names, which HAProxy resolves when it starts and is reloaded."""
    replicas = [one for pool in settings.pools for one in pool.replicas]
    return sorted({one.address for one in replicas if _ip(one.address) is None})


def _ip(address: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(address)
    except ValueError:
        return None


def _address(replica: Replica) -> str:
    address = _ip(replica.address)
    if address is None:
        return f"{replica.address}:{replica.port}"
    if isinstance(address, IPv6Address):
        return f"ipv6@[{address}]:{replica.port}"
    return f"ipv4@{address}:{replica.port}"
