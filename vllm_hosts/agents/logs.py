"""Logs of many agents, as they come."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from vllm_hosts.agents.chosen import Chosen
from vllm_hosts.connect.connections import ask_host
from vllm_hosts.errors import HostError
from vllm_hosts.facts.agents import AgentLines, AgentLogs, LogLine, Logs

#: Seconds in which a host must answer.
LIMIT = 30.0
#: Lines of one agent that one further look brings at most.
FURTHER = 2000
#: Docker has written a line by then, and no look needs to go back further than that.
_WRITTEN = timedelta(seconds=10)


@dataclass(frozen=True)
class News:
    """What one poll returned: host, agent and line, and sentences about what could not be read.

    The first look gives the lines of one agent after the other, further ones as they were printed.
    """

    lines: tuple[tuple[str, str, LogLine], ...]
    problems: tuple[str, ...]


@dataclass
class Reader:
    """Reads on where it was. A host that does not answer is polled again the next time, and what
    was printed meanwhile is not lost.

    :param lines: how many old lines of each agent to begin with.
    :param everything: also the routine lines that ``AgentLogs`` leaves out.
    """

    chosen: Chosen
    lines: int
    everything: bool = False
    _seen: dict[str, dict[str, str]] = field(default_factory=dict)
    _said: set[str] = field(default_factory=set)

    def read(self) -> News:
        """What is new since the last call. A problem that lasts is told once."""
        further = bool(self._seen)
        found = self.chosen.connections.each(self.chosen.agents, self._ask, limit=LIMIT)
        lines: list[tuple[str, str, LogLine]] = []
        problems = []
        for host, logs in found.items():
            if isinstance(logs, HostError):
                problems.append(f"{host}: {logs}")
                continue
            seen = self._seen.setdefault(host, {})
            for agent, log in logs.agents.items():
                after = seen.get(agent)
                # What is printed from now on is new, also where nothing was printed until now.
                seen.setdefault(agent, logs.read_at)
                if log.lines is None:
                    problems.append(f"{host}: agent {agent} has no container; deploy it first")
                    continue
                new = fresh(log, after)
                if after is not None and len(new) >= FURTHER:
                    problems.append(f"{host}: agent {agent} prints faster than it is read")
                newest = new[-1].stamp if new else seen[agent]
                seen[agent] = max(newest, _written(logs.read_at))
                lines += [(host, agent, line) for line in new]
        untold = [problem for problem in problems if problem not in self._said]
        self._said = set(problems)
        return News(tuple(sorted(lines, key=_stamp) if further else lines), tuple(untold))

    def _ask(self, host: str) -> Logs:
        since = self._seen.get(host, {})
        return ask_host(
            AgentLogs,
            agents=self.chosen.agents[host],
            directory=self.chosen.settings[host].vllm.directory,
            lines=FURTHER if since else self.lines,
            since=since,
            everything=self.everything,
        )


def fresh(log: AgentLines, after: str | None) -> list[LogLine]:
    """The lines that were printed after a stamp; ``docker logs --since`` repeats those at it."""
    return [line for line in log.lines or () if after is None or line.stamp > after]


def _written(read_at: str) -> str:
    """The timestamp up to which a poll at this time has seen every line."""
    then = datetime.fromisoformat(read_at[:19]) - _WRITTEN
    return f"{then.isoformat()}.000000000Z"


def _stamp(item: tuple[str, str, LogLine]) -> str:
    return item[2].stamp
