"""Tokens counted where they pass, in a real nginx; the agent writes as vLLM does."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Semaphore
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import SecretStr

from tests.unit.examples import examples
from tests.unit.real_nginx import Answer, RealEdge
from tests.unit.samples import CODER, QWEN, settings
from tests.unit.vllm_words import Talk, dumped
from vllm_hosts.keys import ClientKey, HostKeys

ALICE = "KEY-A"
KEYS = HostKeys(
    internal=SecretStr("INTERNAL-KEY"),
    clients=(ClientKey("alice", SecretStr(ALICE)),),
    hf_token=None,
)
EDGE = {
    "names": ["llm.example.com"],
    "requests_per_second": 1000,
    "burst": 1000,
    "max_body_size": "33m",
    # tests/unit/programs/test_edge_caches.py has the other way.
    "cache_isolation": "off",
}
CHAT, OWN = "/v1/chat/completions", "/coder/v1/chat/completions"
TALK = Talk(prompt=17, choices=(("Hel", "lo", ' "usage":{"x":1}', "\n\n"),), cached=3)
MB = 1 << 20


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealEdge]:
    """Of two agents: /v1 by the model, /coder/v1 by the path."""
    both = settings(agents=[QWEN, CODER], edge=EDGE)
    with RealEdge(tmp_path_factory.mktemp("edge"), both, KEYS, all_run=True) as running:
        yield running


@contextmanager
def speaking(edge: RealEdge, speaks: object) -> Iterator[list[bytes]]:
    """The agent answers so. What it was asked."""
    received: list[bytes] = []

    def answer(path: str, content: bytes) -> tuple[str, Iterable[bytes]]:
        received.append(content)
        found: tuple[str, Iterable[bytes]] = speaks(path, content)  # type: ignore[operator]
        return found

    server: Any = edge.agents["coder"]
    server.speaks = answer
    try:
        yield received
    finally:
        server.speaks = None


def asked(**more: object) -> str:
    return json.dumps(
        {"messages": [{"role": "user", "content": "hi"}], "model": "coder-14b"} | more
    )


def post(edge: RealEdge, body: str | bytes, path: str = CHAT, status: int = 200) -> Answer:
    logged(edge)
    answer = edge.ask(path, ALICE, "POST", body)
    # Waited for by each, so that nobody takes it for the next one's.
    _LAST[edge.folder] = logged(edge, wait=True)
    assert answer.status == status
    return answer


#: Lines of each edge's log that were read, and the last one that nobody has looked at.
_READ: dict[Path, int] = {}
_LAST: dict[Path, dict[str, Any]] = {}


def logged(edge: RealEdge, *, wait: bool = False) -> dict[str, Any]:
    """The last line of the log, which nginx writes when it has answered; ``wait``: a new one."""
    path = edge.folder / "logs/access.log"
    until = time.monotonic() + 10
    while True:
        lines = path.read_text().rpartition("\n")[0].splitlines()
        if len(lines) > _READ.get(path, 0) or not wait:
            _READ[path] = len(lines)
            return json.loads(lines[-1]) if lines else {}
        assert time.monotonic() < until, "nothing was logged"
        time.sleep(0.002)


def counts(edge: RealEdge) -> tuple[int | None, int | None, int | None]:
    """Of the last request: prompt, cached, completion."""
    entry = _LAST.pop(edge.folder, None) or logged(edge, wait=True)
    assert entry["client"] == "alice" and entry["agent"] == "coder"
    return entry["prompt_tokens"], entry["cached_tokens"], entry["completion_tokens"]


def direct(talk: Talk, path: str, body: str | bytes) -> str:
    """What a client gets that asks the agent itself."""
    content = body.encode() if isinstance(body, str) else body
    return b"".join(talk.answer(path, content)[1]).decode()


WISHES: dict[str, dict[str, object]] = {
    "nothing": {},
    "null": {"stream_options": None},
    "usage": {"stream_options": {"include_usage": True}},
    "no usage": {"stream_options": {"include_usage": False, "continuous_usage_stats": True}},
    "both": {"stream_options": {"include_usage": True, "continuous_usage_stats": True}},
}


@pytest.mark.parametrize("path", [CHAT, OWN, "/v1/completions", "/coder/v1/completions"])
@pytest.mark.parametrize("wish", WISHES)
def test_a_client_gets_the_stream_that_it_asked_for(edge: RealEdge, path: str, wish: str) -> None:
    body = asked(stream=True, **WISHES[wish])
    with speaking(edge, TALK.answer) as received:
        answer = post(edge, body, path)
    assert answer.body == direct(TALK, path, body)
    assert counts(edge) == (17, 3, 4)
    options = json.loads(received[0])["stream_options"]
    assert options == {"include_usage": True, "continuous_usage_stats": True}
    if wish == "both":
        assert received == [body.encode()]


@pytest.mark.parametrize("path", [CHAT, OWN])
def test_an_answer_in_one_piece_is_counted_and_nothing_asked(edge: RealEdge, path: str) -> None:
    body = asked(stream=False)
    with speaking(edge, TALK.answer) as received:
        answer = post(edge, body, path)
    assert (answer.body, received) == (direct(TALK, path, body), [body.encode()])
    assert counts(edge) == (17, 3, 4)


@pytest.mark.parametrize(
    "more",
    [
        {"stream": False},
        {"stream": None},
        {"stream": []},
        {"stream": {"stream": True}},
        {"stream": True, "stream_options": []},
        {"stream": True, "stream_options": "x"},
        {"stream": True, "stream_options": {"include_usage": []}},
        {"stream": True, "stream_options": {"continuous_usage_stats": {}}},
        {"messages": [{"stream": True}]},
    ],
)
def test_what_is_no_stream_or_what_vllm_refuses_goes_on_as_it_is(
    edge: RealEdge, more: dict[str, object]
) -> None:
    body = asked(**more)
    with speaking(edge, lambda *_: ("text/event-stream", [b"data: {}\n\n"])) as received:
        assert post(edge, body).body == "data: {}\n\n"
    assert received == [body.encode()]
    assert counts(edge) == (None, None, None)


@pytest.mark.parametrize("stream", ["1", '"yes"', "1.0", '"\\u0074rue"', "10e-1"])
@pytest.mark.parametrize("path", [CHAT, OWN])
def test_a_stream_that_is_asked_for_in_other_words_is_counted(
    edge: RealEdge, stream: str, path: str
) -> None:
    """vLLM takes all of these for true, and would say nothing of tokens."""
    body = f'{{"stream":{stream},{asked()[1:]}'
    with speaking(edge, TALK.answer):
        assert post(edge, body, path).body == direct(TALK, path, body)
    assert counts(edge) == (17, 3, 4)


@pytest.mark.parametrize("stream", ["0", "0.1e1", "-0"])
def test_what_is_zero_or_nearly_is_no_stream(edge: RealEdge, stream: str) -> None:
    body = f'{{"stream":{stream},{asked()[1:]}'
    with speaking(edge, TALK.answer) as received:
        post(edge, body)
    assert json.loads(received[0])["stream"] is False
    assert counts(edge) == (17, 3, 4)


def test_options_in_other_words_are_no_way_around(edge: RealEdge) -> None:
    body = asked(stream=True, stream_options={"include_usage": "yes"})
    with speaking(edge, TALK.answer):
        answer = post(edge, body)
    assert '"choices":[],"usage"' in answer.body and answer.body.count('"usage":{"p') == 1
    assert counts(edge) == (17, 3, 4)


@pytest.mark.parametrize(
    "body",
    [
        asked(stream=True).encode("utf-16"),
        asked(stream=True).encode("utf-32-le"),
        asked(stream=True, x="?").encode().replace(b"?", b"\xed\xa0\x80"),
        f'{{"x":{"[" * 1000}{"]" * 1000},{asked(stream=True)[1:]}'.encode(),
    ],
)
def test_what_only_vllm_can_read_goes_nowhere(edge: RealEdge, body: bytes) -> None:
    """Python's json reads all of these, the last from 3.12 on: nobody would count the answer."""
    with speaking(edge, TALK.answer) as received:
        answer = post(edge, body, OWN, status=400)
    assert json.loads(answer.body)["error"]["code"] == "invalid_body"
    assert received == []


