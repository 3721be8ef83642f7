"""Many scripts in one execution: each answer is what its script prints alone, or none."""

from __future__ import annotations

import base64
import gzip
import subprocess
from contextlib import suppress
from pathlib import Path
from shlex import quote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.unit.examples import examples
from vllm_hosts.host import frames


def together(*scripts: str) -> list[list[str] | None]:
    """What a host answers: this machine."""
    text = "".join(f"{line}\n" for line in frames.given(scripts))
    done = subprocess.run(
        ["sh", "-c", frames.program()], input=text, capture_output=True, text=True, check=True
    )
    return frames.answers(done.stdout.splitlines(), len(scripts))


def alone(script: str) -> list[str] | None:
    """As pyinfra reads what a command prints."""
    done = subprocess.run(
        ["sh", "-c", script], stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    lines = done.stdout.decode().split("\n")
    return None if done.returncode else lines if lines[-1] else lines[:-1]


FORGED = "1 3\nyes\n"
SCRIPTS = [
    "echo one; echo two >&2",
    f"printf %s {quote(FORGED)}",
    "printf '2 9\\n'",
    "echo refused; exit 1",
    "",
    "printf 'no end of the line'",
    "echo; echo; printf '\\r\\n\\n'",
    "cat",
    "echo 'a\tb  c\\d' \"it's\" '$HOME' `echo x`",
    "echo äöü €",
    "if then",
    "kill -9 $$",
    "cat /proc/self/status | grep '^Umask'; pwd; echo $PATH; echo \"$@\"",
    "(sleep 0.2; echo late) & wait",
]


def test_each_answer_is_what_its_script_prints_alone() -> None:
    assert together(*SCRIPTS) == [alone(script) for script in SCRIPTS]


def test_there_may_be_many() -> None:
    """More than xargs has at once, in any order."""
    scripts = [f"echo {number}; echo {number * 7919}" for number in range(120)]
    assert together(*scripts) == [[str(n), str(n * 7919)] for n in range(120)]


def test_one_that_takes_too_long_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds none of the others, whichever of them came first."""
    monkeypatch.setattr(frames, "PATIENCE", 1)
    assert together("echo a", "echo b; sleep 60", "echo c") == [["a"], None, ["c"]]


def test_what_is_not_text_is_no_answer() -> None:
    assert together("printf '\\377'", "echo b") == [None, ["b"]]


def test_nothing_stays_on_the_host(tmp_path: Path) -> None:
    place = tmp_path / "tmp"
    place.mkdir()
    program = frames.program().replace("/run/vllm-hosts", str(place / "vllm-hosts"))
    for end in ("", "exit 3", 'kill -TERM "$PPID"'):
        text = "".join(f"{line}\n" for line in frames.given(["echo a", end]))
        subprocess.run(["sh", "-c", program], input=text, text=True, check=False, timeout=30)
    assert list(place.iterdir()) == []


def test_a_host_where_nothing_can_be_written_answers_nothing() -> None:
    program = frames.program().replace("mktemp", "false")
    done = subprocess.run(["sh", "-c", program], stdin=subprocess.DEVNULL, check=False)
    assert done.returncode == 1


def packed(content: bytes) -> list[str]:
    return [base64.b64encode(gzip.compress(content)).decode()]


@given(content=st.lists(st.binary(max_size=60), max_size=6))
@example(content=[FORGED.encode(), b""])
def test_sizes_decide_and_not_what_is_printed(content: list[bytes]) -> None:
    sizes = b"".join(b"%d %d\n" % (at, len(one)) for at, one in enumerate(content))
    framed = b"%s\n%s" % (sizes, b"".join(content)) if content else b""
    found = frames.answers(packed(framed), len(content))
    for one, lines in zip(content, found, strict=True):
        if lines is None:
            with pytest.raises(UnicodeDecodeError):
                one.decode()
        else:
            assert "\n".join(lines) == one.decode().removesuffix("\n")


@pytest.mark.parametrize(
    "content",
    [b"0 5\n\nab", b"0 1\n0 1\n\nab", b"0 1\n\nab", b"7 1\n\na", b"-1 1\n\na", b"0 -1\n\n",
     b"0\n\n", b"x", b"x\n\n", b"\n\n", b"0 1\na", b"0 1 2\n\na", b"9" * 50 + b" 1\n\na"],
)  # fmt: skip
def test_what_is_no_frame_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError):
        frames.answers(packed(content), 2)


@given(text=st.text(max_size=200))
@settings(max_examples=examples(60))
def test_whatever_a_host_sends_is_an_answer_or_refused(text: str) -> None:
    with suppress(ValueError):
        frames.answers(text.splitlines(), 3)


def test_more_than_is_read_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host may send a few bytes that unpack to any number."""
    monkeypatch.setattr(frames, "SIZE", 1000)
    with pytest.raises(ValueError, match="more than is read"):
        frames.answers(packed(b"0 2000\n\n" + b"a" * 2000), 1)
    with pytest.raises(ValueError, match="more than is read"):
        frames.answers(["A" * 2000], 1)
    with pytest.raises(ValueError, match="cut short"):
        frames.answers([packed(b"0 1\n\na")[0][:-12]], 1)


def test_it_travels_packed_and_not_as_an_argument() -> None:
    scripts = ["echo a # " + "as every script says " * 40] * 50
    assert len(frames.program()) < 1500
    assert sum(map(len, frames.given(scripts))) < len("".join(scripts)) / 10
