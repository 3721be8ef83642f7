"""The promises that a run checks at its end, judged from facts. Touches no host."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Protocol

from vllm_hosts.host import probe
from vllm_hosts.host.balancer import Does, Server, Servers
from vllm_hosts.host.files import Found
from vllm_hosts.host.probe import Response
from vllm_hosts.settings import HostSettings
from vllm_hosts.settings.exposure import closed_ports
from vllm_hosts.settings.mirrored import asking_networks

#: Routes that vLLM serves without requiring its key (vLLM 0.32, run), and ones that control it.
FORBIDDEN = (
    "/invocations",
    "/metrics",
    "/tokenize",
    "/docs",
    "/v1/load_lora_adapter",
    "/{agent}/invocations",
    "/{agent}/health",
)
#: A name that no agent has: the edge has to answer the same for it.
NOBODY = "no-such-agent"


class Ask(Protocol):
    """Sends one GET for a path to the host's edge, without a key."""

    def __call__(self, path: str) -> Response: ...


def env_problems(path: str, found: Found) -> Iterator[str]:
    """.env is a regular file, 0600, root's."""
    if found.kind != "f":
        yield f"{path} is not a regular file"
    elif found.mode != 0o600 or "root" not in found.owner or "root" not in found.group:
        yield (f"{path} is {found.mode:04o} {found.owner[0]}:{found.group[0]}, not 0600 root:root")


def edge_problems(settings: HostSettings, ask: Ask) -> Iterator[str]:
    """Without a key every path answers 401, whether it exists or not."""
    agents = settings.edge_side.agents
    paths = ["/v1/models", *(f"/{agent.name}/v1/models" for agent in agents)]
    paths += [f"/{NOBODY}/v1/models", *(path.format(agent=agents[0].name) for path in FORBIDDEN)]
    for path in paths:
        try:
            answer = ask(path)
        except OSError as error:
            yield f"the edge does not answer {path}: {error}{_hint(settings)}"
            return
        if answer.status == 403 and settings.edge.allow_from:
            yield f"the edge refuses the controller with 403{_hint(settings)}"
            return
        if answer.status != 401:
            yield f"the edge answers {path} without a key with {answer.status}, not 401"


def _hint(settings: HostSettings) -> str:
    if not settings.edge.allow_from:
        return ""
    return "; is the controller's network in edge.allow_from? The edge is verified from here"


def reachable_problems(
    settings: HostSettings,
    reachable: Callable[[str, int], bool],
    source: Callable[[str], str | None] = probe.source,
) -> Iterator[str]:
    """No agent's port can be reached from the controller, except those exposed on purpose; nor
    those for gateways, or for who asks a mirror, unless the controller comes from where they do.

    A firewall that drops packets sends no answer, so all ports are tried at the same time.

    :param source: where connections from here to an address come from; None: unknown.
    """
    ports = closed_ports(settings)
    if not ports:
        return
    with ThreadPoolExecutor(max_workers=len(ports)) as pool:
        for port, opens in zip(
            ports, pool.map(lambda port: reachable(settings.address, port), ports), strict=True
        ):
            if opens and not _may(settings, port, source):
                yield f"port {port} of {settings.address} can be reached from the controller"


def pool_problems(settings: HostSettings, servers: Servers) -> Iterator[str]:
    """Each model has an agent that gets requests."""
    for pool in settings.edge_side.pools:
        found = {one: servers.get((pool.name, one.server)) for one in pool.replicas}
        if not any(server and server.does is Does.SERVES for server in found.values()):
            why = "; ".join(
                f"{one.agent} on {one.host} {_stands(server)}" for one, server in found.items()
            )
            yield f"no agent answers for the model {pool.model!r}: {why}"


def _stands(server: Server | None) -> str:
    if server is None:
        return "is not known to HAProxy"
    if server.does is Does.DRAINS:
        return "is drained"
    return f"is down ({server.check or 'not checked yet'})"


def _may(settings: HostSettings, port: int, source: Callable[[str], str | None]) -> bool:
    """Whether the controller may be where gateways are, or hosts that ask a mirror, as far as can
    be told from here."""
    networks: list[IPv4Network | IPv6Network] = []
    if settings.behind_gateways and port == settings.gateway.port:
        networks = [network for gateway in settings.gateways for network in gateway.networks]
    elif settings.is_mirror and port == settings.mirror.port:
        networks = asking_networks(settings)
    if not networks:
        return False
    found = source(settings.address)
    if found is None:
        return False
    here = ip_address(found)
    # What goes to the host itself passes no firewall; and a router may give us another address.
    hidden = here.is_private and any(not network.is_private for network in networks)
    same = found == settings.address or here.is_loopback
    return same or hidden or any(here in network for network in networks)
