"""What an agent has to answer before gateways send requests to it again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import SecretStr

from tests.unit.fleets import both, fleet
from vllm_hosts.errors import HostError
from vllm_hosts.facts.answered_inside import AnsweredInside
from vllm_hosts.host import probe
from vllm_hosts.host.probe import Response
from vllm_hosts.keys import ClientKey, KeyStore
from vllm_hosts.keys.places import CA_FILE
from vllm_hosts.operations.balancers import of_this_run
from vllm_hosts.operations.rotation import NoEdge
from vllm_hosts.project import rotation
from vllm_hosts.project.loaded import Project
from vllm_hosts.project.rotation import asked_inside, rotation_of
from vllm_hosts.settings import HostSettings
from vllm_hosts.settings.fleet import inner_name

LISTED = {"data": [{"id": "other"}, {"id": "qwen"}]}
#: What an agent is asked, in this order, until one answer says enough.
BODIES = {
    "/v1/completions": {"model": "qwen", "prompt": "a", "max_tokens": 1},
    "/v1/embeddings": {"model": "qwen", "input": "a"},
    "/v1/score": {"model": "qwen", "text_1": "a", "text_2": "a"},
    "/v1/models": None,
}
PATHS = list(BODIES)


class Agent:
    """An agent that answers by path, over the host's edge or from inside; others get 404."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Any]] = []
        self.how: list[dict[str, Any]] = []
        self.answers: dict[str, int | list[int] | Exception] = {}
        self.listed: bytes = json.dumps(LISTED).encode()
        self.reachable = True

    @property
    def paths(self) -> list[str]:
        return [path for path, _ in self.asked]

    def answer(self, path: str, body: bytes | str | None) -> Response:
        self.asked.append((path, json.loads(body) if body else None))
        found = self.answers.get(path, 404)
        if isinstance(found, list):
            found = found.pop(0)
        if isinstance(found, Exception):
            raise found
        return Response(found, {}, self.listed if path == "/v1/models" else b"{}")

    @contextmanager
    def visit(self, address: str, port: int, **how: Any) -> Iterator[Callable[..., Response]]:
        self.how.append({"address": address, "port": port} | how)

        def ask(path: str, **given: Any) -> Response:
            assert given.pop("method", "GET") == ("POST" if "body" in given else "GET")
            self.how.append(given["headers"])
            assert path.startswith("/qwen/v1/"), path
            return self.answer(path.removeprefix("/qwen"), given.get("body"))

        yield ask


def project(folder: Path, settings: dict[str, HostSettings], *keys: ClientKey) -> Project:
    file = folder / "inventory" / "prod.py"
    file.parent.mkdir()
    file.touch()
    made = Project(file, None, KeyStore(file))  # type: ignore[arg-type]
    host_keys = {name: SimpleNamespace(clients=keys) for name in settings}
    vars(made).update(settings=settings, keys=host_keys)
    return made


def key(value: str, *agents: str) -> ClientKey:
    return ClientKey(value, SecretStr(value), agents=agents or None)


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch) -> Agent:
    made = Agent()
    monkeypatch.setattr(probe, "visit", made.visit)
    monkeypatch.setattr(probe, "reachable", lambda address, port: made.reachable)
    monkeypatch.setattr("vllm_hosts.host.probe.time.sleep", lambda seconds: None)
    return made


Why = Callable[[], str | None]


@pytest.fixture
def outside(tmp_path: Path, agent: Agent) -> Why:
    """Asked over the edge of a host behind gateways."""
    made = project(tmp_path, fleet(), key("one"))
    return lambda: rotation_of(made, "gpu1").answers("qwen")


