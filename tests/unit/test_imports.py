"""Which way imports go: no role knows another, and nothing that is installed knows a role or the
lab."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def imported(path: Path) -> Iterator[str]:
    """Modules that a file imports, also where a function does it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names)


def forbidden(path: Path) -> list[str]:
    """What a file of the product imports and may not."""
    area, *rest = path.relative_to(ROOT).parts
    found = []
    for module in imported(path):
        top, *below = module.split(".")
        another = top == "roles" and not (area == "roles" and below[:1] == rest[:1])
        if top in ("lab", "tests") or another:
            found.append(module)
    return found


@pytest.mark.parametrize("area", ["roles", "vllm_hosts"])
def test_no_file_knows_a_role_of_another_s_or_the_lab(area: str) -> None:
    files = list((ROOT / area).rglob("*.py"))
    assert files
    wrong = {str(path.relative_to(ROOT)): bad for path in files if (bad := forbidden(path))}
    assert wrong == {}
