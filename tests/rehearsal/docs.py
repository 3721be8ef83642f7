"""Writes the tables of docs/rehearsal.md from what vLLM answered (``tests.rehearsal.record``).

python -m tests.rehearsal.docs
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.made import replaced
from tests.rehearsal.record import ANSWERS, LOGS, TESTS, at, published, safe
from vllm_hosts.rehearsal.answer import Answer, read

DOCUMENT = TESTS.parent / "docs" / "rehearsal.md"
START = "<!-- made by python -m tests.rehearsal.docs: {} -->\n"
GIB = 1 << 30
#: Layers that keep every token, so that a length's bytes follow from one token's.
_WHOLE = {"FullAttentionSpec", "MLAAttentionSpec"}


@dataclass(frozen=True)
class Row:
    """One model of the table. ``files``: bytes of its publisher's files; None: not known here."""

    name: str
    kind: str
    answer: Answer
    parameters: int | None
    files: int | None

    @property
    def error(self) -> float | None:
        """Of the parameters, against the files."""
        if self.files is None or self.parameters is None:
            return None
        return self.parameters / self.files - 1


def answers() -> dict[str, dict[str, Any]]:
    """What vLLM answered, by model."""
    found: dict[str, dict[str, Any]] = json.loads(ANSWERS.read_text())
    return found


def parsed(found: dict[str, Any]) -> Answer:
    """An answer as the product reads it."""
    return read(f"@@{json.dumps(found)}@@", "@@")


def rows() -> Iterator[Row]:
    """Every model of the table that was rehearsed."""
    given = answers()
    for name, entry in published().items():
        if found := given.get(safe(name)):
            files = entry.get("bytes") or 2 * entry.get("parameters", 0) or None
            parameters = found.get("parameters")
            yield Row(name, entry["kind"], parsed(found), parameters, files)


def rehearsed() -> list[Row]:
    """Models of which vLLM said everything."""
    return [row for row in rows() if not row.answer.unknown and row.answer.refused is None]


def architectures() -> set[str]:
    """Architectures of which it said everything, those of the memory plan's tests among them."""
    whole = (parsed(found) for found in answers().values())
    return {
        answer.architecture
        for answer in whole
        if answer.architecture and not answer.unknown and answer.refused is None
    }


def table() -> str:
    """Weights against files, and a token in the KV cache."""
    lines = [
        "| model | architecture | weights, GiB | files, GiB | difference | KV cache, KiB a token |",
        "|---|---|---|---|---|---|",
    ]
    for row in sorted(rehearsed(), key=lambda one: one.answer.architecture or ""):
        answer, error = row.answer, row.error
        cells = (
            row.name,
            answer.architecture,
            f"{(answer.weights or 0) / GIB:.2f}",
            f"{row.files / GIB:.2f}" if row.files else "",
            f"{100 * error:+.2f} %" if error is not None else "",
            "" if answer.cache_token is None else f"{answer.cache_token / 1024:g}",
        )
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


def left_out() -> str:
    """Models of which something is not known, with vLLM's or PyTorch's own words."""
    lines = ["| model | why |", "|---|---|"]
    for row in sorted(rows(), key=lambda one: one.name):
        why = row.answer.refused.sentence if row.answer.refused else ""
        why = why or "; ".join(row.answer.unknown.values())
        if why:
            lines.append(f"| {row.name} | {why[:200].replace('|', '/')} |")
    return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Logged:
    """One figure that vLLM logged on a card, and the rehearsal's."""

    model: str
    figure: str
    logged: float
    ours: float
    url: str

    @property
    def error(self) -> float:
        """Relative to what was logged."""
        return self.ours / self.logged - 1


def logged() -> Iterator[Logged]:
    """What others published of vLLM's logs, of models that were rehearsed."""
    given = answers()
    for log in LOGS:
        name, url = at(log["model"], log.get("tp", 1)), log["url"]
        if (found := given.get(name)) is None:
            continue
        answer = parsed(found)
        if answer.weights and "weights" in log:
            yield Logged(name, "weights, GiB", log["weights"], answer.weights / GIB, url)
        if not answer.cache_token or any(one.kind not in _WHOLE for one in answer.groups):
            continue
        for figure, tokens, gib in (
            ("KV cache of {} tokens, GiB", log.get("cache", {}).get("tokens"), "cache"),
            ("one sequence of {} tokens, GiB", log.get("needed", {}).get("tokens"), "needed"),
        ):
            if tokens:
                ours = answer.cache_token * tokens / GIB
                yield Logged(name, figure.format(tokens), log[gib]["gib"], ours, url)


def against_logs() -> str:
    """The same figures as cards logged them."""
    lines = [
        "| model | figure | logged | rehearsed | difference | source |",
        "|---|---|---|---|---|---|",
    ]
    for one in logged():
        source = f"[{one.url.removeprefix('https://').removeprefix('github.com/')[:60]}]({one.url})"
        lines.append(
            f"| {one.model} | {one.figure} | {one.logged:.6g} | {one.ours:.6g} |"
            f" {100 * one.error:+.2f} % | {source} |"
        )
    return "\n".join(lines) + "\n"


def document(text: str) -> str:
    """The document with its tables as they should be."""
    for name, part in (
        ("models", table()),
        ("left out", left_out()),
        ("logs", against_logs()),
    ):
        text = replaced(text, START.format(name), part)
    return text


if __name__ == "__main__":
    DOCUMENT.write_text(document(DOCUMENT.read_text()))
