"""What the edge's configuration does, in a real nginx on loopback."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import urllib3
from pydantic import SecretStr

from tests.http2 import flood
from tests.unit.real_nginx import RealEdge
from tests.unit.samples import CODER, QWEN, settings
from vllm_hosts.host import probe
from vllm_hosts.keys import ClientKey, HostKeys
from vllm_hosts.roles.assertions.plan import edge_problems

ALICE, BOB = "KEY-A", "KEY-B"
KEYS = HostKeys(
    internal=SecretStr("INTERNAL-KEY"),
    clients=(
        ClientKey("alice", SecretStr(ALICE)),
        ClientKey("bob", SecretStr(BOB), agents=("coder",)),
    ),
    hf_token=None,
)
PAGE = "https://app.example.com"
SETTINGS = settings(
    agents=[QWEN | {"served_model_name": "Qwen/Qwen3-8B"}, CODER],
    edge={
        "names": ["llm.example.com"],
        "requests_per_second": 1000,
        "burst": 1000,
        "cors_origins": [PAGE],
        "routes": ["POST /v2/embed"],
        # tests/unit/programs/test_edge_by_model.py has the other way.
        "by_model": False,
    },
)
#: Paths that nginx reads as an allowed one, and that are not written like it.
DISGUISED = (
    "/v1/%6dodels",
    "/v1/./models",
    "//v1/models",
    "/x/../v1/models",
    "/v1/x%2f..%2fmodels",
    "/v1/models#x",
)
UNKNOWN = ("/", "/metrics", "/nobody/v1/models", "/v1/models%0a", "/v1/responses/abc%0a", "/./401")


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealEdge]:
    with RealEdge(tmp_path_factory.mktemp("edge"), SETTINGS, KEYS) as running:
        yield running


@pytest.fixture
def narrow(tmp_path: Path) -> Iterator[RealEdge]:
    with RealEdge(tmp_path, SETTINGS, KEYS, narrow=True) as running:
        yield running


@pytest.mark.parametrize("path", ["/v1/models", "/qwen/v1/models", *DISGUISED, *UNKNOWN])
def test_without_a_key_every_path_is_the_same(edge: RealEdge, path: str) -> None:
    first, here = edge.ask("/v1/models"), edge.ask(path)
    assert first.status == 401
    assert json.loads(here.body)["error"]["code"] == "invalid_api_key"
    assert (here.status, here.body) == (first.status, first.body)
    assert here.headers | {"Date": ""} == first.headers | {"Date": ""}


def test_a_run_checks_all_that_it_refuses_over_one_connection(
    edge: RealEdge, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each TLS handshake is two round trips, and most of what the check costs here."""
    opened: list[object] = []
    connect = urllib3.connection.HTTPSConnection.connect

    def counted(connection: urllib3.connection.HTTPSConnection) -> None:
        opened.append(connection)
        connect(connection)

    monkeypatch.setattr(urllib3.connection.HTTPSConnection, "connect", counted)
    ca_file = str(edge.folder / "ca/ca.pem")
    with probe.visit("127.0.0.1", edge.port, name=edge.name, ca_file=ca_file) as ask:
        assert list(edge_problems(SETTINGS, ask)) == []
        answers = [ask("/v1/models", headers={"Authorization": f"Bearer {ALICE}"})]
        answers.append(ask("/v1/models"))
    assert [answer.status for answer in answers] == [200, 401]
    assert len(opened) == 1


@pytest.mark.parametrize("path", [*DISGUISED, *UNKNOWN])
def test_with_a_key_only_what_is_written_as_it_should_be_is_found(
    edge: RealEdge, path: str
) -> None:
    answer = edge.ask(path, ALICE)
    assert (answer.status, json.loads(answer.body)["error"]["code"]) == (404, "not_found")


def test_what_is_served(edge: RealEdge) -> None:
    for method, path in (
        ("GET", "/v1/models?x=1"),
        ("POST", "/qwen/v1/chat/completions"),
        ("POST", "/v1/audio/translations"),
        ("POST", "/v2/rerank"),
        ("POST", "/v2/embed"),
        ("GET", "/v1/responses/abc"),
        ("POST", "/v1/responses/abc/cancel"),
    ):
        body = "{}" if method == "POST" else None
        answer = edge.ask(
            path, ALICE, method, body, Origin="https://evil.example.com", X_Api_Key=ALICE
        )
        assert answer.status == 200, path
        assert "Access-Control-Allow-Origin" not in answer.headers
        asked = edge.asked[-1]
        plain = path.removeprefix("/qwen").partition("?")[0]
        assert asked[:2] == (method, plain)
        assert asked[2]["Authorization"] == f"Bearer {KEYS.internal_of('qwen').get_secret_value()}"
        assert not {"Origin", "X-Api-Key"} & set(asked[2])


