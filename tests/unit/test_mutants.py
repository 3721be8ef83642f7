"""The tool behind ``make mutants``: changes that tests should notice are made, and counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.mutants import __main__ as tool
from tests.mutants.changes import changes
from tests.unit.projects import ROOT

SOURCE = '''
"""A module."""

SCRIPT = """
set -eu; umask 077
# says what it does
echo done
"""

def larger(a: int, b: int = 3) -> bool:
    """Whether the first is larger."""
    assert a is not None
    if a > b and not a == 7:
        return True
    return False

def kept(path: str) -> None:
    with locked(path):
        try:
            write(path)
        finally:
            close(path)
'''

TEST = """
import os
from pathlib import Path

from example import larger

def test_larger():
    assert larger(4)
    assert not larger(7, 1)
    try:
        Path("/etc/example").touch()
    except OSError:
        Path(os.environ["TMPDIR"], "example").touch(exist_ok=False)
    else:
        raise AssertionError
"""


def words(source: str) -> list[str]:
    return [change.what for change in changes(source)]


def test_each_change_is_one_that_changes_the_program() -> None:
    assert words(SOURCE) == [
        "'\\nset -eu; umask 077\\n# says what it does\\necho done\\n' -> ''",
        "without line set -eu; umask 077",
        "without command set -eu",
        "without command umask 077",
        "without line echo done",
        "3 -> 4",
        "a > b and (not a == 7) -> a > b or not a == 7",
        "a > b -> a >= b",
        "not a == 7 -> a == 7",
        "a == 7 -> a != 7",
        "7 -> 8",
        "True -> False",
        "False -> True",
        "without with locked(path):",
        "without finally",
        "without write(path)",
        "without close(path)",
    ]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("x = 0o77 & y", ["63 & y -> 63 | y", "63 -> 64"]),
        ("x = 'a' + b", ["'a' -> ''"]),
        ("x = y if z() else ''", ["if z() -> if not", "'' -> 'x'"]),
        ("x = [y for y in z if y.ok]", ["if y.ok -> if not"]),
        ("x = f'{a or b}'", ["f'{a or b}' -> ''", "a or b -> a and b"]),
        ("def f(): return g()", ["return g() -> return"]),
        ("def f(x): x = x.y; return None", ["without x = x.y"]),
        ("def f(x): z = x.y; return 0", ["0 -> 1"]),
        ("x: Literal['a'] = False", ["False -> True"]),
    ],
)
def test_a_change(line: str, expected: list[str]) -> None:
    assert words(line) == expected


def test_a_line_of_a_script_is_named_by_its_own_line() -> None:
    [echo] = [change for change in changes(SOURCE) if change.what.endswith("line echo done")]
    assert (SOURCE.splitlines()[echo.line - 1], echo.text) == ("echo done", "echo done")


def judged(folder: Path, about: dict[str, Any]) -> tool.Judged:
    module, test = folder / "example.py", folder / "test_example.py"
    module.write_text(SOURCE)
    test.write_text(TEST)
    return tool.judged("example", {"tests": [str(test)], **about}, module, changes(SOURCE))


def test_what_tests_do_not_notice_is_found(tmp_path: Path) -> None:
    result = judged(tmp_path, {"floor": 30})
    assert {change.what for change in result.missed} == {
        "'\\nset -eu; umask 077\\n# says what it does\\necho done\\n' -> ''",
        "without line set -eu; umask 077",
        "without command set -eu",
        "without command umask 077",
        "without line echo done",
        "a > b -> a >= b",
        "without with locked(path):",
        "without finally",
        "without write(path)",
        "without close(path)",
    }
    assert (result.noticed, result.wrong, result.well) == (7, [], True)
    result.floor = 50
    assert not result.well


def test_a_list_of_equivalent_changes_stays_true(tmp_path: Path) -> None:
    line = "if a > b and not a == 7:"
    missed = {"line": line, "change": "a > b -> a >= b", "why": "for this test"}
    noticed = {"line": line, "change": "a == 7 -> a != 7", "why": "wrong"}
    gone = {"line": line, "change": "a > c -> a >= c", "why": "it was there once"}
    elsewhere = {**missed, "within": "smaller"}
    result = judged(tmp_path, {"equivalent": [missed, noticed, gone, elsewhere]})
    assert result.equivalent == 1
    assert [sentence.partition(": ")[2] for sentence in result.wrong] == [
        "a == 7 -> a != 7: listed as equivalent, but noticed",
        f"{line!r}: a > c -> a >= c",
        f"{line!r}: a > b -> a >= b",
    ]
    assert not result.well


def test_tests_that_fail_without_a_change_prove_nothing(tmp_path: Path) -> None:
    broken = tmp_path / "test_broken.py"
    broken.write_text("import example\n\ndef test_it(): assert 0, 'as it is'\n")
    result = judged(tmp_path, {"tests": [str(broken)]})
    assert "as it is" in result.wrong[0] and not result.well
    broken.write_text("def test_it(): pass\n")
    result = judged(tmp_path, {"tests": [str(broken)]})
    assert "none of its tests imports example" in result.wrong[0] and not result.well


def test_every_module_and_its_tests_are_there() -> None:
    listed = yaml.safe_load((ROOT / "tests/mutants/modules.yaml").read_text())
    for module, about in listed.items():
        assert ROOT.joinpath(*module.split(".")).with_suffix(".py").is_file(), module
        assert all((ROOT / test).is_file() for test in about["tests"]), module
        for entry in about.get("equivalent", []):
            assert set(entry) - {"within"} == {"line", "change", "why"}, (module, entry)
            assert len(entry["why"]) > 15, (module, entry)
