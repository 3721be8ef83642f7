"""An edge that chooses the agent by the request's model, in a real nginx with Lua on loopback."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from tests.unit.real_nginx import Answer, RealEdge
from tests.unit.samples import CODER, QWEN, settings
from vllm_hosts.keys import ClientKey, HostKeys

ALICE, BOB, CAROL = "KEY-A", "KEY-B", "KEY-C"
KEYS = HostKeys(
    internal=SecretStr("INTERNAL-KEY"),
    clients=(
        ClientKey("alice", SecretStr(ALICE)),
        ClientKey("bob", SecretStr(BOB), agents=("coder", "twin-2")),
        ClientKey("carol", SecretStr(CAROL), agents=()),
    ),
    hf_token=None,
)
SPEECH = {"name": "speech", "model": "openai/whisper", "port": 8003, "gpus": []}
TWIN = {"model": "org/twin", "served_model_name": "org/twin", "gpus": []}
SETTINGS = settings(
    agents=[
        QWEN | {"served_model_name": "Qwen/Qwen3-8B", "extra_args": ["--lora-modules", "sql=/x"]},
        CODER,
        SPEECH,
        TWIN | {"name": "twin-1", "port": 8004},
        TWIN | {"name": "twin-2", "port": 8005},
    ],
    edge={
        "names": ["llm.example.com"],
        "requests_per_second": 1000,
        "burst": 1000,
        "max_body_size": "33m",
        # tests/unit/programs/test_edge_caches.py has the other way.
        "cache_isolation": "off",
        "cors_origins": ["https://app.example.com"],
        "routes": ["POST /v2/embed", "GET /v1/extra"],
    },
)
CHAT = "/v1/chat/completions"
MB = 1 << 20


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealEdge]:
    with RealEdge(tmp_path_factory.mktemp("edge"), SETTINGS, KEYS, all_run=True) as running:
        yield running


def named(model: object, **more: object) -> str:
    """As OpenAI's client writes it: the model behind the messages."""
    return json.dumps({"messages": [{"role": "user", "content": "hi"}], "model": model} | more)


def counts(edge: RealEdge) -> dict[str, int]:
    return {name: len(agent.asked) for name, agent in edge.agents.items()}  # type: ignore[attr-defined]


def post(
    edge: RealEdge, body: str | bytes, key: str = ALICE, path: str = CHAT, **headers: str
) -> tuple[Answer, list[str]]:
    """The answer, and the agents that were asked."""
    before = counts(edge)
    answer = edge.ask(path, key, "POST", body, **headers)
    after = counts(edge)
    return answer, [name for name in after for _ in range(after[name] - before[name])]


@pytest.mark.parametrize(
    ("model", "agent"),
    [("Qwen/Qwen3-8B", "qwen"), ("sql", "qwen"), ("coder-14b", "coder"), ("speech", "speech")],
)
@pytest.mark.parametrize(
    "path", [CHAT, "/v1/embeddings", "/v2/rerank", "/v2/embed", "/v1/messages/count_tokens"]
)
def test_the_body_s_model_is_the_way(edge: RealEdge, model: str, agent: str, path: str) -> None:
    body = named(model)
    answer, asked = post(edge, body, path=path)
    assert (answer.status, asked) == (200, [agent])
    server: Any = edge.agents[agent]
    method, there, headers = server.asked[-1]
    assert (method, there) == ("POST", path)
    assert headers["Authorization"] == f"Bearer {KEYS.internal_of(agent).get_secret_value()}"
    assert headers["Content-Length"] == str(len(body))
    assert server.bodies[-1] == hashlib.sha256(body.encode()).hexdigest()
    entry = json.loads(edge.log().splitlines()[-1])
    assert (entry["agent"], entry["path"], entry["client"]) == (agent, path, "alice")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (named("another"), 404, "model_not_found"),
        (named("qwen"), 404, "model_not_found"),
        (named("QWEN/qwen3-8b"), 404, "model_not_found"),
        (named(7), 404, "model_not_found"),
        (named("x" * 3000), 404, "model_not_found"),
        (named('"\\$uri\r\n'), 404, "model_not_found"),
        (named(""), 400, "model_missing"),
        ('{"messages": []}', 400, "model_missing"),
        ("{}", 400, "model_missing"),
        ("", 400, "invalid_body"),
        ("model=coder-14b", 400, "invalid_body"),
        ('["coder-14b"]', 400, "invalid_body"),
        (named("coder-14b")[:-1], 400, "invalid_body"),
        (named("coder-14b").encode("utf-16"), 400, "invalid_body"),
        (b'{"model": "coder-14b", "x": "\xff"}', 400, "invalid_body"),
    ],
)
def test_a_body_that_names_no_agent_s_model_goes_nowhere(
    edge: RealEdge, body: str | bytes, status: int, code: str
) -> None:
    for key in (ALICE, CAROL):
        answer, asked = post(edge, body, key)
        assert (answer.status, asked) == (status, [])
        error = json.loads(answer.body)["error"]
        assert (error["code"], error["param"]) == (code, "model")
        assert error["message"] and error["type"] == "invalid_request_error"


