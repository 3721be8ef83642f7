"""Differences of files, as people see them."""

from __future__ import annotations

from vllm_hosts.changes import LINES, ONLY_MASKED, changed_lines


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
