"""Differences of files, as people see them."""

from __future__ import annotations

import base64
import time

from vllm_hosts.facts.tree import FileTexts
from vllm_hosts.host.changes import LINES, ONLY_MASKED, changed_lines
from vllm_hosts.host.files import READ_AT_MOST


def test_lines_that_differ_with_one_around_them() -> None:
    assert changed_lines("a\nb\nc\nd\n", "a\nB\nc\nd\n") == [
        "@@ -1,3 +1,3 @@",
        " a",
        "-b",
        "+B",
        " c",
    ]


def test_what_differs_only_in_secrets_says_so() -> None:
    assert changed_lines("a\nTOKEN=one1one1\n", "a\nTOKEN=two2two2\n") == [ONLY_MASKED]
    assert changed_lines("a\nb\n", "a\nb") == ["only the ends of lines differ"]


def test_a_difference_has_a_bound() -> None:
    lines = changed_lines("", "".join(f"{number}\n" for number in range(10_000)))
    assert len(lines) == LINES + 1
    assert lines[-1] == f"... and {10_001 - LINES} more lines"
    [heading, line] = changed_lines("", "word " * 100_000)
    assert heading.startswith("@@")
    assert len(line) < 220


def test_no_line_obeys_a_terminal_and_no_key_is_put_together_again() -> None:
    """Masks come first: what is taken out afterwards leaves a mark."""
    [*_, line] = changed_lines("", "hf_abcdefgh\u200bijklmnopqrst\x1b[2J\x07 x\n")
    assert "\x1b" not in line
    assert "hf_abcdefghijkl" not in line


def test_a_host_does_not_hold_up_a_run_with_what_is_hard_to_compare() -> None:
    """Every line is often there, and in another order: difflib needs hours for this."""
    count, kinds = 40_000, 101
    old = "".join(f"{number % kinds}\n" for number in range(count))
    new = "".join(f"{kinds - 1 - number % kinds}\n" for number in range(count))
    started = time.monotonic()
    [heading, first, *lines] = changed_lines(f"same\n{old}", f"same\n{new}")
    assert time.monotonic() - started < 20
    assert heading == "@@ line 2: too many lines to find what is the same after it @@"
    assert (first, lines[-1][0]) == ("-0", "+")
    assert len(lines) < LINES
    assert changed_lines(old, old) == ["only the ends of lines differ"]


def test_a_host_that_sends_more_than_it_was_asked_for() -> None:
    sent = base64.b64encode(b"a\n" * READ_AT_MOST).decode()
    assert FileTexts().parse(["== /etc/a", "text", sent]) == {"/etc/a": None}
