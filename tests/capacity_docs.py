"""Writes the tables of docs/capacity.md: the plan's figures beside those that vLLM logged.

python -m tests.capacity_docs
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache as remembered
from pathlib import Path
from typing import Any

import yaml

from tests.made import replaced
from tests.unit.samples import settings
from vllm_hosts.capacity import AgentPlan, ModelFiles, PlannedGpu, estimates, plan_host
from vllm_hosts.capacity.estimates import GIB
from vllm_hosts.capacity.kv_cache import BLOCK, KvCache, cache
from vllm_hosts.capacity.model_shape import Model, describe
from vllm_hosts.capacity.sizes import weight_size

HERE = Path(__file__).resolve().parent
DOCUMENT = HERE.parent / "docs" / "capacity.md"
MODELS = HERE / "unit" / "models"
LOGS: list[dict[str, Any]] = yaml.safe_load(
    (HERE / "unit" / "data" / "published_logs.yaml").read_text()
)
START = "<!-- made by python -m tests.capacity_docs: {} -->\n"

#: A published guide's safe context on one card of 16 GB: model, from, to (tokens).
GUIDE = (
    ("Qwen2.5-7B-Instruct-AWQ", 32768, 49152),
    ("Qwen2.5-14B-Instruct-AWQ", 16384, 24576),
    ("Qwen2.5-14B-Instruct-GPTQ-Int4", 16384, 24576),
)


@dataclass(frozen=True)
class Row:
    """One figure of one log. ``outlier``: why it is more than 5 % off."""

    model: str
    tp: int
    name: str
    figure: str
    logged: float
    ours: float
    url: str
    outlier: str | None

    @property
    def error(self) -> float:
        """Relative to what was logged."""
        return self.ours / self.logged - 1


def files(name: str) -> ModelFiles:
    """A model's configuration, without its files."""
    return ModelFiles(json.loads((MODELS / f"{name}.json").read_text()))


@remembered
def model(name: str) -> Model:
    """A model of tests/unit/models."""
    return describe(name, files(name))


def rows() -> Iterator[Row]:
    """Every figure of every log."""
    for log in LOGS:
        tp, known = log.get("tp", 1), model(log["model"])
        held = cache(known, tp, 16, estimates.LARGE_BATCH[0])
        for name, figure, logged, ours in _figures(log, known, held, tp):
            yield Row(
                log["model"],
                tp,
                name,
                figure,
                logged,
                ours,
                log["url"],
                log.get("outlier", {}).get(name),
            )


def _figures(
    log: dict[str, Any], known: Model, held: KvCache, tp: int
) -> Iterator[tuple[str, str, float, float]]:
    if logged := log.get("weights"):
        yield "weights", "weights, GiB", logged, weight_size(known, tp).bytes / GIB
    if given := log.get("cache"):
        ours = held.sequence(given["tokens"]) / GIB
        yield "cache", f"KV cache of {given['tokens']} tokens, GiB", given["gib"], ours
    if given := log.get("needed"):
        ours = held.sequence(given["tokens"]) / GIB
        yield "needed", f"one sequence of {given['tokens']} tokens, GiB", given["gib"], ours
    if given := log.get("longest"):
        longest = held.longest(int(given["gib"] * GIB), None)
        yield "longest", f"longest in {given['gib']} GiB, tokens", given["tokens"], longest or 0
    if given := log.get("at_once"):
        # In these versions the cache's size is the tokens that each group of layers can have.
        groups = sum(count for _, count in held.groups)
        available = given["cache"] // BLOCK * groups * held.block
        times = held.sequences(available, given["length"])
        yield "at_once", f"sequences of {given['length']} tokens at once", given["times"], times
    if given := log.get("room"):
        yield "room", "left for the KV cache, GiB", given["gib"], _room(known, given, tp)


def _room(known: Model, given: dict[str, Any], tp: int) -> float:
    """Of a card as PyTorch sees it. These versions left CUDA graphs out."""
    batched, sequences = estimates.batch_defaults(given["name"], int(given["card"] * GIB))
    sampler = estimates.SAMPLER_SORTING if given.get("sorting") else estimates.SAMPLER
    taken = (
        weight_size(known, tp).bytes
        + estimates.activations(known, tp, batched, sequences, sampler)
        + estimates.context(tp)
    )
    return float(given["card"] * given["utilization"] - taken / GIB)


def on_a_16_gb_card(name: str) -> AgentPlan:
    """The plan of a model alone on a card of 16 GB (RTX 4080: 16376 MiB), with defaults."""
    agent = {"name": "it", "model": f"Qwen/{name}", "port": 8001}
    card = PlannedGpu(0, "NVIDIA GeForce RTX 4080", 16376 * 1024**2)
    return plan_host(settings(agents=[agent]), {0: card}, {f"Qwen/{name}": files(name)}).agents[0]


def errors_table() -> str:
    """The plan beside the logs."""
    lines = [
        "| model | GPUs | figure | logged | plan | error | source |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows():
        where = row.url.removeprefix("https://github.com/").removeprefix("https://")
        short = where if len(where) < 50 else "/".join(where.split("/")[:2])
        star = f" ({row.outlier})" if row.outlier else ""
        lines.append(
            f"| {row.model} | {row.tp} | {row.figure} | {row.logged:g} | {row.ours:.6g}"
            f" | {100 * row.error:+.1f} %{star} | [{short}]({row.url}) |"
        )
    return "\n".join([*lines, ""])


def guide_table() -> str:
    """The plan beside the guide."""
    lines = ["| model | guide | plan | at once |", "|---|---|---|---|"]
    for name, least, most in GUIDE:
        plan = on_a_16_gb_card(name)
        longest = plan.largest_max_model_len or 0
        own = " (the model's own limit)" if longest == plan.limit else ""
        assert plan.cache is not None
        held = cache(model(name), 1, 16, estimates.USUAL_BATCH[0])
        lines.append(
            f"| {name} | {least // 1024}k to {most // 1024}k | {longest}{own}"
            f" | {held.sequences(plan.cache, longest):.1f} |"
        )
    return "\n".join([*lines, ""])


def with_tables(text: str) -> str:
    """The document with its tables as they should be.

    :raises ValueError: the document lacks the comments that they stand between.
    """
    for name, table in (("errors", errors_table()), ("guide", guide_table())):
        text = replaced(text, START.format(name), table)
    return text


if __name__ == "__main__":
    DOCUMENT.write_text(with_tables(DOCUMENT.read_text()))
