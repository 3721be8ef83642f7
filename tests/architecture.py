"""The house as it is built: which room imports which, and docs/architecture.md, drawn from that.

python -m tests.architecture    # write the page
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "architecture.md"
_PACKAGE = "vllm_hosts"
_ROW = re.compile(r"^\| (pure|edge) \| ((?:`\w+`(?:, )?)+) \| (.+) \|$", re.MULTILINE)


@cache
def floors() -> tuple[tuple[str, tuple[str, ...]], ...]:
    """The rule, as docs/design.md states it: kind and rooms of each floor, from the ground up."""
    rows = _ROW.findall((ROOT / "docs" / "design.md").read_text())
    return tuple((kind, tuple(re.findall(r"`(\w+)`", rooms))) for kind, rooms, _ in rows)


@cache
def modules() -> dict[str, Path]:
    """Files of the package by module. What it only links to, such as roles, stands elsewhere."""
    found = {}
    links = [path for path in (ROOT / _PACKAGE).rglob("*") if path.is_symlink()]
    for path in (ROOT / _PACKAGE).rglob("*.py"):
        if any(path.is_relative_to(link) for link in links):
            continue
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def imported(path: Path) -> tuple[str, ...]:
    """Modules that a file imports, also where a function does it, and by whichever way of writing
    it."""
    return tuple(imports(ast.parse(path.read_text()), package_of(path)))


def package_of(path: Path) -> str:
    """The package that a file's relative imports start from, as it is installed."""
    parts = path.relative_to(ROOT).with_suffix("").parts[:-1]
    return ".".join(
        parts if parts[:1] in ((_PACKAGE,), ("tests",), ("lab",)) else (_PACKAGE, *parts)
    )


def statements(tree: ast.Module) -> Iterator[ast.AST]:
    """All of a module's, also those within others; of ``ast.walk`` a small part, in which imports
    stand."""
    left: list[ast.AST] = [tree]
    for node in left:
        for name in ("body", "handlers", "orelse", "finalbody", "cases"):
            parts = getattr(node, name, ())
            # Of an expression, such as a lambda, it is none.
            left += parts if isinstance(parts, list) else ()
        yield node


def imports(tree: ast.Module, package: str) -> Iterator[str]:
    for node in statements(tree):
        if isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            module = ".".join([*(above if node.level else []), *filter(None, [node.module])])
            for name in node.names:
                whole = f"{module}.{name.name}"
                # What is linked into the package, such as its roles, is none of its modules.
                linked = module == _PACKAGE and (ROOT / _PACKAGE / name.name).is_dir()
                known = whole in modules() or linked
                yield whole if known else module
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names)


def room(module: str) -> str:
    """The room of a module; the package's own file is none."""
    return (module.split(".") + [""])[1]


@cache
def edges() -> dict[tuple[str, str], tuple[str, ...]]:
    """Which room imports which other, and by which modules."""
    found: dict[tuple[str, str], set[str]] = {}
    for module, path in modules().items():
        for other in imported(path):
            pair = room(module), room(other)
            if other.startswith(f"{_PACKAGE}.") and pair[0] != pair[1] and all(pair):
                found.setdefault(pair, set()).add(f"{module} -> {other}")
    return {pair: tuple(sorted(found[pair])) for pair in sorted(found)}


def reached(path: Path) -> dict[str, str]:
    """All that a file imports, through others too, and by which module."""
    found: dict[str, str] = {}
    left = [(module, str(path.relative_to(ROOT))) for module in imported(path)]
    while left:
        module, by = left.pop()
        if module in found:
            continue
        found[module] = by
        # Whoever imports a module imports the packages around it.
        parts = module.split(".")
        for name in [".".join(parts[:n]) for n in range(1, len(parts))]:
            left.append((name, by))
        if there := modules().get(module):
            left += [(other, module) for other in imported(there)]
    return found


def page() -> str:
    """docs/architecture.md."""
    there = {name for pair in edges() for name in pair}
    lines = [
        "# Architecture",
        "",
        "Made from the imports by `python -m tests.architecture`; what each room is for stands in",
        "[design.md](design.md#the-rooms-of-the-package). Arrows are imports, and point downwards;",
        "arrows to the two lowest floors, which everybody uses, are left out.",
        "",
        "```mermaid",
        "flowchart TB",
        '    roles["roles/*/__init__.py"]',
        '    plans["roles/*/plan.py"]',
    ]
    drawn = [*reversed(floors())]
    for number, (kind, rooms) in enumerate(drawn[:-2]):
        lines += [f'    subgraph floor{number} ["{kind}"]', "        direction LR"]
        lines += [f"        {name}" for name in rooms if name in there]
        lines.append("    end")
    low = {name for _, rooms in drawn[-2:] for name in rooms}
    lines += [f"    {one} --> {other}" for one, other in edges() if other not in low | {""}]
    lines += ["    roles --> plans", "    roles --> operations", "    plans --> host"]
    lines += ["```", "", f"{len(there)} rooms, {len(edges())} imports between them.", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.write_text(page())
