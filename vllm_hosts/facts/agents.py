"""Agents as whoever operates them sees them: what runs, since when, and what it prints."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from shlex import quote

from vllm_hosts.facts.base import HostFact, ending, sections
from vllm_hosts.host.containers import INSPECT, Container, named
from vllm_hosts.host.masks import MASKED, keys
from vllm_hosts.host.paths import EDGE_FOLDER
from vllm_hosts.text import clean


def inspection(agents: list[str]) -> str:
    """Shell: one line of JSON for each of these containers that exists. Shows no environment."""
    return f"""
        names=$(docker ps --all --format '{{{{.Names}}}}') || exit 1
        set --
        for agent in {" ".join(agents)}; do
            ! printf '%s\\n' "$names" | grep -qxF "$agent" || set -- "$@" "$agent"
        done
        echo '== containers'
        [ $# = 0 ] || docker container inspect --format {quote(INSPECT)} "$@" || exit 1
    """


class AgentsInspected(HostFact[dict[str, Container]]):
    """Each of these agents, by name, whether its container exists or not."""

    what = "the agents' containers"

    def command(self, agents: list[str]) -> str:
        self.asked = list(agents)
        return ending(inspection(agents))

    def parse(self, lines: list[str]) -> dict[str, Container]:
        found = named(sections(lines)["containers"], self.asked)
        return {name: found[name] for name in self.asked}


#: Lines of vLLM's access log for checks that went well, after Docker's stamp: the container's own
#: health check, the edge's, and whoever reads metrics. There is one every few seconds. The host's
#: watchdog has a token made, and alone speaks HTTP/1.0.
_ROUTINE = (
    r"^[^ ]+ (\([A-Za-z]+ pid=[0-9]+\) )?INFO: +[^ ]+ - "
    r'"((GET|HEAD) /(health|metrics)/? HTTP/[0-9.]+'
    r"|POST /(v1/completions|v1/embeddings|pooling|classify) HTTP/1\.0)"
    r'" 2[0-9][0-9]( [A-Za-z ]*)?.?$'
)
#: Lines among which the last ones are found that are none of those.
_AMONG = 200_000

_STAMP = re.compile(r"2[0-9]{3}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?Z")
#: Of a line of a log; longer ones are a program that lost its way.
_LONGEST = 8000


@dataclass(frozen=True)
class LogLine:
    """``stamp`` is Docker's time of the line, in RFC 3339, which sorts as text."""

    stamp: str
    text: str


@dataclass(frozen=True)
class AgentLines:
    """``lines`` is None where the agent has no container."""

    lines: tuple[LogLine, ...] | None


@dataclass(frozen=True)
class Logs:
    """``read_at``: the host's time before it read them, as a stamp."""

    read_at: str
    agents: dict[str, AgentLines]


class AgentLogs(HostFact[Logs]):
    """The last lines of each of these agents, with every key masked.

    Without those that say that somebody's poll of health or metrics succeeded, unless all are asked
    for; they do not count.
    """

    what = "the agents' logs"

    def command(
        self,
        agents: list[str],
        directory: str,
        lines: int,
        since: dict[str, str],
        edge_folder: str = EDGE_FOLDER,
        everything: bool = False,
    ) -> str:
        """:param since: by agent, the stamp from which on lines are wanted."""
        self.asked = list(agents)
        script = [
            "echo '== read at'; date -u +%Y-%m-%dT%H:%M:%S.%NZ",
            "names=$(docker ps --all --format '{{.Names}}') || exit 1",
            keys(directory, edge_folder),
        ]
        for agent in agents:
            # A further look brings few lines anyway, and Docker counts from the end each time.
            whole = everything or not lines or agent in since
            limits = f"--tail {lines if whole else max(lines, _AMONG)}"
            limits += f" --since {since[agent]}" if agent in since else ""
            chosen = "" if everything else f" | grep -avE {quote(_ROUTINE)} | tail -n {lines}"
            script += [
                f"echo '== {agent}'",
                f"if printf '%s\\n' \"$names\" | grep -qxF {agent}; then",
                f"echo present; docker logs --timestamps {limits} {agent} 2>&1{chosen}"
                f" | iconv -c -f utf-8 -t utf-8 | {MASKED} | sed 's/^/> /'; fi",
            ]
        return ending("\n".join(script))

    def parse(self, lines: list[str]) -> Logs:
        parts = sections(lines)
        [read_at] = parts["read at"]
        if not _STAMP.fullmatch(read_at):
            raise ValueError(read_at[:200])
        datetime.fromisoformat(read_at[:19])
        found = {}
        for agent in self.asked:
            there, *printed = parts[agent] or [""]
            found[agent] = AgentLines(tuple(map(_line, printed)) if there else None)
        return Logs(read_at, found)


def _line(line: str) -> LogLine:
    stamp, _, text = line.removeprefix("> ").partition(" ")
    if not _STAMP.fullmatch(stamp):
        raise ValueError(line[:200])
    # The host masked keys before: what was cut in two must not become whole here.
    shown = clean(text.rstrip("\r").rpartition("\r")[2], _LONGEST, instead="\ufffd")
    return LogLine(stamp, shown)
