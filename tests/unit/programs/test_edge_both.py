"""One nginx that is a gateway's and a GPU host's, with a real HAProxy, beside another host."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from tests.unit.programs.test_edge_pulse import Host
from tests.unit.programs.test_edge_whole_way import ALICE, CHAT, EDGE, Balancer, makes_all
from tests.unit.real_nginx import _free_ports
from tests.unit.samples import CODER, GATEWAYS, QWEN, behind, gateway
from vllm_hosts.facts.answered_inside import AnsweredInside
from vllm_hosts.facts.base import END
from vllm_hosts.host import inside, paths
from vllm_hosts.host.nginx import INTERNAL_MAP
from vllm_hosts.host.probe import Response
from vllm_hosts.keys import ClientKey
from vllm_hosts.keys.pki import LocalCa, utc_now
from vllm_hosts.settings import HostSettings
from vllm_hosts.settings.fleet import Pool, Replica, inner_name, made_by

#: What hosts know the machine by.
NAME = GATEWAYS[0].name
BODY = '{"model": "qwen", "prompt": "a", "max_tokens": 1}'


class Both(Host):
    """A machine that is both. ``run``: where HAProxy has its sockets."""

    run: Path

    def __init__(self, folder: Path, settings: HostSettings) -> None:
        super().__init__(folder, settings, pace=1)
        clients = (ClientKey("alice", SecretStr(ALICE)),)
        self.keys = replace(self.keys, clients=clients, front=SecretStr("FLEET-KEY"))

    def serves(self, pools: tuple[Pool, ...], run: Path) -> None:
        """As a gateway it has these pools, the second of which is not its own."""
        self.run = run
        front = gateway(name=NAME, agents=[QWEN, CODER]).model_copy(
            update={"pools": pools, "edge": self.settings.edge}
        )
        self.settings = self.settings.model_copy(update={"front": front})

    def _moved(self, text: str) -> str:
        return super()._moved(text).replace(paths.BALANCER_RUN, str(self.run))

    def lines(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """The access log: what clients sent, and what gateways did."""
        found = self.entries()
        return (
            [one for one in found if "gateway" not in one],
            [one for one in found if "gateway" in one],
        )


class Way:
    """The machine, another host, and HAProxy of the machine."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        for name in ("one", "two", "haproxy"):
            (folder / name).mkdir()
        self.one = Both(folder / "one", behind(name=NAME, agents=[QWEN], edge=EDGE))
        agents = [QWEN, CODER | {"gpus": []}]
        self.two = Host(folder / "two", behind(name="two", agents=agents, edge=EDGE), pace=1)
        self.two.ca = self.one.ca
        qwen = tuple(
            Replica(host.settings.name, "qwen", "127.0.0.1", host.inner_port)
            for host in (self.one, self.two)
        )
        coder = Replica("two", "coder", "127.0.0.1", self.two.inner_port)
        pools = (Pool("qwen", "qwen", qwen), Pool("coder", "coder-14b", (coder,)))
        settings = gateway(agents=[QWEN, CODER], edge=EDGE).model_copy(update={"pools": pools})
        self.balancer = Balancer(folder / "haproxy", settings, hurried=False)
        self.balancer.hosts = [self.one, self.two]
        stack.enter_context(self.balancer)
        self.one.serves(pools, self.balancer.run)
        for host in (self.one, self.two):
            stack.enter_context(host)
            for engine in host.engines:
                makes(host, engine)

    def until(self, path: str, status: int) -> None:
        began = time.monotonic()
        while self.one.ask(path, ALICE).status != status:
            assert time.monotonic() - began < 20, self.one.log()[-2000:]
            time.sleep(0.3)


def makes(host: Host, engine: Any) -> None:
    first, host.engine = host.engine, engine
    makes_all(host)
    host.engine = first


@pytest.fixture(scope="module")
def way(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Way]:
    with ExitStack() as stack:
        made = Way(stack, tmp_path_factory.mktemp("both"))
        for model in ("qwen", "coder-14b"):
            made.until(f"/v1/models/{model}", 200)
        yield made


def chat(way: Way, text: str, model: str = "qwen") -> int:
    body = {"model": model, "messages": [{"role": "user", "content": text}]}
    return way.one.ask(CHAT, ALICE, "POST", json.dumps(body)).status


def heads(host: Host) -> list[str]:
    return [head for head in host.engine.heads if head.startswith(f"POST {CHAT}")]


def test_clients_get_the_fleet_and_requests_go_to_either_host(way: Way) -> None:
    listed = json.loads(way.one.ask("/v1/models", ALICE).body)["data"]
    assert [one["id"] for one in listed] == ["qwen", "coder-14b"]
    before = len(heads(way.one)), len(heads(way.two))
    for number in range(24):
        assert chat(way, f"conversation {number}") == 200
    assert len(heads(way.one)) > before[0]
    assert len(heads(way.two)) > before[1]
    assert chat(way, "of the other", "coder-14b") == 200
    assert way.one.ask("/coder/v1/models", ALICE).status == 200


