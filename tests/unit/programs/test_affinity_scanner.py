"""What a gateway's balancing goes by: one number for all turns of a conversation, in a real Lua."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator

import pytest

from tests.unit.programs.test_model_scanner import fuzzed
from tests.unit.scanning import Body, Scanners, scanners

MB = 1 << 20
PIECES = (1, 2, 3, 7, 64, 262_144)
FUZZED = 1500


@pytest.fixture(scope="module")
def lua() -> Iterator[Scanners]:
    with scanners() as running:
        yield running


def number(lua: Scanners, content: bytes) -> str:
    """The same in pieces of any size."""
    found = {one.model for one in lua.scan(Body(content, piece, turns=True) for piece in PIECES)}
    assert len(found) == 1, content
    return found.pop()


def hashed(beginning: bytes) -> str:
    """Jenkins' one at a time, as he describes it."""
    value = 0
    for byte in beginning:
        value = (value + byte) & 0xFFFFFFFF
        value = (value + (value << 10)) & 0xFFFFFFFF
        value ^= value >> 6
    value = (value + (value << 3)) & 0xFFFFFFFF
    value ^= value >> 11
    return f"{(value + (value << 15)) & 0xFFFFFFFF:08x}"


#: A body -> the bytes of it that count; None: it has no beginning of a prompt.
SHAPES: dict[str, tuple[bytes, bytes | None]] = {
    "up to the user's message": (
        b'{"model": "m", "messages": [{"role": "system", "content": "s"},'
        b' {"content": "a", "role": "user"}, {"role": "user", "content": "b"}]}',
        b'[{"role": "system", "content": "s"}, {"content": "a", "role": "user"}',
    ),
    "an only one": (
        b'{"messages":[{"role":"user","content":"a"}],"n":2}',
        b'[{"role":"user","content":"a"}',
    ),
    "without a user's": (b'{"messages":[{"role":"system"}],"n":2}', b'[{"role":"system"}]'),
    "a role deeper": (
        b'{"messages":[{"content":[{"role":"user"}]},{"role":"user"},1]}',
        b'[{"content":[{"role":"user"}]},{"role":"user"}',
    ),
    "a role in a text": (
        b'{"messages":[{"x":"\\"role\\":\\"user\\""},{"role":"user"},1]}',
        b'[{"x":"\\"role\\":\\"user\\""},{"role":"user"}',
    ),
    "another's role": (
        b'{"messages":[{"role":"users"},{"role":"use"},{"role":"user"}],"x":1}',
        b'[{"role":"users"},{"role":"use"},{"role":"user"}',
    ),
    "brackets in texts": (
        b'{"messages":[{"role":"user","content":"}]}\\"]"},{}]}',
        b'[{"role":"user","content":"}]}\\"]"}',
    ),
    "input of items": (
        b'{"input":[{"type":"message","role":"user","content":[{"text":"a"}]},{"x":1}]}',
        b'[{"type":"message","role":"user","content":[{"text":"a"}]}',
    ),
    "a text": (b'{"prompt": "Hello\\"x", "n": 1}', b'Hello\\"x'),
    "an empty text": (b'{"prompt": "", "n": 1}', b""),
    "a long text": (b'{"prompt": "' + b"ab" * 200 + b'"}', b"ab" * 128),
    "a list of texts": (b'{"input": ["a", "b"], "n": 1}', b'["a", "b"]'),
    "a long list": (b'{"prompt": [' + b"17," * 200 + b"1]}", b"[" + (b"17," * 200)[:255]),
    "the first of two": (b'{"prompt":null,"input":"a","messages":[1]}', b"a"),
    "a key below": (b'{"x":{"messages":[1]},"y":[{"prompt":"a"}]}', None),
    "a key in a value": (b'{"x":"messages","y":["input"]}', None),
    "no prompt": (b'{"query":"a","documents":["b"]}', None),
    "no object": (b'["messages",[1]]', None),
    "a number": (b'{"prompt":17,"n":[1]}', None),
    "a form": (b'--x\r\nContent-Disposition: form-data; name="prompt"\r\n\r\n{"prompt":"a"}', None),
    "nothing": (b"", None),
    "a byte order mark": (b'\xef\xbb\xbf{"prompt":"a"}', b"a"),
}


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape(lua: Scanners, name: str) -> None:
    content, beginning = SHAPES[name]
    assert number(lua, content) == ("none" if beginning is None else hashed(beginning))