def test_a_key_reaches_by_name_what_it_may_use(edge: RealEdge) -> None:
    assert post(edge, named("coder-14b"), BOB)[1] == ["coder"]
    for model, key in (
        ("Qwen/Qwen3-8B", BOB),
        ("sql", BOB),
        ("coder-14b", CAROL),
        ("org/twin", CAROL),
    ):
        answer, asked = post(edge, named(model), key)
        assert (answer.status, asked) == (403, [])
        assert json.loads(answer.body)["error"]["code"] == "forbidden"
    # The last of two names counts, and it is what the agent reads as well.
    assert post(edge, '{"model": "coder-14b", "model": "speech"}', BOB)[0].status == 403


def test_agents_of_one_name_take_turns(edge: RealEdge) -> None:
    asked = [post(edge, named("org/twin"))[1] for _ in range(6)]
    assert sorted(name for names in asked for name in names) == ["twin-1"] * 3 + ["twin-2"] * 3
    assert [post(edge, named("org/twin"), BOB)[1] for _ in range(3)] == [["twin-2"]] * 3


def test_the_list_has_what_this_key_may_use(edge: RealEdge) -> None:
    everything = ["Qwen/Qwen3-8B", "sql", "coder-14b", "speech", "org/twin"]
    for key, models in ((ALICE, everything), (BOB, ["coder-14b", "org/twin"]), (CAROL, [])):
        answer = edge.ask("/v1/models?limit=1", key)
        assert answer.status == 200
        found = json.loads(answer.body)
        assert found["object"] == "list"
        assert [model["id"] for model in found["data"]] == models
        assert all(model["object"] == "model" for model in found["data"])
        assert answer.headers["Content-Type"] == "application/json"
        assert "Strict-Transport-Security" in answer.headers


def test_one_model_by_its_name(edge: RealEdge) -> None:
    for key, name, status in (
        (ALICE, "Qwen/Qwen3-8B", 200),
        (ALICE, "Qwen%2FQwen3-8B", 200),
        (ALICE, "coder-14b", 200),
        (ALICE, "org/twin", 200),
        (BOB, "org/twin", 200),
        (BOB, "coder-14b", 200),
        (BOB, "Qwen/Qwen3-8B", 403),
        (CAROL, "org/twin", 403),
        (ALICE, "another", 404),
        (ALICE, "qwen", 404),
    ):
        answer = edge.ask(f"/v1/models/{name}", key)
        assert answer.status == status, name
        if status == 200:
            assert json.loads(answer.body)["id"] == name.replace("%2F", "/")
    coder: Any = edge.agents["coder"]
    coder.healthy = False
    try:
        assert edge.ask("/v1/models/coder-14b", ALICE).status == 503
        assert edge.ask("/v1/models/speech", ALICE).status == 200
    finally:
        coder.healthy = True


def test_each_agent_keeps_its_own_path(edge: RealEdge) -> None:
    before = counts(edge)
    # It is asked as it is: nobody looks into the body.
    assert edge.ask(f"/coder{CHAT}", ALICE, "POST", "{}").status == 200
    assert edge.ask("/coder/v1/models", ALICE).status == 200
    assert edge.ask("/coder/v1/models/coder-14b", BOB).status == 200
    assert edge.ask(f"/qwen{CHAT}", BOB, "POST", named("coder-14b")).status == 403
    assert counts(edge)["coder"] - before["coder"] == 3, "two requests, and a look at its health"


def test_what_has_no_body_is_the_first_agent_s(edge: RealEdge) -> None:
    for method, path in (
        ("GET", "/v1/extra"),
        ("GET", "/v1/responses/abc"),
        ("POST", "/v1/responses/abc/cancel"),
    ):
        before = counts(edge)
        assert edge.ask(path, ALICE, method).status == 200
        assert counts(edge)["qwen"] == before["qwen"] + 1