def test_the_last_of_two_keys_counts_as_it_does_for_the_agent(edge: RealEdge) -> None:
    body = '{"stream":false,"model":"coder-14b","stream":true,"x":{"stream":false}}'
    with speaking(edge, TALK.answer):
        assert post(edge, body).body == direct(TALK, CHAT, body)
    assert counts(edge) == (17, 3, 4)
    body = '{"stream":true,"model":"coder-14b","stream":false}'
    with speaking(edge, TALK.answer) as received:
        post(edge, body)
    assert received == [body.encode()]


@pytest.mark.parametrize("path", [CHAT, OWN])
@pytest.mark.parametrize("size", [127_000, 131_000, 600_000, 5 * MB])
def test_a_body_of_any_size_is_asked_with_and_otherwise_the_same(
    edge: RealEdge, size: int, path: str
) -> None:
    body = asked(stream=True, prompt="x" * size) + " \n"
    with speaking(edge, TALK.answer) as received:
        answer = post(edge, body, path)
    added = ',"stream_options":{"include_usage":true,"continuous_usage_stats":true}'
    assert received[0].decode() == f"{body[:-3]}{added}}} \n"
    assert "usage" not in answer.body.replace('\\"usage\\"', "")
    assert counts(edge) == (17, 3, 4)


def test_a_body_in_chunks_is_asked_with(edge: RealEdge) -> None:
    body = asked(stream=True, prompt="x" * 200_000).encode()
    chunks = b"".join(
        f"{len(piece):x}\r\n".encode() + piece + b"\r\n"
        for piece in (body[at : at + 50_000] for at in range(0, len(body), 50_000))
    )
    head = (
        f"POST {OWN} HTTP/1.1\r\nHost: {edge.name}\r\nAuthorization: Bearer {ALICE}\r\n"
        "Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    )
    logged(edge)
    _LAST.pop(edge.folder, None)
    with speaking(edge, TALK.answer) as received:
        assert edge.raw(head.encode() + chunks + b"0\r\n\r\n").split()[1] == b"200"
    assert json.loads(received[0])["stream_options"]["include_usage"] is True
    assert counts(edge) == (17, 3, 4)


def test_a_stream_that_is_cut_off_is_counted_as_far_as_it_came(edge: RealEdge) -> None:
    talk = Talk(prompt=1000, choices=(("a",) * 50, ("b",) * 50))

    def slow(path: str, content: bytes) -> tuple[str, Iterator[bytes]]:
        kind, pieces = talk.answer(path, content)

        def with_pause() -> Iterator[bytes]:
            for number, piece in enumerate(pieces):
                yield piece
                if number > 12:
                    time.sleep(0.05)

        return kind, with_pause()

    body = asked(stream=True)
    logged(edge)
    _LAST.pop(edge.folder, None)
    with speaking(edge, slow), edge.connection() as connection:
        head = (
            f"POST {CHAT} HTTP/1.1\r\nHost: {edge.name}\r\nAuthorization: Bearer {ALICE}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n{body}"
        )
        connection.sendall(head.encode())
        got = b""
        while got.count(b'"content":"b"') < 3:
            got += connection.recv(65536)
    assert b"usage" not in got
    prompt, cached, completion = counts(edge)
    assert (prompt, cached) == (1000, None)
    assert completion is not None and got.count(b'content":"a') + 3 <= completion < 100


def cut_off(edge: RealEdge, body: str, path: str, events: list[object]) -> dict[str, Any]:
    """What the log says of a stream of which the client has had these events, and no end."""
    sent = Semaphore(0)

    def unfinished(*_: object) -> tuple[str, Iterator[bytes]]:
        def pieces() -> Iterator[bytes]:
            for event in events:
                yield f"data: {dumped(event)}\n\n".encode()
            sent.acquire(timeout=5)
            yield b": and so on\n\n" * 9

        return "text/event-stream", pieces()

    logged(edge)
    _LAST.pop(edge.folder, None)
    with speaking(edge, unfinished):
        with edge.connection() as connection:
            head = (
                f"POST {path} HTTP/1.1\r\nHost: {edge.name}\r\nAuthorization: Bearer {ALICE}\r\n"
                f"Content-Length: {len(body)}\r\n\r\n{body}"
            )
            connection.sendall(head.encode())
            got = b""
            while got.count(b'"index"') < len(events):
                got += connection.recv(65536)
        entry = logged(edge, wait=True)
        sent.release()
    return entry


def event(index: int, prompt: int, completion: int) -> dict[str, Any]:
    usage = {"prompt_tokens": prompt, "completion_tokens": completion}
    return {"choices": [{"index": index, "text": "a"}], "usage": usage}


def test_who_asks_for_usage_and_hangs_up_pays_for_all_answers(edge: RealEdge) -> None:
    body = asked(stream=True, n=3, **WISHES["both"])
    events: list[object] = [event(0, 7, 50), event(1, 7, 60), event(2, 7, 1)]
    entry = cut_off(edge, body, OWN, events)
    assert (entry["prompt_tokens"], entry["completion_tokens"]) == (7, 111)


@pytest.mark.parametrize(
    ("n", "prompts"),
    [
        ("", 7 + 8 + 9 + 9),
        *(("1", 7 + 8 + 9 + 9), ("2", 7 + 9), ("2.0", 7 + 9), ("10", 7), ('1,"n":2', 7 + 9)),
        # One that nobody writes counts as one answer, and so as more prompts rather than fewer.
        *(('"2"', 7 + 8 + 9 + 9), ("0.2e1", 7 + 8 + 9 + 9), ('{"n":4}', 7 + 8 + 9 + 9)),
    ],
)
def test_all_prompts_of_a_request_that_is_cut_off_are_counted(
    edge: RealEdge, n: str, prompts: int
) -> None:
    """vLLM numbers the answers of the first prompt, and then those of the next one."""
    body = (f'{{"n":{n},' if n else "{") + asked(stream=True, prompt=["a"] * 4)[1:]
    events: list[object] = [event(place, tokens, 2) for place, tokens in enumerate((7, 8, 9, 9))]
    entry = cut_off(edge, body, "/coder/v1/completions", [*events, event(0, 7, 3)])
    assert (entry["prompt_tokens"], entry["completion_tokens"]) == (prompts, 9)


def test_more_answers_than_are_told_apart_count_by_their_events(edge: RealEdge) -> None:
    events: list[object] = [event(9999, 7, 400), event(0, 7, 2), event(9999, 7, 401)]
    entry = cut_off(edge, asked(stream=True), OWN, events)
    assert (entry["prompt_tokens"], entry["completion_tokens"]) == (7, 4)


@pytest.mark.parametrize("path", [CHAT, "/v1/messages"])
def test_no_event_waits_for_the_next_one(edge: RealEdge, path: str) -> None:
    """The agent makes each only when the client has the one before."""
    arrived = Semaphore(0)

    def one_by_one(*_: object) -> tuple[str, Iterator[bytes]]:
        def events() -> Iterator[bytes]:
            for chunk in TALK.chunks(True, True):
                yield f"data: {dumped(chunk)}\n\n".encode()
                # The last one is not for the client.
                assert not chunk["choices"] or arrived.acquire(timeout=5), "it was held back"

        return "text/event-stream", events()

    body = asked(stream=True)
    logged(edge)
    with speaking(edge, one_by_one), edge.connection() as connection:
        head = (
            f"POST {path} HTTP/1.1\r\nHost: {edge.name}\r\nAuthorization: Bearer {ALICE}\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}"
        )
        connection.sendall(head.encode())
        got, seen = b"", 0
        while piece := connection.recv(65536):
            got += piece
            for _ in range(got.count(b'"index"') - seen):
                arrived.release()
            seen = got.count(b'"index"')
    logged(edge, wait=True)
    assert seen == len(TALK.chunks(True, True)) - 1
    assert got.endswith(b"0\r\n\r\n")


@pytest.mark.parametrize(
    ("path", "pieces"),
    [("/v1/messages", list(TALK.messages())), ("/v1/responses", list(TALK.responses()))],
)
def test_other_streams_say_it_themselves(edge: RealEdge, path: str, pieces: list[bytes]) -> None:
    body = asked(stream=True)
    with speaking(edge, lambda *_: ("text/event-stream", pieces)) as received:
        assert post(edge, body, path).body.encode() == b"".join(pieces)
    assert received == [body.encode()]
    assert counts(edge) == (17, 3, 4)
    # Its end is missing: what came is counted.
    with speaking(edge, lambda *_: ("text/event-stream", pieces[:4])):
        post(edge, body, path)
    assert counts(edge) == ((17 - 3, None, 3) if path == "/v1/messages" else (None, None, 3))


@pytest.mark.parametrize(
    ("path", "said", "found"),
    [
        ("/v1/embeddings", {"data": [[0.5] * 5000], "usage": {"prompt_tokens": 8}}, (8, None, 0)),
        ("/v1/rerank", {"usage": {"prompt_tokens": 8, "total_tokens": 8}}, (8, None, 0)),
        ("/v1/messages", {"usage": {"input_tokens": 2, "output_tokens": 5}}, (2, None, 5)),
        ("/v1/audio/transcriptions", {"usage": {"seconds": 3}}, (None, None, None)),
        ("/v1/messages/count_tokens", {"input_tokens": 3}, (None, None, None)),
        (CHAT, {"choices": [{"usage": {"prompt_tokens": 9}}]}, (None, None, None)),
        (CHAT, {"usage": None}, (None, None, None)),
        (CHAT, {"usage": {"prompt_tokens": -1, "x": "9" * 99}}, (None, None, None)),
        (CHAT, {"usage": {"prompt_tokens": "9" * 4000}}, (None, None, None)),
        (CHAT, [{"usage": {"prompt_tokens": 1}}], (None, None, None)),
    ],
)
def test_usage_of_other_answers(
    edge: RealEdge, path: str, said: object, found: tuple[int | None, ...]
) -> None:
    content = dumped(said).encode()
    pieces = [content[at : at + 7] for at in range(0, len(content), 7)][:500]
    pieces.append(content[len(pieces) * 7 :])
    body = asked()
    with speaking(edge, lambda *_: ("application/json", [piece for piece in pieces if piece])):
        assert post(edge, body, path).body.encode() == content
    assert counts(edge) == found


STRANGE = [
    ("text/event-stream", b'data: {"choices":[],"usage":{"prompt_tokens":1}'),
    ("text/event-stream", b'data: {"choices":[],"usage":{"prompt_tokens":1}}\r\n\r\n'),
    ("text/event-stream", b'data: {"choices":[],\ndata: "usage":{"prompt_tokens":1}}\n\n'),
    ("text/event-stream", b"\n\n\n\n: ping\n\ndata: [DONE]\n\n"),
    ("text/event-stream", b'data: {"usage":{"prompt_tokens":1}}\n\n'),
    ("text/event-stream", b'data: {"error":{"message":"no \\"usage\\":{}","code":500}}\n\n'),
    ("text/event-stream", b"data: " + b"x" * 200_000 + b'"usage"\n\ndata: [DONE]\n\n'),
    ("text/event-stream", b"\xff\xfe\x00" * 100),
    ("text/html", b'{"usage":{"prompt_tokens":1}}'),
    ("application/json", b'data: {"choices":[],"usage":{"prompt_tokens":1}}\n\n'),
]


@pytest.mark.parametrize(("kind", "content"), STRANGE)
@pytest.mark.parametrize("size", [1, 5, 100_000])
def test_what_is_not_as_expected_passes_untouched(
    edge: RealEdge, kind: str, content: bytes, size: int
) -> None:
    if size < 100 and len(content) > 10_000:
        size = 999
    pieces = [content[at : at + size] for at in range(0, len(content), size)]
    with speaking(edge, lambda *_: (kind, pieces)):
        logged(edge)
        raw = _raw_post(edge, asked(stream=True))
    logged(edge, wait=True)
    assert raw == content


def _raw_post(edge: RealEdge, body: str) -> bytes:
    """The body of an answer, whatever it is."""
    head = (
        f"POST {CHAT} HTTP/1.0\r\nHost: {edge.name}\r\nAuthorization: Bearer {ALICE}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n{body}"
    )
    return edge.raw(head.encode()).partition(b"\r\n\r\n")[2]


def test_an_answer_that_failed_counts_nothing(edge: RealEdge) -> None:
    server: Any = edge.agents["coder"]
    server.status = 400
    try:
        with speaking(edge, TALK.answer):
            post(edge, asked(), status=400)
    finally:
        server.status = 200
    assert counts(edge) == (None, None, None)


_TEXTS = st.text(
    st.sampled_from('a"\\{}[]:,\n\r \u00e9\u2603usage') | st.characters(exclude_categories=["Cs"]),
    max_size=8,
) | st.sampled_from(['"usage":{"prompt_tokens":9}', "\n\ndata: ", '"choices":[]', "[DONE]"])
_TALKS = st.builds(
    Talk,
    prompt=st.integers(0, 200_000),
    choices=st.lists(
        st.lists(_TEXTS, min_size=1, max_size=6).map(tuple), min_size=1, max_size=3
    ).map(tuple),
    cached=st.none() | st.integers(0, 9),
)
_OPTIONS = st.sampled_from([*WISHES.values()])
_SPACE = st.sampled_from(["", " ", "\n", "\t "])


@given(
    talk=_TALKS,
    options=_OPTIONS,
    path=st.sampled_from([CHAT, OWN, "/v1/completions"]),
    size=st.sampled_from([1, 3, 17, 4096]),
    text=_TEXTS,
    space=_SPACE,
)
@hypothesis_settings(
    max_examples=examples(40), suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_stream_reaches_the_client_as_it_was_asked_for(
    edge: RealEdge,
    talk: Talk,
    options: dict[str, object],
    path: str,
    size: int,
    text: str,
    space: str,
) -> None:
    """In pieces of any size, with any text in request and answer."""
    body = asked(stream=True, user=text, **options)[:-1] + f"{space}}}{space}"

    def torn(path: str, content: bytes) -> tuple[str, Iterator[bytes]]:
        kind, pieces = talk.answer(path, content)
        whole = b"".join(pieces)
        return kind, (whole[at : at + size] for at in range(0, len(whole), size))

    with speaking(edge, torn):
        assert post(edge, body, path).body == direct(talk, path, body)
    assert counts(edge) == (talk.prompt, talk.cached, talk.completion)


def test_a_host_with_one_agent_counts_too_and_says_its_model(tmp_path: Path) -> None:
    one = settings(agents=[QWEN | {"served_model_name": "Qwen/Qwen3-8B"}], edge=EDGE)
    with RealEdge(tmp_path, one, KEYS) as running:
        server: Any = running.agent
        server.speaks = TALK.answer
        for path in (CHAT, "/qwen/v1/chat/completions"):
            answer = post(running, asked(stream=True), path)
            assert "usage" not in answer.body.replace('\\"usage\\"', "")
            entry = _LAST.pop(running.folder)
            assert (entry["prompt_tokens"], entry["model"]) == (17, "Qwen/Qwen3-8B")


def test_where_nobody_counts_there_is_no_lua(tmp_path: Path) -> None:
    one = settings(agents=[QWEN], edge=EDGE | {"count_tokens": False})
    with RealEdge(tmp_path, one, KEYS) as running:
        assert not list((tmp_path / "edge-lua").iterdir())
        server: Any = running.agent
        server.speaks = TALK.answer
        body = asked(stream=True)
        assert post(running, body).body == direct(TALK, CHAT, body)
        entry = _LAST.pop(running.folder)
        assert entry["prompt_tokens"] is None and entry["client"] == "alice"


def test_by_the_model_without_counting(tmp_path: Path) -> None:
    both = settings(agents=[QWEN, CODER], edge=EDGE | {"count_tokens": False})
    with RealEdge(tmp_path, both, KEYS, all_run=True) as running:
        body = asked(stream=True)
        with speaking(running, TALK.answer) as received:
            assert post(running, body).body == direct(TALK, CHAT, body)
        assert received == [body.encode()]
        assert counts(running) == (None, None, None)
