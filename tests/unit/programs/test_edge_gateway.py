"""A gateway's edge, in a real nginx on loopback; a stand-in for HAProxy answers on unix sockets."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from tests.unit.real_gateway import RealGateway
from tests.unit.real_nginx import Answer
from tests.unit.samples import CODER, QWEN, gateway, settings
from tests.unit.vllm_words import Talk
from vllm_hosts.keys import ClientKey, HostKeys
from vllm_hosts.roles.nginx.plan import internal_map
from vllm_hosts.settings import HostSettings
from vllm_hosts.settings.fleet import Pool, Replica, made_by

ALICE, BOB = "KEY-A", "KEY-B"
KEYS = HostKeys(
    internal=SecretStr("INTERNAL-KEY"),
    clients=(
        ClientKey("alice", SecretStr(ALICE)),
        ClientKey("bob", SecretStr(BOB), agents=("coder",)),
    ),
    hf_token=None,
)
EDGE = {
    "names": ["llm.example.com"],
    "requests_per_second": 1000,
    "burst": 1000,
    "routes": ["POST /v2/embed"],
}
CHAT = "/v1/chat/completions"
OWN = f"/qwen{CHAT}"
NAMED = {"model": "qwen"}
#: What its host calls one.
RESPONSE = f"resp_{made_by('gpu1', 'qwen')}{'0' * 32}"
Edge = RealGateway


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    with RealGateway(tmp_path_factory.mktemp("gw"), gateway(edge=EDGE), KEYS) as running:
        yield running


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    """Of one pool, without counting and salts: Lua is there for balancing alone."""
    one = settings(
        name="gw1", edge=EDGE | {"count_tokens": False, "cache_isolation": "off"}
    ).model_copy(update={"pools": gateway().pools[:1]})
    with RealGateway(tmp_path_factory.mktemp("gw"), one, KEYS) as running:
        yield running


def pool(edge: Edge, name: str = "qwen") -> Any:
    return edge.agents[name]


def headers(edge: Edge, name: str = "qwen") -> dict[str, str]:
    """Of the last request that came to HAProxy, in small letters."""
    return {key.lower(): value for key, value in pool(edge, name).asked[-1][2].items()}


def chat(*texts: str, **more: object) -> dict[str, object]:
    """Turns of a conversation, the user's first."""
    roles = ("user", "assistant") * len(texts)
    messages = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]
    return NAMED | {"messages": messages} | more


def post(edge: Edge, body: object, path: str = CHAT, key: str = ALICE, **more: str) -> Answer:
    return edge.ask(path, key, "POST", json.dumps(body), **more)


def affinity(edge: Edge, body: object, path: str = CHAT, key: str = ALICE, **more: str) -> str:
    """What HAProxy goes by for this request."""
    assert post(edge, body, path, key, **more).status == 200
    return headers(edge)["x-vllm-hosts-affinity"]


@pytest.mark.parametrize(
    ("path", "name"),
    [(CHAT, "qwen"), (OWN, "qwen"), ("/coder/v1/completions", "coder"), ("/v2/embed", "qwen")],
)
def test_a_request_goes_to_its_pool_with_a_name_and_no_key(
    edge: Edge, path: str, name: str
) -> None:
    before = edge.log()
    answer = post(
        edge,
        chat("hi"),
        path,
        X_Api_Key=ALICE,
        X_Vllm_Hosts_Client="bob",
        X_Vllm_Hosts_Affinity="bob:1",
        X_Request_Id="0" * 32,
    )
    assert answer.status == 200
    method, there, _ = pool(edge, name).asked[-1]
    assert (method, f"/{name}{there}") in (("POST", path), ("POST", f"/{name}{path}"))
    sent = headers(edge, name)
    assert sent["x-vllm-hosts-client"] == "alice"
    assert "bob" not in str(sent) and "KEY" not in str(sent)
    assert not {"authorization", "x-api-key"} & set(sent)
    [entry] = [json.loads(line) for line in edge.log().removeprefix(before).splitlines()]
    assert (entry["client"], entry["agent"]) == ("alice", name)
    assert sent["x-request-id"] == entry["request_id"] != "0" * 32
    assert "gateway" not in entry


def test_no_connection_to_a_pool_is_kept(edge: Edge) -> None:
    """HAProxy's sockets change hands when it is restarted."""
    post(edge, chat("hi"))
    assert "connection" not in headers(edge) or headers(edge)["connection"] == "close"
    assert "keepalive " not in (edge.folder / "edge/vllm-hosts.conf").read_text()