@pytest.mark.parametrize(
    "path", [CHAT, "/v1/models", "/v1/models/org/twin", "/./by-model", "/./named", "/./models"]
)
def test_the_walls_stand_before_any_of_it(edge: RealEdge, path: str) -> None:
    nobody = edge.ask("/nobody/v1/models")
    for method in ("GET", "POST", "PUT"):
        answer = edge.ask(path, None, method, named("coder-14b"))
        assert (answer.status, answer.body) == (401, nobody.body)
    for disguised in (path.replace("v1", "%761"), f"/{path}", f"/x/..{path}", f"{path}%0a"):
        assert edge.ask(disguised, ALICE, "POST", named("coder-14b")).status == 404, disguised
    wrong = {CHAT: ("GET", "PUT"), "/v1/models": ("POST",), "/v1/models/org/twin": ("POST",)}
    for method in wrong.get(path, ()):
        assert edge.ask(path, ALICE, method, named("coder-14b")).status == 405
    if path.startswith("/./"):
        assert edge.ask(path, ALICE, "POST", named("coder-14b")).status == 404


def test_no_client_s_key_and_no_query_goes_on(edge: RealEdge) -> None:
    answer, asked = post(
        edge, named("speech"), path=f"{CHAT}?api_key=x", X_Api_Key=ALICE, Cookie="a=b"
    )
    assert (answer.status, asked) == (200, ["speech"])
    server: Any = edge.agents["speech"]
    _, path, headers = server.asked[-1]
    assert path == CHAT
    assert ALICE not in str(headers) and "Cookie" not in headers
    assert "X-Agent" in answer.headers


def test_neither_prompts_nor_names_are_logged(edge: RealEdge) -> None:
    marker = "Wq3vLmarker0aBcD"
    for body in (
        named("speech", prompt=marker),
        named(marker),
        marker,
        '{"a":"' + "x" * 300_000 + marker,
    ):
        post(edge, body)
    edge.ask(f"/v1/models/{marker}", ALICE)
    assert "marker" not in edge.log()
    assert not (edge.folder / "main.log").read_text()


def test_web_pages_get_these_answers_too(edge: RealEdge) -> None:
    page = "https://app.example.com"
    for answer in (
        edge.ask("/v1/models", ALICE, Origin=page),
        post(edge, named("another"), Origin=page)[0],
        post(edge, named("speech"), Origin=page)[0],
    ):
        assert answer.headers["Access-Control-Allow-Origin"] == page
    assert edge.ask(CHAT, method="OPTIONS", Origin=page).status == 204


def form(model: str, size: int, *, first: bool = False) -> tuple[bytes, str]:
    """A transcription's request, with a file of so many bytes before or behind the model."""
    field = f'--bOuNd\r\nContent-Disposition: form-data; name="model"\r\n\r\n{model}\r\n'.encode()
    file = (
        b'--bOuNd\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n'
        b"Content-Type: audio/wav\r\n\r\n" + os.urandom(size) + b"\r\n"
    )
    parts = field + file if first else file + field
    return parts + b"--bOuNd--\r\n", "multipart/form-data; boundary=bOuNd"


@pytest.mark.parametrize("size", [10, 200_000, 20 * MB])
@pytest.mark.parametrize("first", [True, False])
def test_a_form_names_its_model_in_a_field(edge: RealEdge, size: int, first: bool) -> None:
    body, kind = form("speech", size, first=first)
    answer, asked = post(edge, body, path="/v1/audio/transcriptions", Content_Type=kind)
    assert (answer.status, asked) == (200, ["speech"])
    server: Any = edge.agents["speech"]
    assert server.bodies[-1] == hashlib.sha256(body).hexdigest()
    assert server.asked[-1][2]["Content-Type"] == kind


def test_a_form_that_names_none(edge: RealEdge) -> None:
    body, kind = form("speech", 100)
    for changed, type_, code in (
        (body.replace(b"speech", b"another"), kind, "model_not_found"),
        (body.replace(b'"model"', b'"other"'), kind, "model_missing"),
        (body, "multipart/form-data", "invalid_body"),
        (body, "application/json", "invalid_body"),
        (body[:-20], kind, "invalid_body"),
        (named("speech").encode(), kind, "invalid_body"),
    ):
        answer, asked = post(edge, changed, path="/v1/audio/translations", Content_Type=type_)
        assert asked == []
        assert json.loads(answer.body)["error"]["code"] == code
    assert post(edge, body, BOB, "/v1/audio/transcriptions", Content_Type=kind)[0].status == 403


