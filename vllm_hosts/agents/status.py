"""What runs on hosts, for people and for scripts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from rich.table import Table
from rich.text import Text

from vllm_hosts.errors import HostError
from vllm_hosts.host.containers import Container, Standing
from vllm_hosts.host.rotation import Balancer
from vllm_hosts.settings.fleet import Replica

#: By host: its agents by name, or why nothing is known of them.
Found = Mapping[str, dict[str, Container] | HostError]


@dataclass(frozen=True)
class Drained:
    """Which agents get no requests. ``seen``: by gateway, what its HAProxy says; None: none runs;
    an exception: that is not known."""

    seen: Mapping[str, Balancer | HostError | None]

    def of(self, host: str, agent: str) -> list[str]:
        """The gateways at which an agent is drained."""
        name = Replica(host, agent, "", 0).server
        return [
            gate
            for gate, balancer in self.seen.items()
            if isinstance(balancer, Balancer) and any(one.drained for one in balancer.of([name]))
        ]


def status_json(
    agents: Mapping[str, list[str]], found: Found, drained: Drained | None = None
) -> list[dict[str, Any]]:
    """One object for each agent. ``error`` says why nothing is known of it.

    :param drained: where there are gateways; each agent says then at which ones it is drained.
    """
    rows = []
    for host, names in agents.items():
        seen = found[host]
        for name in names:
            row: dict[str, Any] = {"host": host, "agent": name}
            if isinstance(seen, HostError):
                agent, error = None, str(seen)
            else:
                agent, error = seen[name], None
            row |= _described(agent) | {"error": error}
            if drained is not None:
                row["drained"] = drained.of(host, name)
            rows.append(row)
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


def status_table(found: Found, now: datetime, drained: Drained | None = None) -> Table:
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
            if drained is not None and drained.of(host, agent.name):
                style, state = "yellow", f"{state}, drained"
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
