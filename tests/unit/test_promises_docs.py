"""docs/security-model.md lists every promise with its identifier and its threat."""

from __future__ import annotations

import ast

from tests.lab.sabotage import FLEET, MIRROR, SABOTAGE, SHARED, UNBROKEN, rounds
from tests.promises_docs import DOCUMENT, with_table
from vllm_hosts.verify.promises import promises

SUITE = DOCUMENT.parents[1] / "tests" / "hosts"


def test_the_document_is_made_from_the_data() -> None:
    text = DOCUMENT.read_text()
    assert text == with_table(text), "out of date; run: python -m tests.promises_docs"


def test_every_promise_has_exactly_one_test() -> None:
    looked_at = [
        str(decorator.args[0].value)
        for path in SUITE.glob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
        for decorator in node.decorator_list
        if isinstance(decorator, ast.Call) and getattr(decorator.func, "id", "") == "promise"
        if isinstance(decorator.args[0], ast.Constant)
    ]
    assert sorted(looked_at) == sorted(promises())


def test_every_promise_is_broken_somewhere() -> None:
    rows = [*SABOTAGE, *FLEET, *SHARED, *MIRROR]
    broken = {identifier for row in rows for identifier in row.broken}
    assert broken | set(UNBROKEN) == set(promises())
    assert not broken & set(UNBROKEN)
    assert len({row.name for row in rows}) == len(rows) >= 40


def test_rows_of_the_usual_lab_need_no_gateway() -> None:
    of = {name: promise.of for name, promise in promises().items()}
    for row in SABOTAGE:
        assert {of[name] for name in row.broken} <= {"all", "agents"}, row.name
        assert row.host == "gpu1", row.name
    for row in FLEET:
        exempt = "agents" if row.host.startswith("gw") else "gateways"
        assert exempt not in {of[name] for name in row.broken}, row.name
    for row in SHARED:
        assert {of[name] for name in row.broken} - {"all"} == {"virtual"}, row.name
        assert row.host.startswith("gw"), row.name
    for row in MIRROR:
        kinds = {of[name] for name in row.broken} - {"all", "agents"}
        assert kinds in ({"mirror"}, {"mirrored"}), row.name
        assert row.host == "gpu1", row.name


def test_rounds_break_a_dozen_promises_of_every_role() -> None:
    usual = [row for rows in rounds().values() for row in rows]
    assert len(usual) == len({row.name for row in usual}) >= 18
    roles = {promises()[identifier].role for row in usual for identifier in row.broken}
    usual_ones = [one for one in promises().values() if one.of in ("all", "agents")]
    assert roles >= {promise.role for promise in usual_ones} - {"vllm"}


def test_rows_of_a_round_can_be_told_apart() -> None:
    for title, rows in rounds().items():
        broken = [identifier for row in rows for identifier in row.broken]
        assert len(broken) == len(set(broken)), title
        # What stops the next deploy, or blinds the suite, hides the others.
        assert len(rows) == 1 or not any(row.refused or row.blind for row in rows), title