#: Headers of a request -> whether they bring alice's key.
PRESENTED: dict[str, tuple[dict[str, str], bool]] = {
    "as Anthropic's clients do": ({"X-Api-Key": ALICE}, True),
    "in small letters": ({"authorization": f"bearer {ALICE}", "x-api-key": ALICE}, True),
    "in capitals": ({"Authorization": f"BEARER {ALICE}"}, True),
    "with two spaces": ({"Authorization": f"Bearer  {ALICE}"}, True),
    "an empty one beside it": ({"Authorization": "", "X-Api-Key": ALICE}, True),
    "two keys": ({"Authorization": f"Bearer {ALICE}", "X-Api-Key": BOB}, False),
    "another key first": ({"X-Api-Key": "wrong", "Authorization": f"Bearer {ALICE}"}, False),
    "a wrong one in Authorization": ({"X-Api-Key": ALICE, "Authorization": "Bearer x"}, False),
    "no key in Authorization": ({"X-Api-Key": ALICE, "Authorization": "Bearer"}, False),
    "another scheme beside it": ({"X-Api-Key": ALICE, "Authorization": "Basic YTpi"}, False),
    "another scheme": ({"Authorization": f"Basic {ALICE}"}, False),
    "the key alone": ({"Authorization": ALICE}, False),
    "a scheme in the other header": ({"X-Api-Key": f"Bearer {ALICE}"}, False),
    "the other case": ({"X-Api-Key": ALICE.lower()}, False),
    "the other case of one of two": (
        {"X-Api-Key": ALICE, "Authorization": f"Bearer {ALICE.lower()}"},
        False,
    ),
    "with more": ({"X-Api-Key": f"{ALICE} x"}, False),
    "the beginning": ({"X-Api-Key": ALICE[:-1]}, False),
    "a pattern": ({"X-Api-Key": ".*"}, False),
    "nothing": ({"X-Api-Key": ""}, False),
}


@pytest.mark.parametrize("name", PRESENTED)
def test_a_key_comes_in_one_of_two_headers(edge: RealEdge, name: str) -> None:
    headers, accepted = PRESENTED[name]
    before = len(edge.asked)
    answer = edge.ask("/v1/models", **headers)
    assert answer.status == (200 if accepted else 401)
    if not accepted:
        assert json.loads(answer.body)["error"]["code"] == "invalid_api_key"
        assert len(edge.asked) == before
        return
    sent = {header.lower(): value for header, value in edge.asked[-1][2].items()}
    assert "x-api-key" not in sent
    assert sent["authorization"] == f"Bearer {KEYS.internal_of('qwen').get_secret_value()}"
    assert ALICE not in str(sent)


def test_a_header_twice_is_no_key(edge: RealEdge) -> None:
    """nginx 1.22 takes the first of two X-Api-Key, later ones join them; either way no agent sees
    one, and two Authorization are nothing that it understands."""
    for twice in (
        f"X-Api-Key: wrong\r\nX-Api-Key: {ALICE}",
        f"Authorization: Bearer {ALICE}\r\n" * 2,
    ):
        said = edge.raw(
            f"GET /v1/models HTTP/1.1\r\nHost: {edge.name}\r\nConnection: close\r\n"
            f"{twice.strip()}\r\n\r\n".encode()
        )
        assert said.split()[1] in (b"400", b"401"), said


def test_a_client_s_scope_and_the_methods(edge: RealEdge) -> None:
    assert edge.ask("/v1/models", BOB).status == 403
    assert edge.ask("/v1/models/Qwen/Qwen3-8B", BOB).status == 403
    assert edge.ask("/coder/v1/models", BOB).status == 503, "its agent does not run here"
    assert edge.ask("/v1/models", ALICE, "POST", "{}").status == 405
    assert edge.ask("/v1/models", None, "POST", "{}").status == 401


