"""A healthy gateway as the doctor sees it, and what can be wrong with one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tests.unit.doctor_cases import Fault
from tests.unit.doctor_hosts import healthy
from tests.unit.fleets import fleet
from vllm_hosts.doctor.diagnoses import Certainty
from vllm_hosts.doctor.seen import DockerSeen, HaproxySeen, Seen, VirtualSeen
from vllm_hosts.host.balancer import Server
from vllm_hosts.host.systemctl import Active

GATEWAY = fleet()["gw1"]
#: One that shares an address with another.
SHARING = fleet({"gateway": {"virtual_ip": "192.0.2.9"}})["gw1"]


def healthy_gateway() -> Seen:
    """A gateway of two hosts, with two agents of one model and one of another."""
    servers = {
        (pool.name, one.server): Server(pool.name, one.server, True, False, 0, "L7OK")
        for pool in GATEWAY.pools
        for one in pool.replicas
    }
    return replace(
        healthy(),
        agents=(),
        gpus=None,
        docker=DockerSeen("", Active.SILENT, answers=False),
        balancer=HaproxySeen(servers),
    )


def with_servers(model: str, count: int, **changed: Any) -> Callable[[Seen], Seen]:
    """The first agents of a model are otherwise."""

    def made(seen: Seen) -> Seen:
        assert seen.balancer is not None
        servers = dict(seen.balancer.servers)
        [pool] = [pool for pool in GATEWAY.pools if pool.model == model]
        for one in pool.replicas[:count]:
            key = (pool.name, one.server)
            servers[key] = replace(servers[key], **changed)
        return replace(seen, balancer=HaproxySeen(servers))

    return made


def _forgotten(seen: Seen) -> Seen:
    assert seen.balancer is not None
    servers = dict(seen.balancer.servers)
    del servers[next(key for key in servers if key[0] == "qwen")]
    return replace(seen, balancer=HaproxySeen(servers))


def _virtual(held: bool, runs: bool, *holders: str) -> Callable[[Seen], Seen]:
    return lambda seen: replace(seen, virtual=VirtualSeen(held, runs, holders))


DOWN = {"alive": False, "check": "L7STS Layer7 wrong status"}
OF_GATEWAYS = [
    Fault(
        "balancer-down",
        lambda seen: replace(seen, balancer=HaproxySeen({}, "HAProxy does not answer")),
        do="systemctl restart vllm-hosts-balancer",
        host=GATEWAY,
    ),
    Fault(
        "keepalived-down",
        _virtual(False, False, "gw2"),
        says="cannot take the virtual address 192.0.2.9",
        do="systemctl restart vllm-hosts-keepalived",
        host=SHARING,
    ),
    Fault(
        "virtual-address-nowhere",
        _virtual(False, True),
        says="No gateway has the virtual address 192.0.2.9",
        do="journalctl -u vllm-hosts-keepalived",
        host=SHARING,
    ),
    Fault(
        "virtual-address-twice",
        _virtual(True, True, "gw1", "gw2"),
        says="gw1 and gw2 have the virtual address 192.0.2.9 at the same time",
        do="IP protocol 112",
        host=SHARING,
    ),
    Fault(
        "model-without-agent",
        with_servers("coder-14b", 1, **DOWN),
        says="the model coder-14b",
        host=GATEWAY,
    ),
    Fault(
        "model-without-agent",
        with_servers("qwen", 2, drained=True),
        says="the model qwen",
        do="undrain",
        host=GATEWAY,
    ),
    Fault(
        "agent-out-of-rotation",
        with_servers("qwen", 1, **DOWN),
        says="Agent qwen on gpu1 gets no requests for qwen",
        do="--host gpu1",
        host=GATEWAY,
    ),
    Fault("agent-out-of-rotation", _forgotten, says="Agent qwen on gpu1", host=GATEWAY),
    Fault(
        "agent-drained",
        with_servers("qwen", 1, drained=True, running=3),
        says="Agent qwen on gpu1 is drained",
        do="undrain qwen --host gpu1",
        certainty=Certainty.POSSIBLE,
        host=GATEWAY,
    ),
]
