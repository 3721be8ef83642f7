"""Prefix caches of clients kept apart, in a real nginx with Lua on loopback."""

from __future__ import annotations

import gzip
import hashlib
import hmac
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from tests.http2 import post_without_length
from tests.unit.programs.test_edge_tokens import CHAT, EDGE, MB, OWN, TALK, asked, direct, speaking
from tests.unit.real_nginx import RealEdge
from tests.unit.samples import CODER, QWEN, settings
from vllm_hosts.errors import SettingsError
from vllm_hosts.keys import ClientKey, HostKeys
from vllm_hosts.roles.nginx.routes import SALTED

NAMES = ("alice", "bob", "carol", "alice-bob")
KEYS = HostKeys(
    internal=SecretStr("INTERNAL-KEY"),
    clients=tuple(ClientKey(name, SecretStr(f"KEY-{name}")) for name in NAMES),
    hf_token=None,
)
APART = EDGE | {"cache_isolation": "client"}


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealEdge]:
    """Of two agents; alice and bob share a cache."""
    groups = APART | {"cache_groups": [["alice", "bob"]]}
    both = settings(agents=[QWEN, CODER], edge=groups)
    with RealEdge(tmp_path_factory.mktemp("edge"), both, KEYS, all_run=True) as running:
        yield running


def salt(edge: RealEdge, client: str, path: str = CHAT, body: str | None = None) -> str | None:
    """What the agent is told of whose cache it is."""
    with speaking(edge, TALK.answer) as received:
        answer = edge.ask(path, f"KEY-{client}", "POST", body or asked())
    assert answer.status == 200
    found: str | None = json.loads(received[0]).get("cache_salt")
    return found


def test_each_client_has_a_salt_of_its_own_and_groups_have_one(edge: RealEdge) -> None:
    salts = {client: salt(edge, client) for client in NAMES}
    assert salts["alice"] == salts["bob"]
    assert len({*salts.values()}) == 3
    for client, one in salts.items():
        # vLLM takes no @, / or backslash, and at most 128 characters.
        assert one and re.fullmatch("[0-9a-f]{40}", one)
        assert salt(edge, client) == one == salt(edge, client, OWN)


def test_a_salt_is_of_the_agent_s_key_and_nothing_that_a_client_knows(edge: RealEdge) -> None:
    key = KEYS.internal_of("coder").get_secret_value().encode()
    for client, whose in (("carol", "client carol"), ("alice", "group alice bob")):
        made = hmac.digest(key, f"vllm-hosts prefix cache of {whose}".encode(), hashlib.sha1)
        assert salt(edge, client) == made.hex()
    assert not any(
        (salt(edge, client) or "") in path.read_text()
        for client in NAMES
        for path in edge.folder.glob("edge*/*")
    )


@pytest.mark.parametrize("path", [*SALTED, "/coder/v1/messages", "/coder/v2/rerank"])
def test_everything_that_has_a_prefix_is_salted(edge: RealEdge, path: str) -> None:
    assert salt(edge, "carol", path) == salt(edge, "carol")


@pytest.mark.parametrize(
    "own",
    [
        '"cache_salt": "mine"',
        '"cache_salt": null',
        '"cache_salt": {"cache_salt": 1}',
        '"cache\\u005fsalt": "mine", "cache_salt": "mine"',
    ],
)
def test_a_client_s_own_salt_is_dropped(edge: RealEdge, own: str) -> None:
    for body in (f"{{{own}, {asked()[1:]}", f"{asked()[:-1]}, {own}}}"):
        for path in (CHAT, OWN):
            assert salt(edge, "carol", path, body) == salt(edge, "carol")


@pytest.mark.parametrize("size", [127_000, 131_000, 5 * MB])
def test_a_large_stream_has_both_and_the_client_sees_neither(edge: RealEdge, size: int) -> None:
    body = asked(stream=True, prompt="x" * size)
    with speaking(edge, TALK.answer) as received:
        answer = edge.ask(OWN, "KEY-carol", "POST", body)
    assert answer.body == direct(TALK, OWN, body)
    one = salt(edge, "carol")
    options = '"stream_options":{"include_usage":true,"continuous_usage_stats":true}'
    assert received[0].decode() == f'{body[:-1]},"cache_salt":"{one}",{options}}}'


@pytest.mark.parametrize("body", ["{}", " { } "])
def test_an_empty_request_goes_on_as_it_is(edge: RealEdge, body: str) -> None:
    """The agent refuses it."""
    answers = lambda *_: ("application/json", [b"{}"])  # noqa: E731
    with speaking(edge, answers) as received:
        assert edge.ask(OWN, "KEY-carol", "POST", body).status == 200
    assert received == [body.encode()]


