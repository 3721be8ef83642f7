"""Writes the list of promises in docs/security-model.md, from the data and the sabotage table.

python -m tests.promises_docs
"""

from __future__ import annotations

from pathlib import Path

from tests.lab.sabotage import FLEET, MIRROR, SABOTAGE, SHARED, UNBROKEN
from tests.made import replaced
from vllm_hosts.verify.promises import promises

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "security-model.md"
START = "<!-- made by python -m tests.promises_docs -->\n"


def table() -> str:
    """One row for each promise: identifier, role, promise, threat, and what breaks it in tests."""
    rows = [
        "| | role | promise | against what | broken by |",
        "|---|---|---|---|---|",
    ]
    for promise in promises().values():
        names = [
            row.name
            for row in [*SABOTAGE, *FLEET, *SHARED, *MIRROR]
            if promise.identifier in row.broken
        ]
        broken_by = ", ".join(names) or UNBROKEN[promise.identifier]
        rows.append(
            f"| {promise.identifier} | {promise.role} | {promise.says} | {promise.threat}"
            f" | {broken_by} |"
        )
    return "\n".join([*rows, ""])


def with_table(text: str) -> str:
    """The document with the list as it should be.

    :raises ValueError: the document lacks the comments that the list stands between.
    """
    return replaced(text, START, table())


if __name__ == "__main__":
    DOCUMENT.write_text(with_table(DOCUMENT.read_text()))