def test_scopes_and_lists_are_the_gateway_s(edge: Edge) -> None:
    assert post(edge, chat("hi"), key=BOB).status == 403
    listed = json.loads(edge.ask("/v1/models", BOB).body)["data"]
    assert [one["id"] for one in listed] == ["coder-14b"]
    assert edge.ask("/coder/v1/models", BOB).status == 200
    assert pool(edge, "coder").asked[-1][1] == "/v1/models"
    assert edge.ask("/v1/models").status == 401


def test_health_is_a_live_replica_s(edge: Edge) -> None:
    assert edge.ask("/health").status == 200
    assert pool(edge).asked[-1] == ("GET", "/pulse", {"Host": "vllm"})
    assert json.loads(edge.ask("/v1/models/coder-14b", ALICE).body)["id"] == "coder-14b"
    assert pool(edge, "coder").asked[-1][1] == "/pulse"
    pool(edge).healthy = False
    try:
        assert edge.ask("/health").status == 503
        assert edge.ask("/v1/models/qwen", ALICE).status == 503
        assert edge.ask("/v1/models/coder-14b", ALICE).status == 200
    finally:
        pool(edge).healthy = True


@contextmanager
def answering(edge: Edge, status: int, **more: str) -> Iterator[None]:
    pool(edge).status, pool(edge).hostile = status, more
    try:
        yield
    finally:
        pool(edge).status, pool(edge).hostile = 200, {}


@pytest.mark.parametrize("path", [CHAT, OWN, "/qwen/v1/models", f"/qwen/v1/responses/{RESPONSE}"])
@pytest.mark.parametrize("status", [502, 503, 504])
def test_nobody_left_is_503_in_our_format(edge: Edge, path: str, status: int) -> None:
    with answering(edge, status, Retry_After="1", X_Page="HAProxy"):
        answer = post(edge, chat("hi"), path) if "chat" in path else edge.ask(path, ALICE)
    assert (answer.status, answer.headers["Retry-After"]) == (503, "10")
    assert json.loads(answer.body)["error"]["code"] == "model_not_ready"
    assert "X-Page" not in answer.headers and "by the agent" not in answer.body
    entry = json.loads(edge.log().splitlines()[-1])
    assert (entry["status"], entry["upstream_status"]) == (503, str(status))


@pytest.mark.parametrize("status", [400, 404, 422, 500])
def test_an_agent_s_own_errors_pass(edge: Edge, status: int) -> None:
    with answering(edge, status):
        answer = post(edge, chat("hi"))
    assert (answer.status, answer.body) == (status, '{"answered": "by the agent"}')


def test_without_haproxy_it_is_503(tmp_path: Path) -> None:
    with RealGateway(tmp_path, gateway(edge=EDGE), KEYS) as edge:
        for one in edge.sockets.iterdir():
            one.unlink()
        answer = post(edge, chat("hi"))
        assert (answer.status, answer.headers["Retry-After"]) == (503, "10")
        assert json.loads(answer.body)["error"]["code"] == "model_not_ready"
        assert edge.ask("/health").status == 503


def test_tokens_are_counted_here(edge: Edge) -> None:
    talk = Talk(prompt=17, choices=(("Hel", "lo"),), cached=3)
    pool(edge).speaks = talk.answer
    try:
        answer = post(edge, chat("hi", stream=True))
    finally:
        pool(edge).speaks = None
    assert answer.body.endswith("data: [DONE]\n\n")
    entry = json.loads(edge.log().splitlines()[-1])
    assert (entry["prompt_tokens"], entry["cached_tokens"]) == (17, 3)


def test_an_answer_that_breaks_off_breaks_off_for_the_client(edge: Edge) -> None:
    def speaks(_path: str, _content: bytes) -> tuple[str, Iterable[bytes]]:
        def pieces() -> Iterator[bytes]:
            yield b'data: {"x": 1}\n\n'
            raise OSError

        return "text/event-stream", pieces()

    pool(edge).speaks = speaks
    body = json.dumps(chat("hi", stream=True))
    try:
        said = edge.raw(
            f"POST {CHAT} HTTP/1.1\r\nHost: {edge.name}\r\nAuthorization: Bearer {ALICE}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n{body}".encode()
        )
    finally:
        pool(edge).speaks = None
    assert said.startswith(b"HTTP/1.1 200 ") and b'data: {"x": 1}' in said
    assert not said.endswith(b"0\r\n\r\n"), "no client may take it for whole"


