"""Sanitises text from hosts and models, which is untrusted until then.

A terminal obeys whatever it is sent: escape sequences move its cursor, rename its window, fill its
clipboard and hide lines, and overrides of direction make one name read as another.
"""

from __future__ import annotations

import re

#: Longer than any sentence of ours, and short enough that a list of everything is cut.
LIMIT = 4000
#: ECMA-48, 5.6 and 8.3, in 7-bit and 8-bit forms: strings (OSC, DCS, SOS, PM, APC) with their
#: content, control sequences, and other escapes. The bound keeps matching linear.
_SEQUENCE = re.compile(
    r"(?:\x1b[\]PX^_]|[\x90\x98\x9d\x9e\x9f])[^\x07\x1b\x9c]{0,4000}(?:\x07|\x1b\\|\x9c)"
    r"|(?:\x1b\[|\x9b)[0-?]{0,100}[ -/]{0,10}[@-~]"
    r"|\x1b[ -/]{0,10}[0-Z\\^-~]"
)
#: Colours and weights that pyinfra and we print ourselves, but none that hide text.
_STYLE = re.compile(r"\x1b\[(?:0|1|2|4|22|24|39|49|3[0-7]|9[0-7])(?:;(?:1|3[0-7]|9[0-7])){0,2}m")
#: Letters according to Unicode, but invisible.
_INVISIBLE = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")


def clean(text: object, limit: int = LIMIT, *, keep: str = "\t", instead: str = "") -> str:
    """Text as one line of visible characters, cut at ``limit``.

    Removes control characters (C0, C1, DEL), escape sequences, overrides of direction, other
    invisible characters and lone surrogates. Line ends become spaces.

    :param keep: white space that stays as it is.
    :param instead: replaces whatever is removed. After keys were masked, it keeps parts of a key
        from being joined.
    """
    # Removed text counts too, so that a gigabyte of escape sequences is not read to its end.
    given = str(text)
    found = given[: 8 * limit]
    if not (found.isascii() and found.isprintable()):
        found = _SEQUENCE.sub(instead, found)
        found = "".join(_shown(character, keep, instead) for character in found)
    whole = len(found) <= limit and len(given) <= 8 * limit
    return found if whole else f"{found[:limit]} ..."


def quoted(value: object, limit: int = 200) -> str:
    """A value as Python writes it, for a sentence that refuses it: whatever it is."""
    try:
        return clean(repr(value), limit)
    except (RecursionError, ValueError):
        # Nested in itself, or an integer with more digits than Python writes.
        return f"a {type(value).__name__} that is too large to show"


def clean_styled(text: object, limit: int = 16 * LIMIT) -> str:
    """The same for our own output, in which colours and lines stay."""
    given = str(text)[: 8 * limit]
    parts = [clean(part, limit, keep="\t\n") for part in _STYLE.split(given)]
    return "".join(
        part + style for part, style in zip(parts, [*_STYLE.findall(given), ""], strict=True)
    )


def _shown(character: str, keep: str, instead: str) -> str:
    if character in keep:
        return character
    if character.isspace():
        return " "
    # In Python: not in the categories Other (which includes Cf and Cs) and Separator.
    return character if character.isprintable() and character not in _INVISIBLE else instead