@pytest.mark.parametrize(
    "body",
    [
        *("[]", "no JSON", '{"a":1', '{"a":"\xff"}'.encode("latin-1"), b""),
        *(asked(cache_salt="of another").encode(how) for how in ("utf-16", "utf-16-le", "utf-32")),
        f"{asked(cache_salt='of another')} x",
        f"{asked()}{asked(cache_salt='of another')}",
        f"{asked()}\0",
        gzip.compress(asked(cache_salt="of another").encode()),
    ],
)
def test_what_cannot_be_salted_goes_nowhere(edge: RealEdge, body: str | bytes) -> None:
    """vLLM reads some of these: they would be in a cache without a salt, or in that of another."""
    with speaking(edge, TALK.answer) as received:
        answer = edge.ask(OWN, "KEY-carol", "POST", body, Content_Encoding="gzip")
    assert (answer.status, received) == (400, [])
    assert json.loads(answer.body)["error"]["code"] == "invalid_body"


def test_a_request_that_does_not_say_how_long_it_is_is_no_way_around(edge: RealEdge) -> None:
    """With HTTP/2; some modules of Lua read it, and others refuse to."""
    with speaking(edge, TALK.answer) as received:
        said = post_without_length(edge.port, edge.name, OWN, "KEY-carol", asked())
    assert b'"length_required"' in said or b'"cache_salt":"' in received[0]


class _Unread(RealEdge):
    """Its Lua refuses to read a body, as newer modules do in HTTP/2."""

    def _moved(self, text: str) -> str:
        return super()._moved(text.replace("pcall(ngx.req.read_body)", "pcall(error)"))


def test_what_lua_does_not_read_goes_nowhere(tmp_path: Path) -> None:
    one = settings(agents=[QWEN], edge=APART)
    with _Unread(tmp_path, one, KEYS) as running:
        answer = running.ask("/qwen/v1/messages", "KEY-carol", "POST", asked())
        assert (answer.status, running.asked) == (411, [])
        assert json.loads(answer.body)["error"]["code"] == "length_required"


def test_pipelined_requests_are_salted_one_by_one(edge: RealEdge) -> None:
    """What is added to one moves nothing of the next."""
    bodies = [asked(), asked(prompt="x" * 300_000), asked(prompt="y")]
    sent = b"".join(
        f"POST {OWN} HTTP/1.1\r\nHost: {edge.name}\r\nAuthorization: Bearer KEY-{client}\r\n"
        f"Content-Length: {len(body)}\r\n{last}\r\n{body}".encode()
        for client, body, last in zip(
            ("carol", "alice-bob", "carol"), bodies, ("", "", "Connection: close\r\n"), strict=True
        )
    )
    with speaking(edge, TALK.answer) as received:
        assert edge.raw(sent).count(b"HTTP/1.1 200") == 3
    one, other = salt(edge, "carol"), salt(edge, "alice-bob")
    assert [content.decode() for content in received] == [
        f'{body[:-1]},"cache_salt":"{whose}"}}'
        for body, whose in zip(bodies, (one, other, one), strict=True)
    ]


def test_what_has_no_prefix_goes_on_as_it_is(edge: RealEdge) -> None:
    for path in ("/v1/messages/count_tokens", "/coder/v1/audio/transcriptions"):
        assert salt(edge, "carol", path) is None


def test_apart_without_counting(tmp_path: Path) -> None:
    one = settings(agents=[QWEN], edge=APART | {"count_tokens": False})
    with RealEdge(tmp_path, one, KEYS) as running:
        server: Any = running.agent
        received = []

        def answer(path: str, content: bytes) -> tuple[str, Iterator[bytes]]:
            received.append(json.loads(content))
            return TALK.answer(path, content)

        server.speaks = answer
        body = asked(stream=True)
        assert running.ask(CHAT, "KEY-carol", "POST", body).body == direct(TALK, CHAT, body)
        assert "cache_salt" in received[0] and "stream_options" not in received[0]
        assert json.loads(running.log().splitlines()[-1])["prompt_tokens"] is None


@pytest.mark.parametrize(
    ("edge", "words"),
    [
        ({"cache_groups": [["alice", "bob"], ["bob"]]}, "'bob' twice; leave it in one group only"),
        ({"cache_groups": [["A b"]]}, "'A b', which is no client's name; write it as"),
        ({"cache_groups": [["a"]], "cache_isolation": "off"}, "means nothing while"),
        ({"cache_groups": ["alice"]}, "cache_groups"),
        ({"cache_isolation": "group"}, "cache_isolation"),
    ],
)
def test_settings_that_cannot_be(edge: dict[str, object], words: str) -> None:
    with pytest.raises((SettingsError, ValueError), match=re.escape(words)):
        settings(edge=edge)
