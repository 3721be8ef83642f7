"""Bounds of what is read and shown, each at its edge: what is just within it gets through."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from vllm_hosts import bounded
from vllm_hosts.bounded import (
    DIGITS,
    INDEX_SIZE,
    PARTS,
    BoundError,
    json_object,
    parse_json,
    read_file,
    why,
)
from vllm_hosts.text import LIMIT, clean, clean_styled

BELL = "\x07"


def test_what_is_as_large_as_it_may_be() -> None:
    assert parse_json("[1] ", size=4) == [1]
    with pytest.raises(BoundError, match="larger than 0 MB"):
        parse_json("[1]  ", size=4)
    # Of a trillion parameters; and a line of a host's that is quoted.
    assert (INDEX_SIZE, DIGITS, LIMIT) == (64 * 1024**2, 100, 4000)


def test_as_many_levels_as_there_may_be() -> None:
    assert parse_json("[" * 100 + "]" * 100) is not None
    # One beside the other is not one within the other.
    assert len(parse_json("[" + "[[]]," * 500 + "{}]")) == 501
    with pytest.raises(BoundError, match="100 levels"):
        parse_json("[[]," * 101)


def test_a_parser_that_goes_deeper_than_python_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded, "DEPTH", 10**9)
    with pytest.raises(BoundError, match="it is nested too deeply"):
        parse_json("[" * 100_000)


def test_as_many_digits_as_there_may_be() -> None:
    assert parse_json("1" * 100) == int("1" * 100)
    with pytest.raises(BoundError, match="101 digits"):
        parse_json("1" * 101)
    assert parse_json("0." + "1" * 998) == float("0." + "1" * 16)
    with pytest.raises(BoundError, match=r"it has the number 0\.1{18}, which is too large"):
        parse_json("0." + "1" * 999)
    # Its exponent counts too, however far behind it stands.
    assert parse_json("0." + "1" * 500 + "e3") == pytest.approx(111.1111)


def test_as_many_parts_as_there_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    assert PARTS == 4_000_000
    monkeypatch.setattr(bounded, "PARTS", 4)
    assert parse_json('["a", "b", 1, 2]') == ["a", "b", 1, 2]
    with pytest.raises(BoundError) as refused:
        parse_json('["a", "b", "c"]')
    assert str(refused.value) == "it has more than 4 strings, lists and objects"


def test_an_object_and_nothing_else() -> None:
    assert json_object('{"a": [1]}') == {"a": [1]}
    for text in ("[]", '"a"', "null", "1"):
        with pytest.raises(ValueError, match="^not a JSON object$"):
            json_object(text)
    with pytest.raises(BoundError, match="100 levels"):
        json_object('{"a":' * 101)


def test_an_error_does_not_keep_the_text() -> None:
    with pytest.raises(ValueError) as refused:
        parse_json("{secret")
    assert type(refused.value) is ValueError
    assert not isinstance(refused.value, json.JSONDecodeError)


def test_a_file_that_grows_while_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """No more of it is read than shows that it is too large."""
    asked: list[int] = []

    class Endless:
        def __enter__(self) -> Endless:
            return self

        def __exit__(self, *_: object) -> None: ...

        def read(self, size: int) -> bytes:
            asked.append(size)
            return b"x" * size

    def opened(descriptor: int, mode: str) -> Endless:
        os.close(descriptor)
        return Endless()

    monkeypatch.setattr(os, "fdopen", opened)
    with pytest.raises(BoundError, match="larger"):
        read_file(Path("/etc/passwd"), 10)
    assert asked == [11]


def test_what_is_not_read_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[int] = []
    real = os.close

    def close(descriptor: int) -> None:
        closed.append(descriptor)
        real(descriptor)

    monkeypatch.setattr(os, "close", close)
    with pytest.raises(BoundError):
        read_file(tmp_path)
    assert len(closed) == 1


def test_why_is_a_short_line() -> None:
    assert why(ValueError("a\nb")) == "a b"
    assert why(ValueError("x" * 200)) == "x" * 200
    assert why(ValueError("x" * 201)) == "x" * 200 + " ..."


def test_a_text_that_just_fits() -> None:
    assert clean("x" * 10, 10) == "x" * 10
    assert clean("x" * 11, 10) == "x" * 10 + " ..."
    # What is taken out counts, up to eight times as much.
    assert clean(BELL * 79 + "a", 10) == "a"
    assert clean(BELL * 80 + "a", 10) == " ..."
    assert clean("x" * LIMIT) == "x" * LIMIT


def test_a_styled_text_that_just_fits() -> None:
    assert clean_styled("x" * 16 * LIMIT) == "x" * 16 * LIMIT
    assert clean_styled("x" * (16 * LIMIT + 1)) == "x" * 16 * LIMIT + " ..."
    assert clean_styled(BELL * 80 + "a", 10) == ""
