"""What the edge reads of a request for a stream, in a real Lua, against Python's parser."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tests.unit.examples import examples
from tests.unit.scanning import REFUSED, Body, Scanners, scanners

#: What the edge puts in before the last bracket.
ADDED = b',"stream_options":{"include_usage":true,"continuous_usage_stats":true}'
NAMES = ("stream", "stream_options", "include_usage", "continuous_usage_stats", "model")


@pytest.fixture(scope="module")
def lua() -> Iterator[Scanners]:
    with scanners() as running:
        yield running


def _first(value: object) -> str:
    """The first letter of a value as JSON, which is all that the edge knows of it."""
    return json.dumps(value)[0]


def python_says(content: bytes) -> str:
    found = json.loads(content)
    options = found.get("stream_options", ...)
    inner = options if isinstance(options, dict) else {}
    values = [
        found.get("stream", ...),
        options,
        *(inner.get(key, ...) for key in NAMES[2:4]),
    ]
    return "".join("-" if value is ... else _first(value) for value in values)


def _key(text: str, escaped: frozenset[int], capital: bool) -> str:
    """A key, some letters of which are written as escapes."""
    form = "04X" if capital else "04x"
    return (
        '"'
        + "".join(
            f"\\u{ord(letter):{form}}" if place in escaped else json.dumps(letter)[1:-1]
            for place, letter in enumerate(text)
        )
        + '"'
    )


_NAMES = st.sampled_from(
    [*NAMES, *NAMES, "", "strea", "streams", "stream_option", "stream_options_", "Stream", "x"]
    + ["include_usag", "include_usages", "continuous", "modelx"]
)
_KEYS = st.builds(
    _key,
    _NAMES,
    st.frozensets(st.integers(0, 22), max_size=3) | st.just(frozenset()),
    st.booleans(),
)
_SPACE = st.sampled_from(["", "", " ", "\n\t"])
_LEAVES = st.sampled_from(
    ["true", "false", "null", "1", "-0.5e3", '"true"', '"\\"stream\\":true"', "NaN", "[]", "{}"]
)


@st.composite
def _objects(draw: st.DrawFn, depth: int) -> str:
    space = draw(_SPACE)
    members = []
    for _ in range(draw(st.integers(0, 5))):
        value = draw(_LEAVES if depth == 0 else _LEAVES | _objects(depth - 1) | _lists(depth - 1))
        members.append(f"{draw(_KEYS)}{space}:{draw(_SPACE)}{value}")
    return f"{{{space}{(',' + draw(_SPACE)).join(members)}{draw(_SPACE)}}}"


@st.composite
def _lists(draw: st.DrawFn, depth: int) -> str:
    values = draw(st.lists(_LEAVES | _objects(depth), max_size=2))
    return f"[{','.join(values)}]"


@given(body=_objects(2), around=_SPACE, behind=_SPACE, piece=st.sampled_from([1, 2, 3, 7, 4096]))
@hypothesis_settings(
    max_examples=examples(60), suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_request_s_wishes_are_those_that_python_reads(
    lua: Scanners, body: str, around: str, behind: str, piece: int
) -> None:
    content = f"{around}{body}{behind}".encode()
    [found] = lua.scan([Body(content, piece, asks=True)])
    letters, last = found.model.split(" ")
    assert letters == python_says(content)
    at = int(last)
    assert content[at:] == b"}" + behind.encode()
    before: dict[str, Any] = json.loads(content)
    if before:
        after = json.loads(content[:at] + ADDED + content[at:])
        options = {"include_usage": True, "continuous_usage_stats": True}
        assert repr(after) == repr(before | {"stream_options": options})


@pytest.mark.parametrize(
    ("content", "letters"),
    [
        (b'{"stream":true}', "t---"),
        (b'{"stream" : false,"stream":true}', "t---"),
        (b'{"\\u0073tream":true,"s\\u0074ream_options":{"include\\u005Fusage":true}}', "t{t-"),
        (b'{"stream_options":{"include_usage":true},"stream_options":{}}', "-{--"),
        (b'{"stream_options":{"include_usage":true},"stream_options":null}', "-n--"),
        (b'{"stream_options":{"x":{"include_usage":true}}}', "-{--"),
        (b'{"stream_options":[{"include_usage":true}]}', "-[--"),
        (b'{"include_usage":true,"x":{"stream":true}}', "----"),
        (b'{"stream_options":{"stream":true,"continuous_usage_stats":"t"}}', '-{-"'),
        (b'{"stream_options":{"stream_options":{"include_usage":true}}}', "-{--"),
    ],
)
def test_a_shape(lua: Scanners, content: bytes, letters: str) -> None:
    assert python_says(content) == letters, "the test itself is wrong"
    for piece in (1, 2, 5, 4096):
        [found] = lua.scan([Body(content, piece, asks=True)])
        assert found.model == f"{letters} {len(content) - 1}"


@pytest.mark.parametrize(
    "content", [b'{"stream":true', b'{"stream":tru}', b'{"stream_options":{]}', b'{"stream":\xff}']
)
def test_what_is_no_json_is_none_here_either(lua: Scanners, content: bytes) -> None:
    [found] = lua.scan([Body(content, asks=True)])
    assert found.model == REFUSED