def _text(random_: random.Random) -> str:
    letters = 'role"\\user/{}[]:, \n\u00e9\U0001d11e'
    return "".join(random_.choice(letters) for _ in range(random_.randrange(12)))


def _message(random_: random.Random, role: str) -> dict[str, object]:
    content: object = _text(random_)
    if random_.random() < 0.3:
        content = [{"type": "text", "role": "user", "text": _text(random_)}]
    members: list[tuple[str, object]] = [("role", role), ("content", content)]
    if random_.random() < 0.3:
        members.append((_text(random_) + "x", {"role": "user", "y": [_text(random_)]}))
    random_.shuffle(members)
    return dict(members)


def test_turns_of_conversations(lua: Scanners) -> None:
    """However they are written, as long as the same client writes them in the same way."""
    seed = random.SystemRandom().randrange(1 << 32)
    random_ = random.Random(seed)
    found: dict[str, str] = {}
    for _ in range(200):
        before = [_message(random_, "system") for _ in range(random_.randrange(3))]
        turns = [*before, _message(random_, "user")]
        beginning = json.dumps(turns)
        same = set()
        for _ in range(4):
            others = {f"x{_text(random_)}": _text(random_), "model": "m", "n": [1, {"prompt": 2}]}
            members = [*others.items(), ("messages", turns)]
            random_.shuffle(members)
            content = json.dumps(dict(members)).encode()
            piece = random_.choice(PIECES)
            same |= {one.model for one in lua.scan([Body(content, piece, turns=True)])}
            turns = [*turns, _message(random_, "assistant"), _message(random_, "user")]
        assert same == {hashed(beginning[:-1].encode())}, f"with random.Random({seed})"
        found[beginning] = same.pop()
    assert len(set(found.values())) > len(found) - 2


def test_rubbish_is_the_same_in_all_pieces(lua: Scanners) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    random_ = random.Random(seed)
    for _ in range(FUZZED):
        content = fuzzed(random_)
        for key in (b"messages", b"prompt", b"role"):
            content = content.replace(b'"x"', b'"%s"' % key, 1)
        found = {
            one.model
            for one in lua.scan(Body(content, piece, turns=True) for piece in (1, 5, 4096))
        }
        assert len(found) == 1, f"{content!r}, with random.Random({seed})"


HOSTILE: dict[str, bytes] = {
    "a long message": b'{"messages":[{"role":"user","content":"' + b"x" * (30 * MB) + b'"}]}',
    "many others": b'{"messages":[' + b'{"role":"system"},' * (30 * MB // 18) + b"1]}",
    "escapes": b'{"messages":[{"content":"' + b"\\u00e9" * (5 * MB) + b'"}]}',
    "short lists": b'{"messages":[{"x":[' + b"[]," * (10 * MB) + b"1]}]}",
    "open lists": b'{"messages":[{"x":' + b"[" * (30 * MB),
    "keys": b'{"messages":[{' + b'"role":"x",' * (30 * MB // 11) + b'"y":1}]}',
}


@pytest.mark.parametrize("name", HOSTILE)
def test_thirty_megabytes_hold_nobody_up(lua: Scanners, name: str) -> None:
    """Bounds with room for a busy machine; the figures that it comes to are in docs/design.md."""
    [found] = lua.scan([Body(HOSTILE[name], turns=True)])
    assert found.slowest < 0.1 and found.seconds < 3
    assert found.kilobytes < 1024


def test_behind_the_beginning_nothing_is_read(lua: Scanners) -> None:
    rest = b'{"messages":[{"role":"user","content":"a"},{"content":"' + b"x" * (30 * MB) + b'"}]}'
    [found] = lua.scan([Body(rest, turns=True)])
    assert found.seconds < 0.02