def test_one_model_by_its_name(edge: RealEdge) -> None:
    for path in ("/v1/models/Qwen/Qwen3-8B", "/qwen/v1/models/Qwen%2FQwen3-8B"):
        answer = edge.ask(path, ALICE)
        assert answer.status == 200
        assert json.loads(answer.body)["id"] == "Qwen/Qwen3-8B"
    assert edge.ask("/v1/models/other", ALICE).status == 404


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X-Accel-Redirect", "/./model/coder"),
        ("X-Accel-Redirect", "/health"),
        ("X-Accel-Buffering", "yes"),
        ("X-Accel-Limit-Rate", "1"),
        ("Location", "https://evil.example.com/"),
        ("Refresh", "0; url=https://evil.example.com/"),
        ("Alt-Svc", 'h2="evil.example.com:443"'),
        ("Set-Cookie", "a=b"),
    ],
)
@pytest.mark.parametrize("status", [200, 307])
def test_an_agent_steers_neither_nginx_nor_clients(
    edge: RealEdge, name: str, value: str, status: int
) -> None:
    edge.agent.hostile, edge.agent.status = {name: value}, status  # type: ignore[attr-defined]
    try:
        answer = edge.ask("/v1/chat/completions", ALICE, "POST", "{}")
    finally:
        edge.agent.hostile, edge.agent.status = {}, 200  # type: ignore[attr-defined]
    assert (answer.status, answer.body) == (status, '{"answered": "by the agent"}')
    assert name not in answer.headers


def test_an_agent_s_answer_is_never_written_to_disk(edge: RealEdge) -> None:
    text = (edge.folder / "edge/vllm-hosts.conf").read_text()
    assert "proxy_buffering off;" in text and "proxy_max_temp_file_size 0;" in text


def test_plain_http_speaks_json_too(edge: RealEdge) -> None:
    for request in (b"GET / HTTP/9.1\r\n\r\n", b"x\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", edge.http_port), timeout=10) as plain:
            plain.sendall(request)
            said = b"".join(iter(lambda: plain.recv(65536), b""))
        assert b"application/json" in said and b"<html" not in said, said


def test_health_is_up_or_down_and_nothing_else(edge: RealEdge) -> None:
    before = edge.log()
    up = edge.ask("/health")
    assert (up.status, json.loads(up.body)) == (200, {"status": "up"})
    assert edge.ask("/health", method="HEAD").status == 200
    assert edge.asked[-1] == ("GET", "/health", {"Host": "vllm"})
    assert "X-Agent" not in up.headers
    edge.agent.healthy = False  # type: ignore[attr-defined]
    try:
        down = edge.ask("/health")
        model = edge.ask("/v1/models/Qwen/Qwen3-8B", ALICE)
    finally:
        edge.agent.healthy = True  # type: ignore[attr-defined]
    assert (down.status, json.loads(down.body)) == (503, {"status": "down"})
    assert model.status == 503
    log = edge.log().removeprefix(before)
    assert '"path":"/health"' not in log and log.count("\n") == 1
    for path, method in (("/%68ealth", "GET"), ("/health", "POST"), ("/qwen/health", "GET")):
        assert edge.ask(path, method=method).status == 401
        assert edge.ask(path, ALICE, method).status in (404, 405)


def test_web_pages_of_the_settings_only(edge: RealEdge) -> None:
    for path in ("/v1/models", "/qwen/v1/chat/completions", "/nobody/v1/models"):
        asked = edge.ask(path, method="OPTIONS", Origin=PAGE)
        assert asked.status == 204, path
        assert asked.headers["Access-Control-Allow-Origin"] == PAGE
        headers = asked.headers["Access-Control-Allow-Headers"].split(", ")
        assert {"Authorization", "Content-Type", "X-Api-Key", "Anthropic-Version"} <= set(headers)
        # What openai's client for JavaScript sends by itself, also where it streams.
        assert {"X-Stainless-OS", "X-Stainless-Timeout", "X-Stainless-Helper-Method"} <= {*headers}
    assert edge.ask("/metrics", method="OPTIONS", Origin=PAGE).status == 401
    assert edge.ask("/v1/models", method="OPTIONS", Origin=f"{PAGE}.evil.com").status == 401
    assert edge.ask("/v1/models", method="OPTIONS").status == 401
    for key, status in ((ALICE, 200), (None, 401)):
        answer = edge.ask("/v1/models", key, Origin=PAGE)
        assert (answer.status, answer.headers["Access-Control-Allow-Origin"]) == (status, PAGE)


