"""The promises that a run ends with, and that each of them can fail."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from tests.unit.fleets import fleet, with_a_mirror
from tests.unit.samples import CODER, QWEN, settings
from vllm_hosts.host.balancer import Server
from vllm_hosts.host.files import NOTHING, Found
from vllm_hosts.host.probe import Response
from vllm_hosts.roles.assertions.plan import (
    edge_problems,
    env_problems,
    pool_problems,
    reachable_problems,
)
from vllm_hosts.settings import HostSettings

SETTINGS = settings(agents=[QWEN, CODER])
NARROW = settings(agents=[QWEN, CODER], edge={"allow_from": ["10.0.0.0/8"]})
ROOT = ("root", "0")


def test_env_as_it_should_be() -> None:
    assert list(env_problems("/opt/vllm/.env", Found("f", 0o600, ROOT, ROOT, "x"))) == []


@pytest.mark.parametrize("found", [NOTHING, Found("l", 0o600, ROOT, ROOT), Found("d")])
def test_an_env_that_is_no_file(found: Found) -> None:
    assert list(env_problems("/x/.env", found)) == ["/x/.env is not a regular file"]


@pytest.mark.parametrize(
    ("mode", "owner", "group", "shown"),
    [
        (0o640, ROOT, ROOT, "0640 root:root"),
        (0o604, ROOT, ROOT, "0604 root:root"),
        (0o400, ROOT, ROOT, "0400 root:root"),
        (0o600, ("vllm", "64101"), ROOT, "0600 vllm:root"),
        (0o600, ROOT, ("docker", "998"), "0600 root:docker"),
        (0o644, ("vllm", "64101"), ("docker", "998"), "0644 vllm:docker"),
    ],
)
def test_any_other_env_is_a_problem(
    mode: int, owner: tuple[str, str], group: tuple[str, str], shown: str
) -> None:
    found = Found("f", mode, owner, group, "x")
    assert list(env_problems("/x/.env", found)) == [f"/x/.env is {shown}, not 0600 root:root"]


def edge(answers: Mapping[str, int] | None = None, asked: HostSettings = SETTINGS) -> list[str]:
    def ask(path: str) -> Response:
        return Response((answers or {}).get(path, 401), {}, b"")

    return list(edge_problems(asked, ask))


def test_a_closed_edge_has_no_problems() -> None:
    assert edge() == []
    # Whether the controller's network may use it is no matter while it answers 401.
    assert edge(asked=NARROW) == []


def test_what_is_asked_without_a_key() -> None:
    paths: list[str] = []

    def ask(path: str) -> Response:
        paths.append(path)
        return Response(401, {}, b"")

    assert list(edge_problems(SETTINGS, ask)) == []
    assert paths == [
        *("/v1/models", "/qwen/v1/models", "/coder/v1/models", "/no-such-agent/v1/models"),
        *("/invocations", "/metrics", "/tokenize", "/docs", "/v1/load_lora_adapter"),
        *("/qwen/invocations", "/qwen/health"),
    ]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/models", 200),
        ("/coder/v1/models", 404),
        ("/invocations", 200),
        ("/metrics", 403),
        ("/no-such-agent/v1/models", 402),
        ("/qwen/invocations", 422),
    ],
)
def test_any_other_answer_is_a_problem(path: str, status: int) -> None:
    assert edge({path: status}) == [f"the edge answers {path} without a key with {status}, not 401"]


def test_every_path_that_is_open_is_named() -> None:
    assert len(edge({"/metrics": 200, "/docs": 200})) == 2


HINT = "; is the controller's network in edge.allow_from? The edge is verified from here"


def test_an_edge_that_refuses_this_network_says_one_thing() -> None:
    everything = dict.fromkeys(("/v1/models", "/qwen/v1/models", "/metrics"), 403)
    assert edge(everything, NARROW) == [f"the edge refuses the controller with 403{HINT}"]
    assert edge({"/metrics": 404}, NARROW) == [
        "the edge answers /metrics without a key with 404, not 401"
    ]


@pytest.mark.parametrize(("asked", "hint"), [(SETTINGS, ""), (NARROW, HINT)])
def test_an_edge_that_does_not_answer_is_asked_once(asked: HostSettings, hint: str) -> None:
    paths: list[str] = []

    def ask(path: str) -> Response:
        paths.append(path)
        raise OSError("connection refused")

    assert list(edge_problems(asked, ask)) == [
        f"the edge does not answer /v1/models: connection refused{hint}"
    ]
    assert paths == ["/v1/models"]


def test_an_agent_s_port_that_opens_is_a_problem() -> None:
    asked: set[tuple[str, int]] = set()

    def reachable(address: str, port: int) -> bool:
        asked.add((address, port))
        return port == 8002

    assert list(reachable_problems(SETTINGS, lambda address, port: False)) == []
    assert list(reachable_problems(SETTINGS, reachable)) == [
        "port 8002 of 192.0.2.11 can be reached from the controller"
    ]
    assert asked == {("192.0.2.11", 8001), ("192.0.2.11", 8002)}


def test_a_port_that_is_exposed_on_purpose_may_open() -> None:
    expose = {"networks": ["10.0.0.0/8"], "unguarded_routes": "accepted"}
    one, both = (
        settings(agents=[QWEN | {"expose": expose}, CODER]),
        settings(agents=[QWEN | {"expose": expose}]),
    )
    assert len(list(reachable_problems(one, lambda address, port: True))) == 1
    assert list(reachable_problems(both, lambda address, port: True)) == []


@pytest.mark.parametrize(
    ("source", "may"),
    [
        ("192.0.2.12", True),  # a host that asks it
        ("10.0.0.9", True),  # within what a host has said of itself
        ("192.0.2.11", True),  # the mirror itself
        ("127.0.0.1", True),
        ("192.0.2.13", False),
        (None, False),
    ],
)
def test_a_mirror_s_port_is_for_hosts_that_ask_it(source: str | None, may: bool) -> None:
    mirror = with_a_mirror()["gpu1"]
    port = mirror.mirror.port
    found = list(reachable_problems(mirror, lambda _, asked: asked == port, lambda _: source))
    wrong = [f"port {port} of 192.0.2.11 can be reached from the controller"]
    assert found == ([] if may else wrong)


@pytest.mark.parametrize("host", [with_a_mirror()["gpu1"], fleet()["gpu1"]])
def test_who_may_reach_one_port_may_not_reach_an_agent_s(host: HostSettings) -> None:
    found = reachable_problems(host, lambda _, port: port == 8001, lambda _: host.address)
    assert list(found) == ["port 8001 of 192.0.2.11 can be reached from the controller"]


GATEWAY = fleet()["gw1"]
QWENS, CODERS = GATEWAY.pools


def pools(**changed: Server | None) -> list[str]:
    """What is said where all servers do their work but these, by agent and host."""
    servers = {}
    for pool in (QWENS, CODERS):
        for one in pool.replicas:
            well = Server(pool.name, one.server, True, False, 0, "L7OK")
            if server := changed.get(f"{one.agent}_{one.host}", well):
                servers[pool.name, one.server] = server
    return list(pool_problems(GATEWAY, servers))


def server(*, alive: bool = False, drained: bool = False, check: str = "") -> Server:
    return Server("a pool", "a server", alive, drained, 0, check)


def test_one_agent_is_enough_for_a_model() -> None:
    assert pools() == []
    assert pools(qwen_gpu1=server(check="L4CON refused")) == []
    assert pools(qwen_gpu2=None) == []


def test_a_model_without_an_agent_is_named_with_why() -> None:
    assert pools(coder_gpu1=None) == [
        "no agent answers for the model 'coder-14b': coder on gpu1 is not known to HAProxy"
    ]
    assert pools(
        qwen_gpu1=server(check="L4CON refused"), qwen_gpu2=server(alive=True, drained=True)
    ) == [
        "no agent answers for the model 'qwen': qwen on gpu1 is down (L4CON refused);"
        " qwen on gpu2 is drained"
    ]


def test_each_model_without_an_agent_is_named() -> None:
    said = pools(qwen_gpu1=None, qwen_gpu2=server(), coder_gpu1=server())
    assert len(said) == 2
    assert said[1] == (
        "no agent answers for the model 'coder-14b': coder on gpu1 is down (not checked yet)"
    )
