"""A name means one thing: no two modules, and no two classes, are called alike without a reason."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from tests.unit.projects import ROOT
from tests.unit.test_one_reader import modules

_FLOORS = "one subject: facts query it, host has it as values, operations change it"
_COMMAND = "the command, and what it is about"
#: Names of several modules, with the reason. A role's `plan.py` is what every role has.
MODULES = {
    **dict.fromkeys(("apt", "compose", "docker", "driver", "edge", "firewall", "gpu"), _FLOORS),
    **dict.fromkeys(("nginx", "nginx_sites", "release", "remains", "sockets", "ssh"), _FLOORS),
    **dict.fromkeys(
        ("balancer", "gateway_reach", "rotation", "system", "tree", "way_back"), _FLOORS
    ),
    **dict.fromkeys(("mirror", "virtual_address"), _FLOORS),
    **dict.fromkeys(("agents", "ca", "drift", "endpoints", "hosts", "images"), _COMMAND),
    **dict.fromkeys(("history", "lock", "tls"), _COMMAND),
    "base": "what every fact, and what every operation has in common",
    "docs": "the command that prints documents; elsewhere what writes those of a room",
    "keys": "the command, and the file of a site that applies changed keys",
    "hub": "models from the hub: facts query what a host has of them, operations fetch them",
    "masks": "secrets that a host knows are masked there, others here (decision 65)",
    "packages": "what a host has of them, and which a GPU driver consists of",
    "ownership": "whose a host is: keys judge it, the operation marks it",
}
#: Names of several public classes, with the reason.
CLASSES: dict[str, str] = {}
#: Of functions, words that had come to stand for everything.
FUNCTIONS = {"look": ["vllm_hosts/facts/base.py"], "ask": []}


def product() -> list[Path]:
    # What runs in a container or on a host is a program of its own, but its names are read here.
    return [*modules(), *sorted((ROOT / "vllm_hosts/rehearsal").glob("*.py"))]


def several(found: Iterator[tuple[str, str]]) -> dict[str, list[str]]:
    by_name = defaultdict(list)
    for name, path in found:
        by_name[name].append(path)
    return {name: paths for name, paths in by_name.items() if len(paths) > 1}


@cache
def named() -> list[tuple[type[ast.stmt], str, str]]:
    """What stands in the modules by itself: its kind, name and file."""
    return [
        (type(node), node.name, str(path.relative_to(ROOT)))
        for path in product()
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef | ast.FunctionDef)
    ]


def public(kind: type[ast.ClassDef | ast.FunctionDef]) -> Iterator[tuple[str, str]]:
    for of_kind, name, path in named():
        if of_kind is kind and not name.startswith("_"):
            yield name, path


def test_no_two_modules_are_called_alike() -> None:
    named = (
        (path.stem, str(path.relative_to(ROOT)))
        for path in product()
        if path.name != "__init__.py"
        and not (path.name == "plan.py" and path.is_relative_to(ROOT / "roles"))
    )
    found = several(named)
    assert found.keys() == MODULES.keys(), found


def test_no_two_public_classes_are_called_alike() -> None:
    found = several(public(ast.ClassDef))
    assert found.keys() == CLASSES.keys(), found


def test_to_look_and_to_ask_mean_one_thing() -> None:
    for name, paths in FUNCTIONS.items():
        assert [path for one, path in public(ast.FunctionDef) if one == name] == paths
