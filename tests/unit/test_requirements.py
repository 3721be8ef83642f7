"""What is installed with the toolkit: the wheel's ranges, and the versions that are tested."""

from __future__ import annotations

import ast
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.architecture import statements
from tests.unit.projects import ROOT

AREAS = ("vllm_hosts", "roles", "tests/hosts")


def ranges() -> dict[str, Requirement]:
    """What the wheel asks for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found = [Requirement(line) for line in project["dependencies"]]
    return {canonicalize_name(one.name): one for one in found}


def pins() -> dict[str, str]:
    """What requirements.txt installs, each with its reason behind it."""
    found: dict[str, str] = {}
    for line in (ROOT / "requirements.txt").read_text().splitlines():
        if line and not line.startswith(("#", "-")):
            name, _, rest = line.partition("==")
            version, _, reason = rest.partition("#")
            assert reason.strip(), f"why is {name} needed?"
            found[canonicalize_name(name)] = version.strip()
    return found


def test_the_wheel_asks_for_what_is_tested() -> None:
    assert sorted(ranges()) == sorted(pins())
    wrong = {name: pin for name, pin in pins().items() if pin not in ranges()[name].specifier}
    assert wrong == {}


def test_pyinfra_is_pinned() -> None:
    """We stand in front of its internals."""
    assert str(ranges()["pyinfra"].specifier) == f"=={pins()['pyinfra']}"


def imported(path: Path) -> set[str]:
    nodes = list(statements(ast.parse(path.read_text())))
    whole = {name.name for node in nodes if isinstance(node, ast.Import) for name in node.names}
    whole |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    return {name.partition(".")[0] for name in whole}


def test_the_wheel_asks_for_all_that_is_imported() -> None:
    files = [path for area in AREAS for path in (ROOT / area).rglob("*.py")]
    others = set().union(*map(imported, files)) - sys.stdlib_module_names - {"vllm_hosts"}
    known = packages_distributions()
    needed = {name: {canonicalize_name(one) for one in known.get(name, [name])} for name in others}
    # Beside this file, for a process that is started with it.
    assert {name for name, owners in needed.items() if not owners & set(ranges())} == set()
    assert len(others) > 10
