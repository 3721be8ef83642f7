"""Many scripts in one execution on a host, and their answers, told apart by length.

No text that a script prints can pass for another's answer or for the end of one: sizes are counted
before a byte is sent.
"""

from __future__ import annotations

import base64
import binascii
import gzip
import io
import tarfile
import zlib
from collections.abc import Sequence
from shlex import quote
from textwrap import dedent

from vllm_hosts.bounded import SIZE
from vllm_hosts.host.paths import LOOK

#: Seconds that all scripts may take here. One that is not done by then is asked alone, without a
#: limit.
PATIENCE = 40
#: Scripts that run side by side: a host has other work.
SIDE_BY_SIDE = 4
#: Lines of all answers: an empty one takes memory too.
_LINES = 500_000
#: Bytes of one line of standard input.
_LINE = 4096


def program(shell: str = "sh") -> str:
    """Shell: run the scripts that come by standard input, each as it would run alone.

    An answer is kept only if its script ended well; whoever misses one asks again.

    :param shell: what scripts are for.
    """
    # Few programs besides the scripts: each costs a host more than most questions do. Whoever
    # creates a file below "taken" (set -C: nobody can a second time) runs that script.
    worker = (
        'set -C; for ask in "$0"/ask/*; do one=${ask##*/}'
        '; { true >"$0/taken/$one"; } 2>/dev/null || continue'
        f'; {quote(shell)} "$ask" </dev/null 2>/dev/null >"$0/said/$one"'
        ' && true >"$0/well/$one"; done'
    )
    workers = " ".join(map(str, range(SIDE_BY_SIDE)))
    return dedent(f"""
        work=$(mktemp -d {LOOK} 2>/dev/null || mktemp -d) || exit 1
        trap 'rm -rf "$work"' EXIT; trap 'exit 1' HUP INT TERM PIPE
        mkdir "$work/ask" "$work/taken" "$work/said" "$work/well" || exit 1
        base64 -d | tar -xzm -f - -C "$work/ask" || exit 1
        echo {workers} |
            timeout -k 2 {PATIENCE} xargs -P {SIDE_BY_SIDE} -n 1 sh -c {quote(worker)} "$work" || :
        cd "$work/well" && set -- * && cd ../said || exit 1
        {{ [ ! -f "$1" ] || {{ stat -c '%n %s' -- "$@"; echo; cat -- "$@"; }}; }} | gzip -c | base64
    """)


def given(scripts: Sequence[str]) -> list[str]:
    """Standard input of ``program``: what travels twice is most of it, so it is packed."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for number, script in enumerate(scripts):
            content = script.encode()
            member = tarfile.TarInfo(str(number))
            member.size, member.mode = len(content), 0o600
            tar.addfile(member, io.BytesIO(content))
    text = base64.b64encode(gzip.compress(buffer.getvalue(), 9)).decode()
    return [text[start : start + _LINE] for start in range(0, len(text), _LINE)]


def answers(lines: Sequence[str], count: int) -> list[list[str] | None]:
    """The lines that each script printed; None for one that did not end well.

    :param lines: what ``program`` printed.
    :param count: how many scripts there were.
    :raises ValueError: it is not what ``program`` prints, or more than we read.
    """
    content = _unpacked("".join(lines))
    found: list[list[str] | None] = [None] * count
    if not content:
        return found
    index, blank, said = content.partition(b"\n\n")
    if not blank:
        raise ValueError("sizes have no end")
    if index.count(b"\n") >= count or said.count(b"\n") > _LINES:
        raise ValueError("more lines than are read")
    sizes = [tuple(map(_number, line.split(b" "))) for line in index.split(b"\n")]
    at, known = 0, set[int]()
    for number, size in sizes:
        if number >= count or number in known:
            raise ValueError("an answer to nothing, or a second one")
        known.add(number)
        found[number] = _lines(said[at : at + size])
        at += size
    if at != len(said):
        raise ValueError("half of an answer, or more than one")
    return found


def _number(digits: bytes) -> int:
    if not digits.isdigit() or len(digits) > 12:
        raise ValueError("no number where one has to be")
    return int(digits)


def _unpacked(text: str) -> bytes:
    if len(text) > SIZE:
        raise ValueError("more than is read")
    unpack = zlib.decompressobj(wbits=31)
    try:
        content = unpack.decompress(base64.b64decode(text, validate=True), SIZE)
    except (binascii.Error, zlib.error) as error:
        raise ValueError(f"not packed as it should be: {error}") from error
    if not unpack.eof or unpack.unused_data:
        raise ValueError("cut short, or more than is read")
    return content


def _lines(content: bytes) -> list[str] | None:
    """As a connection of pyinfra's reads lines. What is not text is none of our answers."""
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return None
    lines = text.split("\n")
    return lines if lines[-1] else lines[:-1]