@pytest.mark.parametrize("size", [127_000, 130_000, 300_000, 5 * MB, 32 * MB])
def test_a_body_of_any_size_goes_on_unchanged(edge: RealEdge, size: int) -> None:
    body = named("coder-14b", prompt="x" * size)
    assert post(edge, body)[1] == ["coder"]
    server: Any = edge.agents["coder"]
    assert server.bodies[-1] == hashlib.sha256(body.encode()).hexdigest()


def test_a_body_in_chunks(edge: RealEdge) -> None:
    body = named("coder-14b", prompt="x" * 200_000).encode()
    chunks = b"".join(
        f"{len(piece):x}\r\n".encode() + piece + b"\r\n"
        for piece in (body[at : at + 50_000] for at in range(0, len(body), 50_000))
    )
    head = (
        f"POST {CHAT} HTTP/1.1\r\nHost: {edge.name}\r\nAuthorization: Bearer {ALICE}\r\n"
        "Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    )
    assert edge.raw(head.encode() + chunks + b"0\r\n\r\n").split()[1] == b"200"
    server: Any = edge.agents["coder"]
    assert server.bodies[-1] == hashlib.sha256(body).hexdigest()


def test_a_body_that_is_too_large_is_413(edge: RealEdge) -> None:
    answer, asked = post(edge, named("coder-14b", prompt="x" * (34 * MB)))
    assert (answer.status, asked) == (413, [])
    assert json.loads(answer.body)["error"]["code"] == "request_too_large"


def test_an_agent_that_is_down_is_503(tmp_path: Path) -> None:
    with RealEdge(tmp_path, SETTINGS, KEYS) as edge:
        assert post(edge, named("Qwen/Qwen3-8B"))[0].status == 200
        answer, _ = post(edge, named("coder-14b"))
        assert (answer.status, json.loads(answer.body)["error"]["code"]) == (503, "model_not_ready")


def test_requests_of_a_client_are_limited(tmp_path: Path) -> None:
    limits = SETTINGS.edge.model_copy(update={"requests_per_second": 1, "burst": 3})
    with RealEdge(tmp_path, SETTINGS.model_copy(update={"edge": limits}), KEYS) as edge:
        for path, key, body in (
            ("/v1/models", ALICE, None),
            (CHAT, BOB, named("another")),
            (CHAT, CAROL, "no JSON"),
        ):
            method = "POST" if body else "GET"
            statuses = [edge.ask(path, key, method, body).status for _ in range(8)]
            assert statuses.count(429) >= 3 and 429 not in statuses[:4], statuses


def test_a_model_by_its_name_is_counted_also_where_it_is_refused(tmp_path: Path) -> None:
    with RealEdge(tmp_path, SETTINGS, KEYS, narrow=True) as edge:
        statuses = [edge.ask("/v1/models/org/twin", CAROL).status for _ in range(8)]
        assert statuses[0] == 403 and statuses[-1] == 429, statuses


def test_a_worker_holds_others_up_for_no_body(edge: RealEdge) -> None:
    """Ten large bodies at the same time: others are answered meanwhile, and memory stays small."""
    worker = int(
        Path(f"/proc/{edge.process.pid}/task/{edge.process.pid}/children").read_text().split()[0]
    )
    body = named("coder-14b", prompt=list(range(10_000)) * 60).encode()
    assert len(body) > 3 * MB
    for _ in range(3):
        post(edge, named("speech"))
    before = _peak(worker)
    waits = []
    with ThreadPoolExecutor(10) as pool:
        running = [pool.submit(edge.ask, CHAT, ALICE, "POST", body) for _ in range(10)]
        while not all(one.done() for one in running):
            began = time.monotonic()
            assert edge.ask("/v1/models", ALICE).status == 200
            waits.append(time.monotonic() - began)
    assert [one.result().status for one in running] == [200] * 10
    assert max(waits) < 1.5, "Python's own threads wait for each other, too"
    assert _peak(worker) - before < 16 << 10, "kilobytes, for all of them"


def _peak(process: int) -> int:
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])