#: Requests that nginx itself refuses, before it knows of any key.
BROKEN = {
    "no request": b"GARBAGE\r\n\r\n",
    "another version": b"GET / HTTP/2.0\r\nHost: llm.example.com\r\n\r\n",
    "an unknown coding": b"POST /v1/models HTTP/1.1\r\nHost: llm.example.com\r\n"
    b"Transfer-Encoding: x\r\n\r\n",
    "a large header": b"GET / HTTP/1.1\r\nHost: llm.example.com\r\nX: "
    + b"x" * 40000
    + b"\r\n\r\n",
    "a long address": b"GET /" + b"x" * 40000 + b" HTTP/1.1\r\n\r\n",
    "a large body": b"GET / HTTP/1.1\r\nHost: llm.example.com\r\n"
    b"Content-Length: 99999999999\r\n\r\n",
    "TRACE": b"TRACE / HTTP/1.1\r\nHost: llm.example.com\r\nConnection: close\r\n\r\n",
}


@pytest.mark.parametrize("name", BROKEN)
def test_nginx_s_own_refusals_are_json_and_limited(narrow: RealEdge, name: str) -> None:
    answers = [narrow.raw(BROKEN[name], refused=True) for _ in range(8)]
    statuses = [answer.split()[1].decode() for answer in answers]
    assert set(statuses[:5]) <= {"400", "405", "413"}, statuses
    assert set(statuses[5:]) == {"429"}, statuses
    for answer in answers:
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["type"]


@pytest.mark.parametrize(
    ("key", "path", "name", "usual"),
    [
        (None, "/v1/models", None, 401),
        (ALICE, "/metrics", None, 404),
        (None, "/v1/models", "other.example.com", 404),
        (None, "/health", None, 200),
    ],
)
def test_strangers_are_limited(
    narrow: RealEdge, key: str | None, path: str, name: str | None, usual: int
) -> None:
    answers = [narrow.ask(path, key, server_name=name) for _ in range(8)]
    assert [answer.status for answer in answers] == [usual] * 5 + [429] * 3
    assert json.loads(answers[-1].body)["error"]["code"] == "rate_limit_exceeded"
    assert answers[-1].headers["Retry-After"] == "1"
    assert narrow.ask("/v1/models", ALICE).status == 200, "and clients are not"


def test_no_line_of_the_log_grows_with_what_was_sent(narrow: RealEdge) -> None:
    key = "Wq3vLmarker0aBcD_marker-9xYz"
    sent = (
        f"GET /v1/{key}?api_key={key} HTTP/1.1\r\nHost: llm.example.com\r\nUser-Agent: {key}\r\n"
        f"Authorization: Bearer {key}\r\nX-Api-Key: {key}\r\nReferer: {key}\r\n\r\n"
        f"{key.upper().replace('0', 'O').replace('9', 'N')} /{'a/' * 3000} HTTP/1.1\r\n"
        f"Host: llm.example.com\r\nConnection: close\r\n\r\n"
    ).encode()
    for _ in range(6):
        narrow.raw(sent)
    for name in BROKEN:
        narrow.raw(BROKEN[name].replace(b" /", f" /{key}".encode(), 1), refused=True)
    narrow.ask(f"/v1/responses/{key}", ALICE)
    narrow.ask(f"/{key}", ALICE)
    text = narrow.log()
    assert text.count("\n") >= 6
    assert key not in text and "marker" not in text.lower()
    for line in text.splitlines():
        assert len(line) < 420
        assert set(json.loads(line)) >= {"time", "client", "agent", "status", "limit", "address"}
    assert '"path":"/v1/responses/ID"' in text
    assert '"method":"other"' in text
    assert not (narrow.folder / "main.log").read_text()


def test_a_flood_of_refusals_leaves_few_lines(tmp_path: Path) -> None:
    with RealEdge(tmp_path, SETTINGS, KEYS) as edge:
        answers = [
            flood("127.0.0.1", edge.port, edge.name, "/" + "a" * 100, 750)[1] for _ in range(2)
        ]
        assert min(answers) > 500, "the flood did not arrive"
        assert len(edge.log()) < 80_000
        assert '"status":429' in edge.log() or edge.log().count("\n") < 200
