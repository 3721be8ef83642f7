"""What the assertions at the end of a run check."""

from __future__ import annotations

from vllm_hosts.facts.base import HostFact, ending, sections
from vllm_hosts.host.sockets import LISTENING, Socket, read


class ListeningSockets(HostFact[tuple[Socket, ...]]):
    """All listening TCP and UDP sockets, with their programs."""

    what = "the listening sockets"
    steady = True

    def command(self) -> str:
        return ending(f"echo '== sockets'; {LISTENING}")

    def parse(self, lines: list[str]) -> tuple[Socket, ...]:
        return tuple(read(sections(lines)["sockets"]))