class Known:
    """Connections of a run, over which a machine asks itself."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, agent: Agent) -> None:
        self.agent, self.hosts, self.given = agent, [], []  # type: ignore[var-annotated]
        self.problem: Exception | None = None
        monkeypatch.setattr(rotation, "ask_host", self.ask_host)

    def at(self, name: str, do: Callable[[], Any]) -> Any:
        self.hosts.append(name)
        return do()

    def ask_host(self, fact: type, **given: Any) -> Response | OSError:
        assert fact is AnsweredInside
        self.given.append(given)
        if isinstance(self.problem, HostError):
            raise self.problem
        if isinstance(self.problem, OSError):
            return self.problem
        return self.agent.answer(given["path"], given["body"])


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch, agent: Agent) -> Known:
    return Known(monkeypatch, agent)


@pytest.fixture
def inside(tmp_path: Path, known: Known) -> Why:
    """Asked by a machine that is a gateway as well."""
    made = project(tmp_path, both())
    return lambda: rotation_of(made, "one", lambda: known).answers("qwen")  # type: ignore[arg-type, return-value]


@pytest.fixture(params=["outside", "inside"])
def why(request: pytest.FixtureRequest) -> Why:
    found: Why = request.getfixturevalue(request.param)
    return found


@pytest.mark.parametrize("number", [0, 1, 2])
@pytest.mark.parametrize("status", [200, 204, 299])
def test_one_token_is_enough_wherever_it_comes_from(
    agent: Agent, why: Why, number: int, status: int
) -> None:
    agent.answers = {**dict.fromkeys(PATHS[:number], 400), PATHS[number]: status}
    assert why() is None
    assert agent.asked == [(path, BODIES[path]) for path in PATHS[: number + 1]]


@pytest.mark.parametrize("number", [0, 1, 2])
@pytest.mark.parametrize("status", [500, 502, 599])
def test_an_agent_that_fails_gets_no_requests(
    agent: Agent, why: Why, number: int, status: int
) -> None:
    """Though it lists its model: its API may answer while the engine is dead."""
    agent.answers = {PATHS[number]: status, "/v1/models": 200}
    assert why() == f"{PATHS[number]} gives {status}"
    assert agent.paths == PATHS[: number + 1]


def test_an_agent_of_another_kind_has_its_model(agent: Agent, why: Why) -> None:
    agent.answers = {"/v1/completions": 300, "/v1/embeddings": 499, "/v1/models": 200}
    assert why() is None
    assert agent.asked == list(BODIES.items())


@pytest.mark.parametrize(
    "listed",
    [
        b"",
        b"no JSON",
        b"[]",
        b"null",
        b'"qwen"',
        b"{}",
        b'{"data": null}',
        b'{"data": "qwen"}',
        b'{"data": {"id": "qwen"}}',
        b'{"data": ["qwen", null, {}]}',
        b'{"data": [{"id": "qwen2"}]}',
        b'{"models": [{"id": "qwen"}]}',
    ],
)
def test_an_agent_with_another_model_gets_no_requests(
    agent: Agent, why: Why, listed: bytes
) -> None:
    agent.answers, agent.listed = {"/v1/models": 200}, listed
    assert why() == "/v1/models gives 200 without qwen"


@pytest.mark.parametrize("status", [201, 404, 503])
def test_a_list_that_is_refused_says_nothing(agent: Agent, why: Why, status: int) -> None:
    agent.answers = {"/v1/models": status}
    assert why() == f"/v1/models gives {status} without qwen"


# Over the host's edge.


def test_it_is_asked_as_a_client_asks(
    agent: Agent, tmp_path: Path, outside: Why, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the name and the CA that clients have: another machine does not answer for it."""
    assert outside() == "/v1/models gives 404 without qwen"
    visit, *headers = agent.how
    ca = visit.pop("ca_file")
    assert Path(ca).name == CA_FILE
    assert visit == {"address": "192.0.2.11", "port": 443, "name": "192.0.2.11", "timeout": 60.0}
    assert headers == [
        {"Authorization": "Bearer one", "Content-Type": "application/json"} for _ in PATHS
    ]


