"""docs/security-model.md lists every promise with its identifier and its threat."""

from __future__ import annotations

import ast

from tests.lab.sabotage import SABOTAGE, UNBROKEN
from tests.promises_docs import DOCUMENT, with_table
from vllm_hosts.promises import promises

SUITE = DOCUMENT.parents[1] / "tests" / "hosts"


def test_the_document_is_made_from_the_data() -> None:
    text = DOCUMENT.read_text()
    assert text == with_table(text), "out of date; run: python -m tests.promises_docs"


def test_every_promise_has_exactly_one_test() -> None:
    looked_at = [
        decorator.args[0].value
        for path in SUITE.glob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
        for decorator in node.decorator_list
        if isinstance(decorator, ast.Call) and getattr(decorator.func, "id", "") == "promise"
        if isinstance(decorator.args[0], ast.Constant)
    ]
    assert sorted(looked_at) == sorted(promises())


def test_every_promise_is_broken_somewhere() -> None:
    broken = {identifier for row in SABOTAGE for identifier in row.broken}
    assert broken | set(UNBROKEN) == set(promises())
    assert not broken & set(UNBROKEN)
    assert len({row.name for row in SABOTAGE}) == len(SABOTAGE) >= 40


def test_a_dozen_rows_over_every_role_are_usual() -> None:
    usual = {identifier for row in SABOTAGE if row.usual for identifier in row.broken}
    assert len([row for row in SABOTAGE if row.usual]) >= 12
    roles = {promises()[identifier].role for identifier in usual}
    assert roles >= {promise.role for promise in promises().values()} - {"vllm"}
