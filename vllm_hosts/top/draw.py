"""The screen: one block for each host, in 80 columns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from vllm_hosts.agents.status import style_of
from vllm_hosts.host.nvidia_smi import Gpu
from vllm_hosts.host.vllm_metrics import Metrics
from vllm_hosts.top.sample import AgentSample, HostSample, hit_rate, rates

UNKNOWN = "n/a"


@dataclass(frozen=True)
class View:
    """What is known of a host: the last look and the one before.

    ``problem`` says why the last look brought nothing; ``now`` is None before the first.
    """

    before: HostSample | None = None
    now: HostSample | None = None
    problem: str | None = None


def picture(views: Mapping[str, View], title: str, right: str, height: int) -> Group:
    """All hosts, or as many as fit.

    :param right: what stands at the right end of the title.
    :param height: lines that there are.
    """
    head = Table.grid(expand=True)
    head.add_column(no_wrap=True, overflow="ellipsis")
    head.add_column(justify="right", no_wrap=True)
    head.add_row(Text(title, style="bold"), Text(right, style="dim"))
    parts: list[RenderableType] = [head]
    room = height - 2
    for place, (name, view) in enumerate(views.items()):
        block = host(name, view)
        left = len(views) - place
        if lines(view) > room - (1 if left > 1 else 0) and place > 0:
            parts.append(Text(f"and {left} more: --host shows one, or make the terminal taller"))
            break
        room -= lines(view)
        parts.append(block)
    return Group(*parts)


def lines(view: View) -> int:
    """How many lines a host's block has."""
    if view.problem is not None:
        return 2
    if view.now is None:
        return 1
    cards = len(view.now.gpus)
    return 1 + (cards + 1 if cards else 0) + len(view.now.agents) + 1


def host(name: str, view: View) -> RenderableType:
    """One host's block."""
    if view.problem is not None:
        why = Text(f"  {view.problem}", style="red", no_wrap=True, overflow="ellipsis")
        return Group(_line(name, "no answer, retrying", "red"), why)
    if view.now is None:
        return _line(name, "...", "dim")
    trouble = view.now.gpu_problem or ("" if view.now.gpus else "no NVIDIA GPU")
    parts: list[RenderableType] = [_line(name, trouble, "red" if view.now.gpu_problem else "dim")]
    if view.now.gpus:
        parts.append(_cards(view.now.gpus))
    before = view.before.agents if view.before is not None else {}
    parts.append(_agents(view.now.agents, before))
    return Group(*parts)


def _line(name: str, words: str, style: str) -> Text:
    return Text.assemble((name, "bold"), "  ", (words, style), no_wrap=True, overflow="ellipsis")


def _table(*columns: tuple[str, int, bool]) -> Table:
    """:param columns: heading, width, and whether it is right-aligned."""
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 1, 0, 0))
    for heading, width, right in columns:
        table.add_column(
            heading,
            width=width,
            justify="right" if right else "left",
            no_wrap=True,
            overflow="ellipsis",
        )
    return table


def _cards(cards: tuple[Gpu, ...]) -> Table:
    table = _table(
        ("GPU", 3, True), ("NAME", 26, False), ("MEMORY", 16, True), ("USED", 5, True),
        ("UTIL", 5, True), ("TEMP", 5, True), ("POWER", 10, True),
    )  # fmt: skip
    for card in cards:
        part = (
            card.memory_used_mib / card.memory_mib
            if card.memory_used_mib is not None and card.memory_mib
            else None
        )
        table.add_row(
            str(card.index),
            Text(card.name.removeprefix("NVIDIA ") + (" (MIG)" if card.mig else "")),
            f"{_gib(card.memory_used_mib)}/{_gib(card.memory_mib)} GiB",
            _percent(part),
            _percent(None if card.utilization is None else card.utilization / 100),
            UNKNOWN if card.temperature is None else f"{card.temperature:.0f} C",
            f"{_whole(card.power)}/{_whole(card.power_limit)} W",
        )
    return table


def _agents(agents: Mapping[str, AgentSample], before: Mapping[str, AgentSample]) -> Table:
    table = _table(
        ("AGENT", 15, False), ("STATE", 9, False), ("RUN", 4, True), ("WAIT", 4, True),
        ("PROMPT/S", 8, True), ("GEN/S", 7, True), ("KV", 4, True), ("HIT", 4, True),
        ("CPU", 5, True), ("MEMORY", 8, True),
    )  # fmt: skip
    for name, agent in agents.items():
        per_second = rates(before.get(name), agent)
        said = agent.metrics or Metrics()
        container = agent.container
        state = (container.health if container.running else None) or container.state
        style = style_of(container.standing)
        table.add_row(
            name,
            Text(state, style=style),
            _whole(said.running),
            _whole(said.waiting),
            _tokens(per_second.prompt),
            _tokens(per_second.generation),
            _percent(said.kv_cache),
            _percent(hit_rate(said)),
            UNKNOWN if agent.usage is None else f"{agent.usage.cpu:.0f}%",
            UNKNOWN if agent.usage is None else f"{agent.usage.memory / 2**30:.1f} GiB",
        )
    return table


def _percent(part: float | None) -> str:
    return UNKNOWN if part is None else f"{part * 100:.0f}%"


def _whole(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.0f}"


def _gib(mib: float | None) -> str:
    return UNKNOWN if mib is None else f"{mib / 1024:.1f}"


def _tokens(per_second: float | None) -> str:
    if per_second is None:
        return UNKNOWN
    return f"{per_second:.1f}" if per_second < 10_000 else f"{per_second / 1000:.1f}k"