def test_a_key_that_the_edge_gets_later_is_no_reason(agent: Agent, outside: Why) -> None:
    agent.answers = {"/v1/completions": 401}
    assert outside() is None
    assert agent.paths == ["/v1/completions"]


def test_too_many_requests_are_waited_for(agent: Agent, outside: Why) -> None:
    agent.answers = {"/v1/completions": [429, 429, 500]}
    assert outside() == "/v1/completions gives 500"


@pytest.mark.parametrize(
    ("keys", "used"),
    [
        ([key("a", "coder"), key("b", "coder", "qwen"), key("c")], "b"),
        ([key("c"), key("b", "qwen")], "c"),
        ([key("a", "coder")], None),
        ([], None),
    ],
)
def test_the_key_is_one_that_the_agent_takes(
    agent: Agent, tmp_path: Path, keys: list[ClientKey], used: str | None
) -> None:
    agent.answers = {"/v1/completions": 200}
    made = project(tmp_path, fleet(), *keys)
    assert rotation_of(made, "gpu1").answers("qwen") is None
    assert [one["Authorization"] for one in agent.how[1:]] == ([f"Bearer {used}"] if used else [])


def test_an_edge_that_is_not_there_yet_is_known_from_one_that_fails(
    agent: Agent, outside: Why
) -> None:
    agent.answers = {"/v1/completions": OSError("no TLS")}
    found = outside()
    assert (found, type(found)) == ("no TLS", str)
    agent.reachable = False
    found = outside()
    assert (found, type(found)) == ("no TLS", NoEdge)


# From inside.


def test_a_machine_that_is_both_asks_itself(agent: Agent, known: Known, inside: Why) -> None:
    assert inside() == "/v1/models gives 404 without qwen"
    assert known.hosts == ["one"] * 4
    assert [(one["path"], one["body"]) for one in known.given] == [
        (path, json.dumps(body) if body else "") for path, body in BODIES.items()
    ]
    assert {(one["agent"], one["port"], one["client"]) for one in known.given} == {
        (inner_name("one", "qwen"), 8443, "controller")
    }


def test_that_it_may_not_ask_is_no_sign_of_life(agent: Agent, inside: Why) -> None:
    """Its own certificate is not one that comes later."""
    agent.answers = dict.fromkeys(PATHS, 401)
    assert inside() == "/v1/models gives 401 without qwen"


def test_a_port_that_is_not_there_yet(known: Known, inside: Why) -> None:
    for problem, kind in (
        (ConnectionRefusedError("closed"), NoEdge),
        (OSError("verify error"), str),
        (HostError("it was cut short"), str),
    ):
        known.problem = problem
        found = inside()
        assert (found, type(found)) == (str(problem), kind)


def test_what_is_asked_inside() -> None:
    assert asked_inside(both()["one"], "coder", "/v1/models") == {
        "agent": inner_name("one", "coder"),
        "port": 8443,
        "path": "/v1/models",
        "body": "",
        "client": "controller",
    }


# Who is asked about rotation at all.


def test_a_host_that_no_gateway_knows_has_nothing_to_answer(tmp_path: Path, agent: Agent) -> None:
    found = rotation_of(project(tmp_path, fleet(), key("one")), "gw1")
    assert (found.host, found.gates, found.answers("qwen")) == ("gw1", (), None)
    assert agent.how == []


def test_gateways_of_a_host(tmp_path: Path, known: Known) -> None:
    settings = fleet({"edge": {"https_port": 8444}}, gateway={"drain_timeout": 7})
    made = project(tmp_path, settings)
    found = rotation_of(made, "gpu1", lambda: known)  # type: ignore[arg-type, return-value]
    assert [(one.name, one.address, one.port) for one in found.gates] == [
        ("gw1", "192.0.2.1", 8444),
        ("gw2", "192.0.2.2", 8444),
    ]
    assert (found.host, found.timeout) == ("gpu1", 7)
    assert found.connections() is known  # type: ignore[comparison-overlap]
    assert rotation_of(made, "gpu1").connections is of_this_run
