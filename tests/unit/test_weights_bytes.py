"""Files with weights, byte by byte: the shortest that is one, and each that is none."""

from __future__ import annotations

import io
import json

import pytest

from vllm_hosts.hub import weights
from vllm_hosts.hub.weights import LARGEST, judged, parts, read_total, tensor_bytes


def made(header: bytes, tensors: int = 0, length: int | None = None) -> bytes:
    size = len(header) if length is None else length
    return size.to_bytes(8, "little") + header + b"\0" * tensors


def ends(*numbers: object) -> bytes:
    return json.dumps(
        {str(n): {"data_offsets": [0, end]} for n, end in enumerate(numbers)}
    ).encode()


def read(content: bytes) -> int:
    return tensor_bytes(io.BytesIO(content), len(content))


def test_what_formats_and_libraries_say() -> None:
    assert (weights.POINTER_SIZE, weights.HEADER_SIZE, LARGEST) == (1024, 32 << 20, 1 << 50)


def test_files_that_are_whole() -> None:
    assert read(made(b"{}")) == 0
    assert read(made(ends(0))) == 0
    assert read(made(ends(5, 3), 5)) == 5


def test_a_header_as_long_as_the_library_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    header = ends(4)
    monkeypatch.setattr(weights, "HEADER_SIZE", len(header))
    assert read(made(header, 4)) == 4
    monkeypatch.setattr(weights, "HEADER_SIZE", len(header) - 1)
    with pytest.raises(ValueError, match="it has no header"):
        read(made(header, 4))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"\0" * 7, "its header does not fit"),
        (b"\0" * 8, "it has no header"),
        (made(b"{", length=2), "its header does not fit"),
        (made(b"{}" + b" " * 10, length=15), "its header does not fit"),
        (made(b"{x"), "it has no header"),
        (made(b"[]"), "it has no header"),
        (made(ends("x"), 9), "it has no header"),
        (made(ends(-1), 9), "it has no header"),
        (made(ends(LARGEST)), f"was cut short: it has .* of {LARGEST + 8 + len(ends(LARGEST))}"),
        (made(ends(LARGEST + 1)), "it has no header"),
        (made(ends(5), 4), "was cut short"),
    ],
)
def test_files_that_are_not(content: bytes, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read(content)


def test_a_header_of_one_byte_is_none() -> None:
    assert judged(10, 2, 0) == 0
    with pytest.raises(ValueError, match="it has no header"):
        judged(10, 1, 0)


def test_names_in_an_index() -> None:
    named = {"a": "one.safetensors", "b": 7, "c": "../two.safetensors", "d": "one.safetensors"}
    index = json.dumps({"weight_map": named}).encode()
    assert parts(index, 1000) == {"one.safetensors"}
    assert parts(b"junk", 1000) == frozenset()


def test_the_smallest_and_the_largest_total() -> None:
    assert [read_total(n) for n in (0, 1, LARGEST, LARGEST + 1)] == [None, 1, LARGEST, None]
