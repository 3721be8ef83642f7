"""Diagnoses of a gateway: which agents behind it get no requests, and why."""

from __future__ import annotations

from collections.abc import Iterator

from vllm_hosts.doctor.diagnoses import Certainty, Finding, finds
from vllm_hosts.doctor.messages import shortened
from vllm_hosts.doctor.seen import Seen
from vllm_hosts.host.balancer import Does, Server
from vllm_hosts.settings import HostSettings
from vllm_hosts.settings.fleet import Pool, Replica

_UNKNOWN = "HAProxy does not know it; deploy to this gateway"


@finds("balancer-down")
def balancer_down(settings: HostSettings, seen: Seen) -> Iterator[Finding]:
    """HAProxy does not answer for itself."""
    if seen.balancer is not None and seen.balancer.said:
        yield Finding(shortened(seen.balancer.said))


@finds("model-without-agent")
def model_without_agent(settings: HostSettings, seen: Seen) -> Iterator[Finding]:
    """Requests for a model get 503."""
    for pool, replicas in _pools(settings, seen):
        if not any(server and server.does is Does.SERVES for _, server in replicas):
            said = "; ".join(f"{_who(one)}: {_why(server)}" for one, server in replicas)
            yield Finding(shortened(said), values={"model": pool.model})


@finds("agent-out-of-rotation")
def agent_out_of_rotation(settings: HostSettings, seen: Seen) -> Iterator[Finding]:
    """HAProxy's checks fail, and others answer in its place."""
    for pool, replicas in _pools(settings, seen):
        for one, server in replicas:
            if server is None or server.does is Does.DOWN:
                values = _named(one) | {"model": pool.model}
                yield Finding(_why(server), Certainty.CERTAIN, values)


@finds("agent-drained")
def agent_drained(settings: HostSettings, seen: Seen) -> Iterator[Finding]:
    """It is alive, and somebody has taken its requests away."""
    for _, replicas in _pools(settings, seen):
        for one, server in replicas:
            if server is not None and server.does is Does.DRAINS:
                said = f"HAProxy: drained, with {server.running} running requests"
                yield Finding(said, Certainty.POSSIBLE, _named(one))


def _pools(
    settings: HostSettings, seen: Seen
) -> Iterator[tuple[Pool, list[tuple[Replica, Server | None]]]]:
    """Each model's agents, as HAProxy sees them; none where it does not say."""
    if seen.balancer is None or seen.balancer.said:
        return
    for pool in settings.edge_side.pools:
        servers = seen.balancer.servers
        yield pool, [(one, servers.get((pool.name, one.server))) for one in pool.replicas]


def _who(one: Replica) -> str:
    return f"{one.agent} on {one.host}"


def _named(one: Replica) -> dict[str, object]:
    # ``host`` would be the gateway.
    return {"agent": one.agent, "at": one.host}


def _why(server: Server | None) -> str:
    if server is None:
        return _UNKNOWN
    if server.does is Does.DRAINS:
        return "drained"
    return f"HAProxy's check: {server.check or 'no result yet'}"
