"""Whether weight files are what their names suggest: safetensors, complete, and not pointers.

Format: https://huggingface.co/docs/safetensors/index#format; pointers:
https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md. Touches no host.
"""

from __future__ import annotations

import re
from typing import BinaryIO

from vllm_hosts.bounded import parse_json

#: A clone without git-lfs has this instead of every large file, in at most 1024 bytes.
POINTER = "version https://git-lfs.github.com/spec/"
POINTER_SIZE = 1024
#: A third of what the library reads (safetensors, tensor.rs, MAX_HEADER_SIZE): files of large
#: models have headers of a few hundred kilobytes.
HEADER_SIZE = 32 << 20
#: Bytes of weights. No model has a pebibyte.
LARGEST = 1 << 50

IS_POINTER = (
    "is a git-lfs pointer, not the file itself; run `git lfs pull` in that folder, or fetch the"
    " model again"
)


def is_pointer(content: bytes) -> bool:
    """Whether a file begins as a pointer does."""
    return content.startswith(POINTER.encode())


def tensor_bytes(file: BinaryIO, size: int) -> int:
    """Bytes of tensors in a safetensors file of this size.

    :raises ValueError: weights are missing; the message continues a sentence that begins with the
        file's name.
    """
    start = file.read(len(POINTER))
    if is_pointer(start):
        raise ValueError(IS_POINTER)
    length = int.from_bytes(start[:8], "little")
    if len(start) >= 9 and start[8:9] == b"{" and 2 <= length <= HEADER_SIZE:
        file.seek(8)
        return judged(size, length, _end(file.read(length), length))
    return judged(size, length if len(start) >= 8 else None, None)


def judged(size: int, header: int | None, end: int | None) -> int:
    """The same, from the parts of the file that were read.

    :param header: length of the header, from the first eight bytes; None: there are fewer.
    :param end: offset after the header where the last tensor ends; None: the header has none.
    :raises ValueError: as ``tensor_bytes``.
    """
    if size == 0:
        raise ValueError("is empty; fetch the model again")
    if header is None or header > size - 8:
        raise ValueError(
            "is not a safetensors file, or was cut short: its header does not fit in it; fetch the"
            " model again"
        )
    if end is None or header < 2:
        raise ValueError("is not a safetensors file: it has no header; fetch the model again")
    if size < 8 + header + end:
        raise ValueError(
            f"was cut short: it has {size} of {8 + header + end} bytes; fetch the model again"
        )
    return size - 8 - header


def _end(header: bytes, length: int) -> int | None:
    """Where the last tensor ends; 0 in a file without any."""
    if len(header) < length:
        return None
    try:
        tensors = parse_json(header, size=HEADER_SIZE)
        ends = [
            tensor["data_offsets"][1] for name, tensor in tensors.items() if name != "__metadata__"
        ]
    except (ValueError, AttributeError, LookupError, TypeError):
        return None
    good = all(isinstance(end, int) and 0 <= end <= LARGEST for end in ends)
    return max(ends, default=0) if good else None


def parts(index: bytes, size: int) -> frozenset[str]:
    """Files that a safetensors index refers to; none if it cannot be read."""
    try:
        names = parse_json(index, size=size)["weight_map"].values()
        return frozenset(name for name in names if isinstance(name, str) and _PLAIN.fullmatch(name))
    except (ValueError, AttributeError, LookupError, TypeError):
        return frozenset()


_NUMBER = re.compile(r"[0-9]{1,20}(\.[0-9]{1,20})?([eE]\+?[0-9]{1,2})?", re.ASCII)
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._@+-]{0,250}")


def read_total(value: object) -> int | None:
    """An index's total size in bytes, which may be 1.5e10, "15000000000" or null."""
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        value = int(value) if value.isdecimal() else float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if 0 < value <= LARGEST else None
