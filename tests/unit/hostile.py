"""What a compromised host, hub or model may say, and what must never be left of it."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping, Sequence, Set
from random import Random
from typing import Any

from hypothesis import strategies as st

#: A title for the window, a cleared screen, a name that reads backwards, and other line ends.
ESCAPES = "\x1b]0;owned\x07\x1b[2J\x9b8m\u202eA\r\x0b\x85\u2028\x00\u200b"
#: Words that parsers, shells, templates or terminals could take for something else.
WORDS = (
    ESCAPES,
    "\x1b[8m",
    "\r\x1b[K0 of 1",
    "\ufffd\ufeff",
    "9" * 5000,
    "-1",
    "0x7f",
    "1e999",
    "NaN",
    "Infinity",
    "²",
    "٣",
    "1_000",
    "[" * 3000,
    '{"a":' * 3000,
    '{"a": NaN}',
    "null",
    "{}",
    "[]",
    '""',
    "../../../../tmp/owned",
    "/etc/passwd",
    "<script>alert(1)</script>",
    "]]></x><!--",
    "{{ 7 * 7 }}{% raw %}",
    "$(touch owned) `touch owned`; touch owned",
    "%s%n{0}{x!r}\\1\\g<9>",
    "a" * 100_000,
    "== host",
    "vllm-hosts-end",
    "exit 0",
    "[/] [bold red]forged[/bold red] [link=https://example.com]x[/link]",
    "-----BEGIN CERTIFICATE-----",
)
#: Characters that a terminal obeys, or that end a line or hide something.
_EVIL = re.compile(
    "[\x00-\x08\x0a-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]"
)

#: Values that are JSON and not what anybody expects.
VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    1.5,
    10**30,
    -(10**30),
    "",
    [],
    {},
    [None],
    {"x": None},
    ["x"],
    *WORDS,
)

#: What hypothesis chooses: the rest follows from it, which costs little, and is done in any
#: greenlet.
seeds = st.integers(0, 2**32 - 1).map(Random)


def word(random: Random) -> str:
    """Without line ends, which end a line of an answer."""
    if random.random() < 0.7:
        return random.choice(WORDS)
    length = random.randint(0, 12)
    codes = (random.choice((0x20, 0x80, 0x300, 0x2100, 0x10000)) for _ in range(length))
    made = "".join(chr(random.randrange(code) or 0x20) for code in codes)
    return "".join(" " if one == "\n" or "\ud800" <= one <= "\udfff" else one for one in made)


def answer(random: Random, lines: Sequence[str]) -> list[str]:
    """Lines of a real answer, of which one to four are a hostile host's; every other time only
    words in them, so that they are understood and shown."""
    found = list(lines)
    if random.random() < 0.5:
        for _ in range(random.randint(1, 4)):
            at = random.randrange(len(found))
            if not found[at].startswith("== "):
                found[at] = _json(random, found[at])
        return found
    for _ in range(random.randint(1, 4)):
        at = random.randrange(len(found)) if found else 0
        match random.randint(0, 6) if found else 0:
            case 0:
                found.insert(at, word(random))
            case 1:
                found[at] = word(random)
            case 2:
                found[at] = _replaced(random, found[at], r"[^ ]+")
            case 3:
                # Between what separates fields.
                found[at] = _replaced(random, found[at], r'[^ |,:"=]+')
            case 4 | 5:
                found[at] = _json(random, found[at])
            case _:
                del found[at]
    return found


def _replaced(random: Random, line: str, part: str) -> str:
    spans = [match.span() for match in re.finditer(part, line[:10_000])] or [(0, len(line))]
    start, end = random.choice(spans)
    return line[:start] + word(random) + line[end:]


def _json(random: Random, line: str) -> str:
    """JSON in a line with another value somewhere."""
    start = line.find("{")
    try:
        value = json.loads(line[start:]) if start >= 0 else None
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict) or not value:
        return _replaced(random, line, r'[^ |,:"=]+')
    return line[:start] + json.dumps(odd(random, value))


def odd(random: Random, value: Any) -> Any:
    """A value with another one somewhere in it, or in its place."""
    if isinstance(value, dict) and value and random.random() < 0.8:
        key = random.choice(list(value))
        return {**value, key: odd(random, value[key])}
    if isinstance(value, list) and value and random.random() < 0.8:
        at = random.randrange(len(value))
        return [*value[:at], odd(random, value[at]), *value[at + 1 :]]
    return random.choice(VALUES)


def evil(text: str) -> bool:
    """Whether a line of text has something that does more than to be read."""
    return _EVIL.search(text) is not None


def texts(value: Any, where: str = "") -> Iterator[tuple[str, str]]:
    """Every text in a value, with the names of the fields that lead there."""
    if isinstance(value, str):
        yield where, value
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            inner = getattr(value, field.name)
            yield from texts(inner, f"{type(value).__name__}.{field.name}")
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from texts(key, where)
            yield from texts(inner, where)
    elif isinstance(value, Sequence | Set) and not isinstance(value, bytes):
        for inner in value:
            yield from texts(inner, where)
