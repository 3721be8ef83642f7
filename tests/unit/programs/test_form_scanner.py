"""The edge's scanner of forms, in a real Lua."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from tests.unit.scanning import NONE, OTHER, REFUSED, Body, Scanners, form_says, scanners

TYPE = "multipart/form-data; boundary=xYz"
MB = 1 << 20


@pytest.fixture(scope="module")
def lua() -> Iterator[Scanners]:
    with scanners() as running:
        yield running


def part(name: str, value: str = "", more: str = "") -> str:
    return f'--xYz\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n{value}\r\n'


MODEL, END = part("model", "whisper"), "--xYz--\r\n"
FILE = part("file", "RIFF\0\r\n--xY\r\n--\r\n\r\n", '; filename="model"\r\nContent-Type: audio/wav')
SHAPES: dict[str, tuple[str, str]] = {
    "as clients send it": (FILE + MODEL + END, "'whisper'"),
    "first": (MODEL + FILE + END, "'whisper'"),
    "with text before and after": ("preamble\r\n" + MODEL + END + "epilogue", "'whisper'"),
    "without a line's end": (MODEL + END.strip(), "'whisper'"),
    "without quotes": (MODEL.replace('"', "") + END, "'whisper'"),
    "in other letters": (MODEL.replace("Content-D", "content-d") + END, "'whisper'"),
    "further lines in the head": (part("model", "w", "\r\nContent-Type: text/plain") + END, "'w'"),
    "empty": (part("model") + END, "''"),
    "none": (FILE + END, NONE),
    "no part": (END, NONE),
    "a part without a head": ("--xYz\r\n\r\nx\r\n" + MODEL + END, "'whisper'"),
    "two": (MODEL + MODEL + END, OTHER),
    "a file of that name": (part("model", "w", '; filename="x"') + END, NONE),
    "another name": (part("models", "w") + part("xmodel", "w") + END, NONE),
    "a semicolon at the end": (part("model", "w", " ; ") + END, "'w'"),
    "two semicolons at the end": (part("model", "w", "; ;") + END, NONE),
    "blanks at the end": (part("model", "w", " " * 1000) + END, "'w'"),
    "more parameters than anybody sends": (part("model", "w", "; a=b" * 16) + END, NONE),
    "a name in capitals": (part("Model", "w") + END, NONE),
    "the name in a file's name": (part("x", "w", '; filename="; name=model"') + END, NONE),
    "in the text of another": (part("prompt", MODEL.replace("xYz", "xYy")) + END, NONE),
    "long": (part("model", "w" * 2048) + END, repr("w" * 2048)),
    "too long": (part("model", "w" * 2049) + END, REFUSED),
    "a head without end": ("--xYz\r\n" + "x" * 9000 + "\r\n\r\n" + END, REFUSED),
    "a part that ends in its head": ("--xYz\r\nContent-Disposition: x\r\n" + MODEL + END, REFUSED),
    "another delimiter": (MODEL.replace("xYz", "abc"), REFUSED),
    "a longer delimiter": (MODEL.replace("xYz", "xYzz") + END, REFUSED),
    "cut off": (MODEL, REFUSED),
    "two dispositions": (
        MODEL.replace("\r\n\r\n", "\r\ncontent-disposition : x\r\n\r\n") + END,
        REFUSED,
    ),
    "cut off in the value": (MODEL[:-6], REFUSED),
    "nothing": ("", REFUSED),
    "JSON": ('{"model": "whisper"}', REFUSED),
}


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape(lua: Scanners, name: str) -> None:
    content, model = SHAPES[name]
    pieces = [1, 2, 3, 7, 64, 262_144]
    bodies = [Body(content.encode(), piece, TYPE) for piece in pieces]
    assert [one.model for one in lua.scan(bodies)] == [model] * len(pieces)


@pytest.mark.parametrize(
    ("content_type", "read"),
    [
        ('multipart/form-data; boundary="xYz"', True),
        ("multipart/form-data;BOUNDARY=xYz; charset=utf-8", True),
        ("multipart/form-data", False),
        ("multipart/form-data; boundary=", False),
        ("multipart/form-data; myboundary=xYz", False),
        (f"multipart/form-data; boundary={'x' * 201}", False),
    ],
)
def test_the_delimiter_is_in_the_type(lua: Scanners, content_type: str, read: bool) -> None:
    [found] = lua.scan([Body((MODEL + END).encode(), 100, content_type)])
    assert found.model == ("'whisper'" if read else REFUSED)


def test_fuzzed_forms(lua: Scanners) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    random_ = random.Random(seed)
    whole = [MODEL, FILE, part("x", "y\r\n--x"), part("model")]
    inserted = [b"\r", b"\n", b"\r\n", b"-", b"--xYz", b"\r\n\r\n", b"\r\n--xYz\r\n"]
    bodies = []
    for _ in range(4000):
        parts = random_.choices(whole, k=random_.randrange(4))
        content = bytearray("".join([*parts, END]).encode())
        for _ in range(random_.choice([0, 0, 1, 2])):
            at = random_.randrange(len(content) + 1)
            content[at:at] = random_.choice(inserted)
        bodies.append(Body(bytes(content), random_.choice([1, 2, 5, 33, 4096]), TYPE))
    expected = [form_says(body.content, b"xYz") for body in bodies]
    for said in (NONE, OTHER, REFUSED, "'whisper'"):
        assert expected.count(said) > 40, said
    wrong = [
        (body, said, one.model)
        for body, said, one in zip(bodies, expected, lua.scan(bodies), strict=True)
        if one.model != said
    ]
    assert wrong[:3] == [], f"with random.Random({seed})"


@pytest.mark.parametrize("filling", [b"\0", b"\r\n--xY", b"\r\n", b"-"])
def test_thirty_megabytes_hold_nobody_up(lua: Scanners, filling: bytes) -> None:
    head, end = part("file", "", '; filename="x.wav"')[:-2], "\r\n" + MODEL + END
    content = head.encode() + filling * (30 * MB // len(filling)) + end.encode()
    [found] = lua.scan([Body(content, form=TYPE)])
    assert found.model == "'whisper'"
    assert found.slowest < 0.1 and found.seconds < 3
    assert found.kilobytes < 1024


@pytest.mark.parametrize("more", [" " * 8000 + "x", ";a=b" * 2000, " ;" * 4000, ";a" + " " * 8000])
def test_heads_hold_nobody_up_either(lua: Scanners, more: str) -> None:
    content = part("model", "", more) * (2 * MB // len(more)) + MODEL + END
    [found] = lua.scan([Body(content.encode(), form=TYPE)])
    assert found.model == "'whisper'"
    assert found.slowest < 0.1 and found.seconds < 0.5
