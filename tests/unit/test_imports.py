"""Which way imports go: downwards, as docs/design.md says it. No role knows another, what decides
knows no host, and nothing that is installed knows a role or the lab."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import architecture
from tests.architecture import ROOT, edges, floors, imported, modules, reached, room

PURE = {name for kind, rooms in floors() if kind == "pure" for name in rooms}
#: The memory plan decides too; only ``inputs`` asks a host for its figures.
PLANNING = {module for module in modules() if room(module) == "capacity" and "inputs" not in module}


def forbidden(path: Path) -> Iterator[str]:
    """What a file of the product imports and may not."""
    area, *rest = path.relative_to(ROOT).parts
    for module in imported(path):
        top, *below = module.split(".")
        linked = top == "vllm_hosts" and below[:1] in (["roles"], ["suite"])
        own = area == "roles" and below[:2] == ["roles", *rest[:1]]
        if top in ("lab", "tests", "roles") or (linked and not own):
            yield module


@pytest.mark.parametrize("area", ["roles", "vllm_hosts"])
def test_no_file_knows_a_role_of_another_s_or_the_lab(area: str) -> None:
    files = [*modules().values()] if area == "vllm_hosts" else list((ROOT / area).rglob("*.py"))
    assert files
    wrong = {str(path.relative_to(ROOT)): bad for path in files if (bad := [*forbidden(path)])}
    assert wrong == {}


def test_roles_and_suite_have_one_name_each() -> None:
    """Imported by another, such as roles.tls, there would be two of each class."""
    files = [path for area in ("roles", "tests", "lab") for path in (ROOT / area).rglob("*.py")]
    files += [ROOT / "deploy.py", ROOT / "keys.py", *modules().values()]
    # Hundreds of files that have nothing like it need not be parsed.
    word = re.compile(
        r"\b(from|import)\s+([\w., ]*,\s*)?roles\b|\bfrom\s+tests\s+import\b|\btests\.hosts\b"
    )
    wrong = {
        str(path.relative_to(ROOT)): module
        for path in files
        if word.search(path.read_text())
        for module in imported(path)
        if module.split(".")[0] == "roles" or module.startswith("tests.hosts")
    }
    assert wrong == {}


def test_every_room_is_in_the_document() -> None:
    named = [name for _, rooms in floors() for name in rooms]
    assert sorted(named) == sorted({room(module) for module in modules()} - {""})


def test_imports_go_down() -> None:
    floor = {name: number for number, (_, rooms) in enumerate(floors()) for name in rooms}
    assert [by for (one, other), by in edges().items() if floor[other] >= floor[one]] == []


def decides(path: Path) -> list[str]:
    """What a file that has to be pure reaches and may not, with the module that imports it."""
    return [
        f"{module}, by {by}"
        for module, by in reached(path).items()
        if module.split(".")[0] in ("pyinfra", "pyinfra_cli", "gevent", "paramiko", "testinfra")
        or (module in modules() and room(module) not in PURE | {""} and module not in PLANNING)
    ]


def test_pure_rooms_reach_no_host() -> None:
    files = {module: path for module, path in modules().items() if room(module) in PURE}
    assert {module: bad for module, path in files.items() if (bad := decides(path))} == {}


def test_plans_reach_no_host() -> None:
    files = [path for path in (ROOT / "roles").rglob("*.py") if path.name != "__init__.py"]
    assert len(files) > 10
    wrong = {str(path.relative_to(ROOT)): bad for path in files if (bad := decides(path))}
    # A plan's own role is a package whose file has the operations.
    assert wrong == {}


def test_the_page_is_the_code_s() -> None:
    assert architecture.PAGE.read_text() == architecture.page()


@pytest.mark.parametrize(
    ("line", "module"),
    [
        ("from ..operations import base", "vllm_hosts.operations.base"),
        ("from ..operations.base import Commands", "vllm_hosts.operations.base"),
        ("from . import edge", "vllm_hosts.settings.edge"),
        ("from .edge import Edge", "vllm_hosts.settings.edge"),
        ("from .. import roles", "vllm_hosts.roles"),
        ("from vllm_hosts import roles", "vllm_hosts.roles"),
        ("from vllm_hosts import __version__", "vllm_hosts"),
        ("import vllm_hosts.operations.base", "vllm_hosts.operations.base"),
    ],
)
def test_an_import_is_told_however_it_is_written(line: str, module: str) -> None:
    tree = ast.parse(f"def within():\n    {line}\n")
    assert list(architecture.imports(tree, "vllm_hosts.settings")) == [module]
    assert architecture.package_of(ROOT / "vllm_hosts/settings/edge.py") == "vllm_hosts.settings"
    assert architecture.package_of(ROOT / "roles/tls/plan.py") == "vllm_hosts.roles.tls"
