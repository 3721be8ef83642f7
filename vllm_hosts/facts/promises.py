"""What the assertions at the end of a run check."""

from __future__ import annotations

from vllm_hosts.facts.base import HostFact, ending, sections


class ListeningSockets(HostFact[tuple[str, ...]]):
    """Lines of ``ss`` for all listening TCP and UDP sockets, with their programs."""

    what = "the listening sockets"
    steady = True

    def command(self) -> str:
        return ending("echo '== sockets'; ss -Hltunp")

    def parse(self, lines: list[str]) -> tuple[str, ...]:
        return tuple(sections(lines)["sockets"])
