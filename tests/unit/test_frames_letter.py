"""What a host may send as answers to many scripts, to the letter."""

from __future__ import annotations

import base64
import gzip
import io
import os
import random
import signal
import subprocess
import tarfile
import time
import zlib
from pathlib import Path

import pytest

from vllm_hosts.host import frames


def packed(content: bytes) -> list[str]:
    return [base64.b64encode(gzip.compress(content)).decode()]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"2 1\n\na", "an answer to nothing, or a second one"),
        (b"0 1\n0 1\n\naa", "an answer to nothing, or a second one"),
        (b"0 2\n\na", "half of an answer, or more than one"),
        (b"0 1\n\naa", "half of an answer, or more than one"),
        (b"0 1\na", "sizes have no end"),
        (b"0 0000000000001\n\na", "no number where one has to be"),
        (b"0 +1\n\na", "no number where one has to be"),
        (b"0 1\n1 1\n0 1\n\naaa", "more lines than are read"),
        (b"0 600000\n\n" + b"\n" * 600_000, "more lines than are read"),
    ],
)
def test_what_is_no_answer_is_refused(content: bytes, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        frames.answers(packed(content), 2)


def test_twelve_digits_are_a_number() -> None:
    assert frames.answers(packed(b"1 000000000001\n\na"), 2) == [None, ["a"]]


def test_as_much_as_is_read_may_come(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = packed(b"0 1\n\na")
    monkeypatch.setattr(frames, "SIZE", len(whole[0]))
    assert frames.answers(whole, 1) == [["a"]]
    monkeypatch.setattr(frames, "SIZE", len(whole[0]) - 1)
    with pytest.raises(ValueError, match="more than is read"):
        frames.answers(whole, 1)


@pytest.mark.parametrize(
    "text",
    [
        base64.b64encode(zlib.compress(b"0 1\na")).decode(),
        base64.b64encode(b"0 1\na").decode(),
        "!" + packed(b"0 1\na")[0],
        "A",
    ],
)
def test_what_is_packed_in_another_way_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not packed as it should be"):
        frames.answers([text], 1)


def test_scripts_travel_in_lines_that_every_connection_takes_and_are_read_by_root_alone() -> None:
    script = "# " + random.Random(1).randbytes(9000).hex()
    lines = frames.given(["true", script])
    assert {len(line) for line in lines[:-1]} == {4096}
    content = gzip.decompress(base64.b64decode("".join(lines)))
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        members = tar.getmembers()
        assert [(one.name, one.mode) for one in members] == [("0", 0o600), ("1", 0o600)]
        assert tar.extractfile("1").read().decode() == script  # type: ignore[union-attr]


def test_a_host_has_other_work_and_one_script_does_not_hold_the_others() -> None:
    assert "timeout -k 2 40 xargs -P 4 -n 1" in frames.program()
    assert 'bash "$ask" <' in frames.program("bash")


def test_a_connection_that_ends_leaves_nothing_behind(tmp_path: Path) -> None:
    program = frames.program().replace("/run/vllm-hosts", f"{tmp_path}/vllm-hosts")
    text = "".join(f"{line}\n" for line in frames.given(["sleep 0.4"]))
    one = subprocess.Popen(["sh", "-c", program], stdin=subprocess.PIPE, text=True)
    assert one.stdin is not None
    one.stdin.write(text)
    one.stdin.close()
    until = time.monotonic() + 10
    while not list(tmp_path.glob("*/ask/0")) and time.monotonic() < until:
        time.sleep(0.01)
    os.kill(one.pid, signal.SIGTERM)
    assert one.wait(timeout=10) == 1
    assert list(tmp_path.iterdir()) == []
