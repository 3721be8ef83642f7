"""What of a host must not grow, however often it is deployed to."""

from __future__ import annotations

from dataclasses import dataclass

from lab import hosts as lab_hosts

#: Files that are there for each event, and bounded in size or number by what writes them; previous/
#: has one for each file that a deploy ever changed.
_EVENTS = "history|way-back|starts|previous/|\\.log"
#: Bytes by which a folder may grow: a line of the history for each run, and maps of a few keys.
_ROOM = 2 << 20
#: Bytes by which the memory of our services may grow.
_MEMORY = 64 << 20

_SCRIPT = rf"""
    number() {{ printf '%s %s\n' "$1" "$2"; }}
    number rules "$(nft list ruleset | grep -vc '^[[:space:]]*elements\|^[[:space:]]*[0-9]')"
    number networks "$(docker network ls -q | wc -l)"
    number images "$(docker images -q | sort -u | wc -l)"
    number containers "$(docker ps -aq | wc -l)"
    number volumes "$(docker volume ls -q | wc -l)"
    number units "$(systemctl list-unit-files --no-legend 'vllm-hosts*' | wc -l)"
    number failed "$(systemctl list-units --failed --no-legend 'vllm-hosts*' | wc -l)"
    number connections "$(ss -Htn state close-wait | wc -l)"
    ours="/opt/vllm /usr/local/lib/vllm-hosts /var/lib/vllm-hosts"
    number files "$(find /etc $ours -xdev -type f | grep -Evc '{_EVENTS}')"
    sum() {{ awk '{{ s += $1 }} END {{ print s }}'; }}
    number state "$(du -sb /etc/vllm-hosts $ours | sum)"
    number logs "$(du -sb /var/log/vllm-hosts | sum)"
    number memory "$(($(ps -o rss= -C nginx,dockerd,containerd | sum) * 1024))"
"""


@dataclass(frozen=True)
class Footprint:
    """Counts of a host, by name; bytes where the name is state, logs or memory."""

    counts: dict[str, int]

    def grown(self, since: Footprint, logs: int) -> list[str]:
        """What is more than it was.

        :param logs: bytes that logs may have.
        """
        room = {"state": _ROOM, "memory": _MEMORY}
        found = [
            f"{name}: {since.counts[name]} before, {count} now"
            for name, count in self.counts.items()
            if name != "logs" and count > since.counts[name] + room.get(name, 0)
        ]
        if self.counts["logs"] > logs:
            found.append(f"logs have {self.counts['logs']} bytes")
        return found


def footprint(host: str) -> Footprint:
    """What there is on a host now."""
    said = lab_hosts.run(host, _SCRIPT).stdout
    return Footprint(
        {name: int(count) for name, count in (line.split() for line in said.splitlines())}
    )
