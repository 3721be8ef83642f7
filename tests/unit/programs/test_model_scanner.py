"""The edge's scanner of JSON, in a real Lua, against Python's parser: no wrong model, ever."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.unit.scanning import NONE, OTHER, REFUSED, Body, Scanners, python_says, scanners

#: Bodies that are fuzzed here; tests/lab/test_9_scanners.py makes more.
FUZZED = 4000
MB = 1 << 20


@pytest.fixture(scope="module")
def lua() -> Iterator[Scanners]:
    with scanners() as running:
        yield running


def names(model: str) -> str:
    return repr(model.encode().decode("latin-1"))


#: A body -> what its model is.
SHAPES: dict[str, tuple[bytes, str]] = {
    "as clients write it": (b'{"messages": [{"role": "user"}], "model": "m/x"}', names("m/x")),
    "first": (b'{"model":"a","x":{"model":"b"}}', names("a")),
    "deeper ones are others": (b'{"x":{"model":"b"},"y":[{"model":"c"}]}', NONE),
    "in a text": (b'{"x":"\\"model\\":\\"b\\"","model":"a"}', names("a")),
    "the last of two": (b'{"model":"a","model":"b"}', names("b")),
    "the last of two, which is none": (b'{"model":"a","model":null}', OTHER),
    "the last of two, after none": (b'{"model":[1,{"model":"x"}],"model":"b"}', names("b")),
    "a key in escapes": (b'{"\\u006d\\u006f\\u0064\\u0065\\u006c":"a"}', names("a")),
    "a key in some escapes": (b'{"mo\\u0064e\\u006C":"a"}', names("a")),
    "a key that only begins so": (b'{"models":"b","mode":"c","\\u006dodelx":"d"}', NONE),
    "a key in other escapes": (b'{"\\u016dodel":"a","\\u006eodel":"b","m\\/odel":"c"}', NONE),
    "a key in capitals": (b'{"Model":"a","MODEL":"b"}', NONE),
    "an empty key": (b'{"":"a"}', NONE),
    "escapes": (b'{"model":"a\\/b\\u00e9\\ud834\\udd1e\\n"}', names("a/b\u00e9\U0001d11e\n")),
    "UTF-8": ('{"model":"\u00e9\u2603\U0001d11e"}'.encode(), names("\u00e9\u2603\U0001d11e")),
    "half a pair": (b'{"model":"\\ud834"}', OTHER),
    "the other half": (b'{"model":"\\udd1e"}', OTHER),
    "half a pair and a letter": (b'{"model":"\\ud834\\u0041"}', OTHER),
    "empty": (b'{"model":""}', names("")),
    "a number": (b'{"model":12}', OTHER),
    "an object": (b'{"model":{"model":"a"}}', OTHER),
    "true": (b'{"model":true}', OTHER),
    "none": (b'{"messages":[]}', NONE),
    "nothing": (b"", REFUSED),
    "space": (b" \r\n\t", REFUSED),
    "an empty object": (b" {\t}\r\n", NONE),
    "a list": (b'[{"model":"a"}]', REFUSED),
    "a text": (b'"model"', REFUSED),
    "two": (b'{"model":"a"}{"model":"b"}', REFUSED),
    "cut off": (b'{"model":"a"', REFUSED),
    "cut off in the name": (b'{"model":"a', REFUSED),
    "a comma too many": (b'{"model":"a",}', REFUSED),
    "a comma too many in a list": (b'{"x":[1,],"model":"a"}', REFUSED),
    "no comma": (b'{"x":1 "model":"a"}', REFUSED),
    "no colon": (b'{"model" "a"}', REFUSED),
    "a bracket of the other kind": (b'{"x":[1},"model":"a"}', REFUSED),
    "a bracket too many": (b'{"model":"a"}}', REFUSED),
    "single quotes": (b"{'model':'a'}", REFUSED),
    "a comment": (b'{/**/"model":"a"}', REFUSED),
    "a line feed in a text": (b'{"model":"a\nb"}', REFUSED),
    "a NUL in a text": (b'{"x":"\0","model":"a"}', REFUSED),
    "a NUL around it": (b'{"model":"a"}\0', REFUSED),
    "UTF-16": ('{"model":"a"}'.encode("utf-16"), REFUSED),
    "a byte order mark": (b'\xef\xbb\xbf{"model":"a"}', names("a")),
    "half a byte order mark": (b'\xef\xbb{"model":"a"}', REFUSED),
    "two byte order marks": (b'\xef\xbb\xbf\xef\xbb\xbf{"model":"a"}', REFUSED),
    "an unknown escape": (b'{"x":"\\x","model":"a"}', REFUSED),
    "a short escape": (b'{"x":"\\u12","model":"a"}', REFUSED),
    "a surrogate in UTF-8": (b'{"x":"\xed\xa0\x80","model":"a"}', REFUSED),
    "an overlong one": (b'{"x":"\xc0\xaf","model":"a"}', REFUSED),
    "an overlong one of three": (b'{"x":"\xe0\x80\xaf","model":"a"}', REFUSED),
    "beyond Unicode": (b'{"x":"\xf4\x90\x80\x80","model":"a"}', REFUSED),
    "half a letter": (b'{"x":"\xe2\x98","model":"a"}', REFUSED),
    "Latin-1": (b'{"x":"\xe9","model":"a"}', REFUSED),
    "no number": (b'{"x":NaN,"y":-Infinity,"z":Infinity,"model":"a"}', names("a")),
    "all numbers": (b'{"x":[0,-0,1.5,1e9,1E+9,1.0e-9,-12.34E5],"model":"a"}', names("a")),
    **{
        f"{number} is no number": (b'{"x":%s,"model":"a"}' % number.encode(), REFUSED)
        for number in ("01", "1.", ".5", "+1", "-", "1e", "1e+", "0x1", "1_0", "-NaN", "1.5.5")
    },
    **{
        f"{word} is no word": (b'{"x":%s,"model":"a"}' % word.encode(), REFUSED)
        for word in ("True", "tru", "truee", "nul", "None", "nan", "infinity", "undefined")
    },
}


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape(lua: Scanners, name: str) -> None:
    content, model = SHAPES[name]
    assert python_says(content) == model, "the test itself is wrong"
    pieces = [1, 2, 3, 5, 262_144]
    found = [one.model for one in lua.scan(Body(content, piece) for piece in pieces)]
    assert found == [model] * len(pieces)


def test_a_name_longer_than_any_is_none(lua: Scanners) -> None:
    bodies = [
        Body(b'{"model":"%s"}' % (b"x" * size), piece)
        for size in (2048, 2049)
        for piece in (7, 4096)
    ]
    found = [one.model for one in lua.scan(bodies)]
    assert found == [names("x" * 2048)] * 2 + [OTHER] * 2


def test_depth_has_a_bound(lua: Scanners) -> None:
    deep = [b'{"x":' + b"[" * depth + b"]" * depth + b',"model":"a"}' for depth in (999, 1000)]
    mixed = b'{"x":' + b'[{"x":' * 499 + b"1" + b"}]" * 499 + b',"model":"a"}'
    found = [one.model for one in lua.scan(Body(one, 100) for one in [*deep, mixed])]
    assert found == [names("a"), REFUSED, names("a")]


def _value(random_: random.Random, depth: int) -> Any:
    kinds: list[Callable[[], Any]] = [
        lambda: random_.choice([True, False, None, 0, -1, 1.5e300, -0.0, 10**20]),
        lambda: _text(random_),
        lambda: [_value(random_, depth - 1) for _ in range(random_.randrange(4))],
        lambda: {_key(random_): _value(random_, depth - 1) for _ in range(random_.randrange(4))},
    ]
    return kinds[random_.randrange(len(kinds) if depth else 2)]()


def _text(random_: random.Random) -> str:
    letters = 'model"\\/{}[]:, \n\t\u00e9\u2603\U0001d11e\ud834\x7f\x01'
    return "".join(random_.choice(letters) for _ in range(random_.randrange(8)))


def _key(random_: random.Random) -> str:
    return random_.choice(["model", "models", "mode", "", "x", "Model", _text(random_)])


def _escaped(random_: random.Random, text: str) -> str:
    """Some letters as an escape, which says the same wherever they stand in a text."""
    return "".join(
        f"\\u{ord(letter):04{random_.choice('xX')}}"
        if letter in "model" and random_.random() < 0.2
        else letter
        for letter in text
    )


def fuzzed(random_: random.Random) -> bytes:
    """A body: often a good one, often one with a few bytes changed."""
    members = []
    for _ in range(random_.randrange(5)):
        value = json.dumps(_value(random_, 3), ensure_ascii=random_.random() < 0.5)
        members.append(f"{json.dumps(_key(random_))}:{value}")
    if random_.random() < 0.8:
        model = random_.choice(['"a"', '"b/c"', "null", "7", json.dumps(_text(random_))])
        key = _escaped(random_, "model") if random_.random() < 0.3 else "model"
        members.insert(random_.randrange(len(members) + 1), f'"{key}":{model}')
    space = random_.choice(["", "", " ", "\r\n\t"])
    text = f"{space}{{{space}{(space + ',' + space).join(members)}{space}}}{space}"
    content = bytearray(text.encode("utf-8", "surrogatepass"))
    for _ in range(random_.choice([0, 0, 0, 1, 1, 2, 5])):
        at = random_.randrange(len(content) + 1)
        match random_.randrange(4):
            case 0:
                content[at:at] = bytes([random_.randrange(256)])
            case 1:
                content[at : at + 1] = bytes([random_.choice(b'"\\{}[]:,ul0-e.\x00\xff\xc3\xed')])
            case 2:
                del content[at : at + random_.randrange(4)]
            case _:
                from_ = random_.randrange(len(content) + 1)
                content[at:at] = content[from_ : from_ + random_.randrange(12)]
    return bytes(content)


def test_fuzzed_bodies_have_the_model_that_python_finds(lua: Scanners) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    random_ = random.Random(seed)
    bodies = [Body(fuzzed(random_), random_.choice([1, 2, 3, 7, 64, 4096])) for _ in range(FUZZED)]
    expected = [python_says(body.content) for body in bodies]
    # A fuzzer that makes nothing but rubbish, or nothing but good ones, would show nothing.
    for said in (NONE, OTHER, REFUSED, names("a")):
        assert expected.count(said) > FUZZED / 100, said
    wrong = [
        (body, said, one.model)
        for body, said, one in zip(bodies, expected, lua.scan(bodies), strict=True)
        if one.model != said
    ]
    assert wrong[:3] == [], f"with random.Random({seed})"


def test_every_byte_in_every_place(lua: Scanners) -> None:
    """Each place of a body that has all kinds of things, with each byte in it."""
    good = b'{"a\\n":[1.5e-3,true,{"b":null}],"mod\\u0065l":"x\xc3\xa9\\/"}'
    bodies = [
        Body(good[:at] + bytes([byte]) + good[at + 1 :], 16)
        for at in range(len(good))
        for byte in range(256)
    ]
    wrong = [
        (body.content, python_says(body.content), one.model)
        for body, one in zip(bodies, lua.scan(bodies), strict=True)
        if one.model != python_says(body.content)
    ]
    assert wrong[:3] == []


#: 30 MB each, made to be slow or large for whoever builds what is in them.
HOSTILE: dict[str, bytes] = {
    "a text": b'{"x":"' + b"x" * (30 * MB),
    "numbers": b'{"x":[' + b"1234567," * (30 * MB // 8),
    "short lists": b'{"x":[' + b"[]," * (10 * MB),
    "objects": b'{"x":[' + b'{"a":1},' * (30 * MB // 8),
    "escapes": b'{"x":"' + b"\\u00e9" * (5 * MB),
    "keys": b"{" + b'"k":1,' * (5 * MB),
    "models": b"{" + b'"model":"a",' * (30 * MB // 12),
    "open lists": b'{"x":' + b"[" * (30 * MB),
}
ENDS = {"a": b'"', "n": b"1]", "s": b"1]", "o": b"1]", "e": b'"', "k": b'"k":1', "m": b'"k":1'}


@pytest.mark.parametrize("name", HOSTILE)
def test_thirty_megabytes_hold_nobody_up(lua: Scanners, name: str) -> None:
    """Bounds with room for a busy machine; the figures that it comes to are in docs/design.md."""
    end = b"" if name == "open lists" else ENDS[name[0]] + b',"model":"m"}'
    [found] = lua.scan([Body(HOSTILE[name] + end)])
    assert found.model == (REFUSED if name == "open lists" else names("m"))
    assert found.slowest < 0.1 and found.seconds < 3
    assert found.kilobytes < 1024
