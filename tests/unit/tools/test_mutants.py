"""The tool behind ``make mutants``: changes that tests should notice are made, and counted."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from tests.mutants import __main__ as tool
from tests.mutants.changes import changes
from tests.mutants.order import Order
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


def test_tests_of_the_changed_function_come_first_and_quick_ones_before(tmp_path: Path) -> None:
    order = Order(tmp_path / "example.py", tmp_path / "notes")
    items: list[Any] = [SimpleNamespace(nodeid=name) for name in "abcd"]
    order.pytest_collection_modifyitems(items)
    assert [item.nodeid for item in items] == ["a", "b", "c", "d"]
    called = {"a": (1.0, ["other"]), "b": (3.0, ["f"]), "c": (2.0, ["f", "g"]), "d": (0.0, [])}
    (tmp_path / "notes").write_text(json.dumps({"tests": called}))
    order.changed = "f"
    order.pytest_collection_modifyitems(items)
    assert [item.nodeid for item in items] == ["c", "b", "a", "d"]


SMALL = """
def larger(a, b=3):
    return a > b and a != 7
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("mutants")
    (made / "example.py").write_text(SMALL)
    return made


def run(folder: Path, test: str) -> dict[str, Any]:
    (folder / "test_example.py").write_text(test)
    return tool.run("example", folder / "example.py", [f"{folder}/test_example.py"])


@pytest.fixture(scope="module")
def said(folder: Path) -> dict[str, Any]:
    return run(folder, TEST)


def judged(folder: Path, said: dict[str, Any], **about: Any) -> tool.Judged:
    return tool.judged("example", about, folder / "example.py", changes(SMALL), said)


def test_what_tests_do_not_notice_is_found(folder: Path, said: dict[str, Any]) -> None:
    result = judged(folder, said, floor=80)
    assert [change.what for change in result.missed] == ["a > b -> a >= b"]
    assert (result.noticed, result.wrong, result.well) == (5, [], True)
    assert not judged(folder, said).well


def test_a_list_of_equivalent_changes_stays_true(folder: Path, said: dict[str, Any]) -> None:
    line = "return a > b and a != 7"
    missed = {"line": line, "change": "a > b -> a >= b", "why": "for this test"}
    assert judged(folder, said, equivalent=[missed]).well
    noticed = {"line": line, "change": "a != 7 -> a == 7", "why": "wrong"}
    gone = {"line": line, "change": "a > c -> a >= c", "why": "it was there once"}
    elsewhere = {**missed, "within": "smaller"}
    result = judged(folder, said, equivalent=[missed, noticed, gone, elsewhere])
    assert result.equivalent == 1
    assert [sentence.partition(": ")[2] for sentence in result.wrong] == [
        "a != 7 -> a == 7: listed as equivalent, but noticed",
        f"{line!r}: a > c -> a >= c",
        f"{line!r}: a > b -> a >= b",
    ]
    assert not result.well


def test_a_total_names_the_modules_that_are_not_well() -> None:
    [change] = changes("x = 1")
    good = tool.Judged("good", 90, noticed=19, missed=[change], equivalent=2, seconds=70)
    assert tool.total([good, good]) == (
        "total: 38 / 40 noticed in 2 modules, 95.0 %, 4 equivalent, 2 minutes"
    )
    bad = tool.Judged("bad", 90, noticed=1, missed=[change])
    odd = tool.Judged("odd", 90, noticed=1, wrong=["no such change any more"])
    assert tool.total([good, bad, odd]) == (
        "total: 21 / 23 noticed in 3 modules, 91.3 %, 2 equivalent, 1 minutes; below their floor:"
        " bad; listed wrongly (see above): odd"
    )
    assert tool.total([tool.Judged("none", 90)]).startswith("total: 0 / 0 noticed in 1 modules")


@pytest.mark.parametrize(
    ("test", "words"),
    [
        ("import example\n\ndef test_it(): assert 0, 'as it is'\n", "as it is"),
        ("def test_it(): pass\n", "none of its tests imports example"),
    ],
)
def test_tests_that_fail_without_a_change_prove_nothing(
    folder: Path, test: str, words: str
) -> None:
    result = judged(folder, run(folder, test))
    assert words in result.wrong[0] and not result.well


def test_every_module_and_its_tests_are_there() -> None:
    listed = yaml.safe_load((ROOT / "tests/mutants/modules.yaml").read_text())
    for module, about in listed.items():
        there = ROOT.joinpath(*module.split("."))
        there = there / "__init__.py" if there.is_dir() else there.with_suffix(".py")
        assert there.is_file(), module
        for test in about["tests"]:
            file, _, name = test.partition("::")
            text = (ROOT / file).read_text() if (ROOT / file).is_file() else None
            assert text is not None and (not name or f"def {name}(" in text), (module, test)
        entries = about.get("equivalent", [])
        made = changes(there.read_text()) if entries else []
        for entry in entries:
            # Here, and not only once the module itself is tried again.
            assert any(tool._is_about(entry, change) for change in made), (module, entry)
            assert set(entry) - {"within"} == {"line", "change", "why"}, (module, entry)
            assert len(entry["why"]) > 15, (module, entry)
