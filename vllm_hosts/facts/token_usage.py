"""How many tokens passed a host's edge, by its access logs."""

from __future__ import annotations

from vllm_hosts.errors import HostError
from vllm_hosts.facts.base import HostFact, ending, sections
from vllm_hosts.host import access_log, paths


class TokenUsage(HostFact[access_log.TokenSums]):
    """All logs that the host has kept, rotated ones as well, added up there."""

    what = "the edge's access log, as root (check ssh_user, _sudo and the sudo password),"
    seconds = access_log.LIMIT + 60

    def command(self, by: str, since: str) -> str:
        """:param since: a day as ``2026-11-26``, or empty."""
        folder = paths.EDGE_LOGS
        return ending(
            f"""
            echo '== user'; id -u
            echo '== usage'
            if [ -f {folder}/access.log ]; then ({access_log.script(folder, by, since)}); fi
            """
        )

    def parse(self, lines: list[str]) -> access_log.TokenSums:
        parts = sections(lines)
        if parts["user"] != ["0"]:
            raise HostError("commands do not run as root; connect as root, or set _sudo = True")
        found = [line for line in parts["usage"] if line]
        if not found:
            raise HostError("this host has no access log of an edge; deploy to it first")
        if found == ["changed"]:
            raise HostError("the edge's logs were rotated while they were read; try again")
        if found[-1] == "many":
            raise HostError(
                f"its logs have more than {access_log.MOST_ROWS} of these; see fewer days with"
                " --since, or choose another --by"
            )
        return access_log.read_usage(found)
