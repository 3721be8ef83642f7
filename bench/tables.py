"""What was measured of one case, as a table in Markdown and as a plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

from bench.cases import WITH_VLLM, Case
from bench.figures import Measured, plot, table
from bench.programs import Once

#: By hosts and round trip in seconds, by program.
Results = Mapping[tuple[int, float], Mapping[str, Sequence[Once]]]


def written(case: Case, results: Results, folder: Path) -> str:
    """Write the table and the plot of a case into a folder.

    Ratios are of pairs, in rounds that all programs have.
    """
    rows, drawn = [], {}
    for (hosts, delay), by_name in results.items():
        walls = {name: Measured(tuple(one.wall for one in runs)) for name, runs in by_name.items()}
        rounds = min(len(one.values) for one in walls.values())
        drawn[f"{_hosts(hosts)}, {1000 * delay:.0f} ms"] = walls
        paired = {name: Measured(one.values[:rounds]) for name, one in walls.items()}
        for name, runs in by_name.items():
            ratios = [
                f"{paired[name].over(paired[other]):.2f}" if other in paired else ""
                for other in (case.ours, case.floor)
            ]
            rows.append(
                [
                    hosts,
                    f"{1000 * delay:.0f} ms",
                    f"`{name}`",
                    f"{walls[name]} s",
                    *ratios,
                    f"{Measured(tuple(one.cpu for one in runs))} s",
                    f"{max(one.memory for one in runs) / 1e6:.0f} MB",
                    *(f"{median(count):.0f}" for count in _counts(runs)),
                    f"{median(one.carried for one in runs) / 1e3:.0f} kB",
                ]
            )
    text = table(
        ["hosts", "round trip", "program", "wall (spread)", f"times `{case.ours}`"]
        + [f"times `{case.floor}`", "CPU (spread)", "memory", "connections", "executions"]
        + ["sent and received"],
        rows,
    )
    many = ""
    if any(hosts > WITH_VLLM for hosts, _ in results):
        many = f" More than {WITH_VLLM} hosts are gateways, which run no vLLM."
    folder.mkdir(exist_ok=True)
    heading = f"# {case.title}\n\nOn the lab's hosts, with CPU and memory of the controller.{many}"
    text = f"{heading}\n\n{text}"
    (folder / f"{case.name}.md").write_text(text)
    (folder / f"{case.name}.svg").write_text(plot(case.title, "s", drawn))
    return text


def _counts(runs: Sequence[Once]) -> list[list[int]]:
    return [[one.connections for one in runs], [one.executions for one in runs]]


def _hosts(count: int) -> str:
    return "1 host" if count == 1 else f"{count} hosts"