def test_a_request_that_stays_is_logged_as_a_client_s_and_as_a_gateway_s(way: Way) -> None:
    seen = len(heads(way.one))
    for number in range(40):
        assert chat(way, f"stays {number}") == 200
        if len(heads(way.one)) > seen:
            break
    clients, gateways = way.one.lines()
    assert (clients[-1]["client"], clients[-1]["completion_tokens"]) == ("alice", 2)
    assert (gateways[-1]["client"], gateways[-1]["gateway"]) == ("alice", NAME)
    assert gateways[-1]["completion_tokens"] is None
    assert clients[-1]["request_id"] == gateways[-1]["request_id"]
    # The agent gets its own key, and never hears of clients or gateways.
    key = way.one.keys.internal_of("qwen").get_secret_value()
    head = heads(way.one)[-1]
    assert f"Authorization: Bearer {key}\r\n" in head
    assert ALICE not in head
    assert "x-vllm" not in head.lower()


def test_what_clients_say_of_gateways_is_not_believed(way: Way) -> None:
    for number in range(8):
        body = json.dumps(
            {"model": "qwen", "messages": [{"role": "user", "content": f"f{number}"}]}
        )
        sent = {"X_Vllm_Hosts_Client": "mallory", "X_Vllm_Hosts_Affinity": "mine"}
        assert way.one.ask(CHAT, ALICE, "POST", body, **sent).status == 200
    assert "mallory" not in way.one.log() + way.two.log()
    assert way.one.ask("/pulse", ALICE).status == 404
    # The key of agents opens nothing, nor does a name of an agent among gateways.
    own = way.one.keys.internal_of("qwen").get_secret_value()
    assert way.one.ask("/v1/models", own).status == 401
    name = inner_name(NAME, "qwen")
    assert way.one.ask("/v1/models", ALICE, server_name=name).status == 404


def test_each_side_of_one_nginx_keeps_to_itself(way: Way) -> None:
    """The port for gateways serves the machine's own agents, and no other of the fleet."""
    assert way.one.through("/v1/models").status in (200, 404)
    assert way.one.pulse() == 200
    with way.one.gateway("coder") as connection, pytest.raises(Exception, match="verify|match"):
        connection.request("GET", "/pulse")
    assert way.one.through("/v1/models", certificate=Path(), agent=None).status == 400
    text = (way.one.folder / "edge" / INTERNAL_MAP.rpartition("/")[2]).read_text()
    assert re.findall(r"^(\w+) ", text, re.MULTILINE) == [
        "vllm_hosts_front_coder",
        "vllm_hosts_front_qwen",
        "vllm_hosts_qwen",
    ]


def test_its_own_agent_is_frozen_and_the_other_answers(way: Way) -> None:
    way.one.engine.freeze()
    began = time.monotonic()
    try:
        while way.balancer.servers()[0].alive:
            assert time.monotonic() - began < 10
            time.sleep(0.2)
        before = len(heads(way.two))
        assert {chat(way, f"frozen {number}") for number in range(6)} == {200}
        assert len(heads(way.two)) == before + 6
        assert way.one.ask("/health").status == 200
    finally:
        makes_all(way.one)
    way.balancer.until(
        lambda: all(one.alive for one in way.balancer.servers()), "it does not come back"
    )


# What the machine asks itself.


def asked(way: Way, path: str = "/v1/completions", body: str = BODY, **changes: Any) -> Any:
    """What this machine's shell makes of the question."""
    given: dict[str, Any] = {
        "agent": inner_name(NAME, "qwen"),
        "port": way.one.inner_port,
        "path": path,
        "body": body,
        "client": "controller",
        "ca": f"{way.one.folder}/gateway/ca.pem",
        "own": str(way.one.client(NAME)),
    } | changes
    done = subprocess.run(
        ["sh", "-c", inside.script(**given)], capture_output=True, text=True, check=True
    )
    return AnsweredInside().process([*done.stdout.splitlines(), END])


def test_it_asks_its_own_agent_as_any_gateway_does(way: Way) -> None:
    found = asked(way)
    assert isinstance(found, Response), found
    assert found.status == 200
    assert b"usage" in found.body
    line = way.one.lines()[1][-1]
    assert (line["client"], line["gateway"], line["path"]) == (
        "controller",
        NAME,
        "/v1/completions",
    )
    # Only vLLM's own paths that clients may use.
    assert asked(way, "/metrics", "").status == 404
    assert asked(way, "/v1/completions", "").status == 405


def test_nobody_there_is_known_from_one_that_does_not_answer(way: Way, tmp_path: Path) -> None:
    [free] = _free_ports(1)
    for said in (asked(way, port=free), asked(way, own=str(tmp_path / "absent.pem"))):
        assert isinstance(said, ConnectionRefusedError)
    other = tmp_path / "ca.pem"
    other.write_bytes(LocalCa.create("other", utc_now()).certificate_pem)
    said = asked(way, ca=str(other))
    assert isinstance(said, OSError)
    assert not isinstance(said, ConnectionRefusedError)
    assert "verif" in str(said)
    # Another host's agent does not answer in the place of its own.
    said = asked(way, port=way.two.inner_port)
    assert isinstance(said, OSError), said


def test_responses_are_found_at_the_host_that_made_them(way: Way) -> None:
    body = json.dumps({"model": "qwen", "input": "x", "previous_response_id": None})
    assert way.one.ask("/v1/responses", ALICE, "POST", body).status == 200
    for host, other in ((way.one, way.two), (way.two, way.one)):
        name = f"resp_{made_by(host.settings.name, 'qwen')}{'0' * 32}"
        before = len(other.engine.heads)
        for _ in range(3):
            way.one.ask(f"/v1/responses/{name}", ALICE)
            assert any(f" /v1/responses/{name} " in head for head in host.engine.heads)
        assert not any(name in head for head in other.engine.heads[before:])
