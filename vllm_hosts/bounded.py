"""Reads JSON from hosts, hubs and models within bounds, so that it never costs too much."""

from __future__ import annotations

import json
import math
import os
import re
import stat
from pathlib import Path
from typing import Any, NoReturn

from vllm_hosts.text import clean

#: Bytes. The largest answers of hosts are lists of sockets and rules; config.json is far smaller.
SIZE = 16 << 20
#: The index of a model with a trillion parameters has 12 MB.
INDEX_SIZE = 64 << 20
DEPTH = 100
#: Strings, lists and objects: ten times as many as that index has. Each takes more memory than its
#: text, and time.
PARTS = 4_000_000
#: Digits: more than any count of bytes or tokens has; Python's own limit is 4300.
DIGITS = 100

#: Whole strings, so that brackets inside do not count. An unfinished one ends with the text.
_TOKEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*\\?(?:"|\Z)|[\[{]|[\]}]', re.DOTALL)


class BoundError(ValueError):
    """Above a bound: too large, too deep, of too many parts, or not a finite number."""


def parse_json(text: str | bytes, *, size: int = SIZE) -> Any:
    """Parse JSON from an untrusted source.

    :raises BoundError: it exceeds a bound, or has NaN, Infinity or a number that overflows.
    :raises ValueError: it is not JSON.
    """
    if len(text) > size:
        raise BoundError(f"it is larger than {_megabytes(size)}")
    if isinstance(text, bytes):
        text = text.decode()
    _check_shape(text)
    try:
        return json.loads(text, parse_int=_whole, parse_float=_real, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        # The error holds the whole document, but its message does not quote it.
        raise ValueError(str(error)) from None
    except RecursionError:
        raise BoundError("it is nested too deeply") from None


def json_object(text: str) -> dict[str, Any]:
    """A JSON object of a source that we do not trust.

    :raises ValueError: it is not JSON, not an object, or above a bound.
    """
    value = parse_json(text)
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


def _check_shape(text: str) -> None:
    depth = 0
    for count, match in enumerate(_TOKEN.finditer(text), 1):
        if count > PARTS:
            raise BoundError(f"it has more than {PARTS} strings, lists and objects")
        first = text[match.start()]
        if first in "[{":
            depth += 1
            if depth > DEPTH:
                raise BoundError(f"it is nested more than {DEPTH} levels deep")
        elif first in "]}":
            depth -= 1


def _whole(digits: str) -> int:
    if len(digits) > DIGITS:
        raise BoundError(f"it has a number of {len(digits)} digits")
    return int(digits)


def _real(digits: str) -> float:
    if len(digits) > DIGITS * 10 or not math.isfinite(value := float(digits)):
        raise BoundError(f"it has the number {digits[:20]}, which is too large")
    return value


def _no_constant(name: str) -> NoReturn:
    raise BoundError(f"it has {name}, which is not a number")


def read_file(path: Path, size: int = SIZE) -> bytes:
    """Read a regular file of limited size. Nothing else is opened: a FIFO would block for ever.

    :raises BoundError: it is larger, or not a regular file.
    :raises OSError: it cannot be read.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise BoundError("it is not a regular file")
    with os.fdopen(descriptor, "rb") as file:
        content = file.read(size + 1)
    if len(content) > size:
        raise BoundError(f"it is larger than {_megabytes(size)}")
    return content


def why(error: Exception) -> str:
    """An error of this module, in words that may be shown."""
    return clean(error, 200)


def _megabytes(size: int) -> str:
    return f"{size >> 20} MB"