def test_all_turns_of_a_conversation_have_one_affinity(edge: Edge) -> None:
    first = affinity(edge, chat("hi"))
    assert first.startswith("alice:")
    assert {
        affinity(edge, chat("hi", "hello", "and now?")),
        affinity(edge, chat("hi", "hello", "and now?", "well", "bye", stream=True)),
        affinity(edge, chat("hi"), OWN),
    } == {first}
    others = [
        affinity(edge, chat("ho")),
        affinity(edge, chat("hi!")),
        affinity(edge, chat("oh", "hello", "hi")),
    ]
    assert len({first, *others}) == 4


def test_clients_differ(edge: Edge) -> None:
    body = chat("hi") | {"model": "coder-14b"}
    found = []
    for key in (ALICE, BOB):
        post(edge, body, key=key)
        found.append(headers(edge, "coder")["x-vllm-hosts-affinity"])
    assert [one.partition(":")[0] for one in found] == ["alice", "bob"]


def test_a_session_goes_before_the_prompt(edge: Edge) -> None:
    one = affinity(edge, chat("hi"), X_Session_Id="s1")
    assert one == affinity(edge, chat("other"), X_Session_Id="s1")
    assert one == affinity(edge, {"query": "x"} | NAMED, "/v1/rerank", X_Session_Id="s1")
    assert one == affinity(edge, NAMED, "/qwen/v1/messages/count_tokens", X_Session_Id="s1")
    assert edge.ask(f"/qwen/v1/responses/{RESPONSE}", ALICE, X_Session_Id="s1").status == 200
    assert one == headers(edge)["x-vllm-hosts-affinity"]
    assert one != affinity(edge, chat("hi"), X_Session_Id="s2")
    assert "s1" not in one and len(one) == 32
    assert affinity(edge, chat("hi"), X_Session_Id="") == affinity(edge, chat("hi"))


def test_what_has_no_beginning_goes_anywhere(edge: Edge) -> None:
    found = {affinity(edge, {"query": "x", "documents": ["y"]} | NAMED, "/v1/rerank") for _ in "ab"}
    assert len(found) == 2


def test_the_same_without_counting_and_caches(plain: Edge) -> None:
    first = affinity(plain, chat("hi"))
    assert first == affinity(plain, chat("hi", "hello", "and?"), OWN)
    assert first != affinity(plain, chat("ho"))
    pool(plain).status = 503
    try:
        assert json.loads(post(plain, chat("hi")).body)["error"]["code"] == "model_not_ready"
    finally:
        pool(plain).status = 200


def test_another_header_can_name_the_session(tmp_path: Path) -> None:
    own = gateway(edge=EDGE, gateway={"session_header": "X-Chat"})
    with RealGateway(tmp_path, own, KEYS) as edge:
        one = affinity(edge, chat("hi"), X_Chat="s1")
        assert one == affinity(edge, chat("ho"), X_Chat="s1")
        assert affinity(edge, chat("hi"), X_Session_Id="s1").startswith("alice:")


def twins() -> HostSettings:
    """Two agents of one pool, as hosts call the same model by different names."""
    agents = [QWEN, CODER | {"model": QWEN["model"], "served_model_name": "qwen"}]
    replicas = tuple(
        Replica(host, name, "192.0.2.11", 8443) for host, name in (("a", "qwen"), ("b", "coder"))
    )
    found = settings(name="gw1", agents=agents, edge=EDGE)
    return found.model_copy(update={"pools": (Pool("qwen", "qwen", replicas),)})


def test_agents_of_one_pool_have_one_salt(tmp_path: Path) -> None:
    """Otherwise the turns of a conversation would have caches of their own."""
    lines = internal_map(twins(), KEYS).splitlines()
    assert len({line.split()[1] for line in lines}) == 1 and len(lines) == 2
    received: list[bytes] = []

    def speaks(_path: str, content: bytes) -> tuple[str, Iterable[bytes]]:
        received.append(content)
        return "application/json", [b"{}"]

    with RealGateway(tmp_path, twins(), KEYS) as edge:
        pool(edge).speaks = speaks
        for _ in range(4):
            assert post(edge, chat("hi")).status == 200
    assert len({json.loads(one)["cache_salt"] for one in received}) == 1
