"""What runs on hosts, for people and for scripts."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from rich.table import Table
from rich.text import Text

from vllm_hosts.errors import HostError
from vllm_hosts.host.containers import Container, Standing

#: By host: its agents by name, or why nothing is known of them.
Found = Mapping[str, dict[str, Container] | HostError]


def status_json(agents: Mapping[str, list[str]], found: Found) -> list[dict[str, Any]]:
    """One object for each agent. ``error`` says why nothing is known of it."""
    rows = []
    for host, names in agents.items():
        seen = found[host]
        for name in names:
            row: dict[str, Any] = {"host": host, "agent": name}
            if isinstance(seen, HostError):
                agent, error = None, str(seen)
            else:
                agent, error = seen[name], None
            rows.append(row | _described(agent) | {"error": error})
    return rows


def _described(agent: Container | None) -> dict[str, Any]:
    """The names here are the names in the JSON, and stay."""
    return {
        "state": agent and agent.state,
        "health": agent and agent.health,
        "since": agent.since.isoformat() if agent and agent.since else None,
        "exit_code": agent and agent.ended_with,
        "restarts": agent and agent.restarts,
        "image": agent and agent.image,
        "model": agent and agent.model,
    }


def style_of(standing: Standing) -> str:
    """The colour of an agent, here and on the screen of ``top``."""
    if standing.well:
        return "green"
    return "yellow" if standing is Standing.STARTING else "red"


def status_table(found: Found, now: datetime) -> Table:
    """The same for people: one line for each agent."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("HOST", "AGENT", "STATE", "HEALTH", "SINCE"):
        table.add_column(heading, no_wrap=True)
    table.add_column("RESTARTS", justify="right", no_wrap=True)
    table.add_column("IMAGE", overflow="ellipsis", no_wrap=True)
    table.add_column("MODEL", overflow="ellipsis", no_wrap=True)
    for host, seen in found.items():
        if isinstance(seen, HostError):
            table.add_row(host, "", Text("no answer", style="red"))
            continue
        for agent in seen.values():
            style = style_of(agent.standing)
            state = agent.state + (f" ({agent.ended_with})" if agent.ended_with else "")
            table.add_row(
                host,
                agent.name,
                Text(state, style=style),
                Text(agent.health or "-", style=style),
                _ago(agent.since, now),
                str(agent.restarts),
                Text((agent.image or "-").rpartition("/")[2]),
                Text(agent.model or "-"),
            )
    return table


def _ago(then: datetime | None, now: datetime) -> str:
    if then is None:
        return "-"
    minutes = max(0, int((now - then).total_seconds())) // 60
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h" if minutes < 48 * 60 else f"{minutes // 1440} days"
