"""The edge's scanners in Lua, fed with bodies as nginx feeds them, and what Python says to them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.unit.real_nginx import LUA_LIBRARIES, program

LUA = Path(__file__).parents[2] / "roles/nginx/lua"
#: What a scanner says where there is no model to be had.
NONE, OTHER, REFUSED = "none", "other", "refused"
#: Deeper than that, the scanner refuses what Python may still read.
DEPTH = 1000


@dataclass(frozen=True)
class Body:
    """One body, in pieces of so many bytes; ``form``: the type of a form, and empty for JSON.

    ``asks``: what is wanted of it is how it asks for a stream; ``turns``: the number of its
    prompt's beginning; ``links``: the response that it goes on from, as hexadecimal digits.
    """

    content: bytes
    piece: int = 262_144
    form: str = ""
    asks: bool = False
    turns: bool = False
    links: bool = False


@dataclass(frozen=True)
class Scanned:
    """What a scanner found: the model's name in quotes, or one of the words above.

    ``seconds`` of processor time for all of it, and for the slowest piece; ``kilobytes`` that it
    took.
    """

    model: str
    seconds: float
    slowest: float
    kilobytes: int


class Scanners:
    """A Lua of its own, which takes one body after the other."""

    def __init__(self) -> None:
        words = [program("luajit"), str(Path(__file__).with_name("scan_bodies.lua")), str(LUA)]
        self._process = subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "LD_LIBRARY_PATH": LUA_LIBRARIES},
        )

    def scan(self, bodies: Iterable[Body]) -> Iterator[Scanned]:
        assert self._process.stdin and self._process.stdout
        for body in bodies:
            kind = "form" if body.form else "asks" if body.asks else "json"
            kind = "turns" if body.turns else "links" if body.links else kind
            head = f"{kind} {len(body.content)} {body.piece} {body.form}\n".encode()
            self._process.stdin.write(head + body.content)
            self._process.stdin.flush()
            line = self._process.stdout.readline().decode()
            assert line, f"the scanner died at {body.content[:200]!r} in pieces of {body.piece}"
            seconds, slowest, kilobytes, said = line.rstrip("\n").split(" ", 3)
            if said.startswith("model "):
                said = repr(bytes.fromhex(said.removeprefix("model ")).decode("latin-1"))
            yield Scanned(said, float(seconds), float(slowest), int(kilobytes))

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(30)


def form_says(content: bytes, boundary: bytes) -> str:
    """What a form has in its field ``model``, read at once, in the words of ``Scanned.model``."""
    _, *parts = (b"\r\n" + content).split(b"\r\n--" + boundary)
    found: list[bytes] = []
    for number, part in enumerate(parts):
        if part.startswith(b"--"):
            if len(found) > 1:
                return OTHER
            return repr(found[0].decode("latin-1")) if found else NONE
        # The line's end before a delimiter may be that of the part's head.
        head, blank, value = (part + b"\r\n").partition(b"\r\n\r\n")
        if not part.startswith(b"\r\n") or not blank or number == len(parts) - 1:
            return REFUSED
        lines = re.split(rb"[\r\n]+", head)
        # Parsers take the first or the last of two.
        if sum(line.startswith(b"Content-Disposition:") for line in lines) > 1:
            return REFUSED
        if b'Content-Disposition: form-data; name="model"' in lines:
            found.append(value.removesuffix(b"\r\n"))
    return REFUSED


@contextmanager
def scanners() -> Iterator[Scanners]:
    running = Scanners()
    try:
        yield running
    finally:
        running.close()


def python_says(content: bytes) -> str:
    """What vLLM's own parser makes of a body, in the words of ``Scanned.model``."""
    try:
        if b"\0" in content:
            # Python would take it for UTF-16 or UTF-32, which no client sends.
            return REFUSED
        # Python lets halves of pairs pass, over which tokenizers break.
        content.decode()
        # Numbers of many digits are numbers; Python only reads none of more than 4300.
        sys.set_int_max_str_digits(0)
        found = json.loads(content)
    except (ValueError, RecursionError):
        return REFUSED
    finally:
        sys.set_int_max_str_digits(4300)
    if not isinstance(found, dict):
        return REFUSED
    if "model" not in found:
        return NONE
    model = found["model"]
    try:
        name = model.encode() if isinstance(model, str) else None
    except UnicodeEncodeError:
        name = None
    return OTHER if name is None else repr(name.decode("latin-1"))
