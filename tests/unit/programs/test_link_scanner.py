"""Which response a request goes on from, in a real Lua, and what Python says to the same body."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator

import pytest

from tests.unit.programs.test_model_scanner import fuzzed
from tests.unit.scanning import Body, Scanners, scanners

KEY = "previous_response_id"
ID = "resp_" + "0123456789abcdef" * 3
PIECES = (1, 2, 3, 7, 64, 262_144)
MB = 1 << 20


@pytest.fixture(scope="module")
def lua() -> Iterator[Scanners]:
    with scanners() as running:
        yield running


def link(lua: Scanners, content: bytes, pieces: tuple[int, ...] = PIECES) -> str | None:
    """The same in pieces of any size."""
    found = {one.model for one in lua.scan(Body(content, piece, links=True) for piece in pieces)}
    assert len(found) == 1, content
    said = found.pop()
    return None if said == "none" else bytes.fromhex(said.removeprefix("id ")).decode("latin-1")


SHAPES: dict[str, tuple[str, str | None]] = {
    "first": (f'{{"{KEY}": "{ID}", "input": "x"}}', ID),
    "behind a long input": (f'{{"input": "{"x" * 900}", "{KEY}":"{ID}"}}', ID),
    "the last of two": (f'{{"{KEY}": "a", "{KEY}": "{ID}"}}', ID),
    "taken back": (f'{{"{KEY}": "{ID}", "{KEY}": null}}', None),
    "null": (f'{{"{KEY}": null, "model": "{ID}"}}', None),
    "a number": (f'{{"{KEY}": 17, "model": "{ID}"}}', None),
    "a list": (f'{{"{KEY}": ["{ID}"], "model": "x"}}', None),
    "an object": (f'{{"{KEY}": {{"{KEY}": "{ID}"}}}}', None),
    "deeper": (f'{{"input": [{{"{KEY}": "{ID}"}}], "x": {{"{KEY}": "{ID}"}}}}', None),
    "in a text": (f'{{"input": "\\"{KEY}\\": \\"{ID}\\""}}', None),
    "a value that is like the key": (f'{{"model": "{KEY}", "input": "{ID}"}}', None),
    "of no length": (f'{{"{KEY}": ""}}', ""),
    "with an escape": (f'{{"{KEY}": "resp\\u005f1"}}', "resp\\u005f1"),
    "behind the object": (f'{{"model": "x"}} "{KEY}": "{ID}"', None),
    "no object": (f'["{KEY}", "{ID}"]', None),
    "a form": (f'--x\r\n{{"{KEY}": "{ID}"}}', None),
    "nothing": ("", None),
}


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape(lua: Scanners, name: str) -> None:
    content, expected = SHAPES[name]
    assert link(lua, content.encode()) == expected


def test_a_long_one_is_there(lua: Scanners) -> None:
    """It is none that a host has made."""
    found = link(lua, f'{{"{KEY}": "{"a" * 100_000}"}}'.encode(), (7, 64, 262_144))
    assert found and set(found) == {"a"}


def _value(random_: random.Random, depth: int = 0) -> object:
    kinds = [None, 17, True, "x", ID, KEY, 'a"\\b', "\u00e9\n"]
    if depth < 3 and random_.random() < 0.4:
        values = [_value(random_, depth + 1) for _ in range(random_.randrange(3))]
        return values if random_.random() < 0.5 else {KEY: values, "y": _value(random_, depth + 1)}
    return random_.choice(kinds)


def test_it_is_what_python_finds(lua: Scanners) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    random_ = random.Random(seed)
    for _ in range(1500):
        members = [
            (random_.choice([KEY, "input", "model", "x"]), _value(random_))
            for _ in range(random_.randrange(5))
        ]
        space = random_.choice(["", " ", "\n\t"])
        text = f"{space},{space}".join(
            f"{json.dumps(key)}{space}:{space}{json.dumps(value)}" for key, value in members
        )
        content = f"{space}{{{space}{text}{space}}}{space}"
        found = json.loads(content).get(KEY)
        expected = json.dumps(found)[1:-1] if isinstance(found, str) else None
        assert link(lua, content.encode(), (1, 5, 4096)) == expected, (content, seed)


def test_rubbish_is_the_same_in_all_pieces(lua: Scanners) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    random_ = random.Random(seed)
    for _ in range(1000):
        content = fuzzed(random_).replace(b'"x"', f'"{KEY}"'.encode(), 1)
        found = {
            one.model
            for one in lua.scan(Body(content, piece, links=True) for piece in (1, 5, 4096))
        }
        assert len(found) == 1, f"{content!r}, with random.Random({seed})"


HOSTILE: dict[str, bytes] = {
    "a long text": b'{"input":"' + b"x" * (30 * MB) + b'"}',
    "escapes": b'{"input":"' + b"\\u00e9" * (5 * MB) + b'"}',
    "a long value": b'{"previous_response_id":"' + b"x" * (30 * MB) + b'"}',
    "lists": b'{"input":[' + b"[]," * (10 * MB) + b"1]}",
    "keys": b"{" + b'"previous_response_id":"x",' * MB + b'"y":1}',
}


@pytest.mark.parametrize("name", HOSTILE)
def test_thirty_megabytes_hold_nobody_up(lua: Scanners, name: str) -> None:
    """Bounds with room for a busy machine."""
    [found] = lua.scan([Body(HOSTILE[name], links=True)])
    assert found.slowest < 0.2 and found.seconds < 4
    assert found.kilobytes < 16_384
