"""Who holds a host, what deploys have left there, and who changed it before."""

from __future__ import annotations

from dataclasses import dataclass

from vllm_hosts.errors import HostError
from vllm_hosts.facts.base import HostFact, ending, sections
from vllm_hosts.host.history import HistoryEntry, history_entry
from vllm_hosts.host.marks import Left, Owner, functions, left_of, owner_of


@dataclass(frozen=True)
class LockFound:
    """``held``: whether somebody holds the host; ``owner``: who, if that can be read."""

    held: bool
    owner: Owner | None
    left: Left


class LockState(HostFact[LockFound]):
    """The kernel's lock itself: what stands in the file alone means nothing."""

    what = "the host's lock, as root (check ssh_user, _sudo and the sudo password),"

    def command(self) -> str:
        return ending(
            f"""
            {functions()}
            echo '== user'; id -u
            echo '== held'
            [ ! -e "$lock" ] || flock -n -s "$lock" true || echo held
            echo '== owner'; head -c 4000 "$lock" 2>/dev/null; echo
            echo '== left'; look_at_left
            """
        )

    def parse(self, lines: list[str]) -> LockFound:
        parts = sections(lines)
        _require_root(parts)
        held = parts["held"] == ["held"]
        owner = owner_of(parts["owner"][0]) if held and parts["owner"] else None
        return LockFound(held, owner, left_of(parts["left"]))


class Released(HostFact[bool]):
    """Ends the run that holds a host: the connection that it came over, so that it cannot go on.

    True: nobody holds the host any more.
    """

    what = "the end of the run that holds the host"

    def command(self, pid: int, boot: str) -> str:
        """:param pid: the process that was seen to hold it, in this ``boot``."""
        return ending(
            f"""
            {functions()}
            free() {{ flock -n -s "$lock" true; }}
            echo '== user'; id -u
            if ! free && [ "$(head -n 1 "$lock" | cut -d ' ' -f 1,2)" = '{pid} {boot}' ]; then
                at={pid}
                for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16; do
                    at=$(sed 's/.*) . //; s/ .*//' 2>/dev/null <"/proc/$at/stat") || break
                    case "$at" in '' | 0 | 1) break ;; esac
                    case "$(cat "/proc/$at/comm")" in
                        sshd* | pyinfra* | python* | vllm-hosts*) kill "$at"; break ;;
                    esac
                done
                for _ in 1 2 3 4 5 6 7 8 9 10; do free && break; sleep 0.5; done
                free || kill -KILL {pid}
                for _ in 1 2 3 4; do free && break; sleep 0.5; done
            fi
            echo '== free'; ! free || echo free
            """
        )

    def parse(self, lines: list[str]) -> bool:
        parts = sections(lines)
        _require_root(parts)
        return parts["free"] == ["free"]


class HostHistory(HostFact[tuple[HistoryEntry, ...]]):
    """What runs have changed on a host, the last one at the end."""

    what = "the host's history, as root (check ssh_user, _sudo and the sudo password),"

    def command(self, lines: int) -> str:
        return ending(
            f"""
            {functions()}
            echo '== user'; id -u
            echo '== history'
            [ ! -f "$history" ] || tail -n {lines} "$history" | head -c 600000; echo
            """
        )

    def parse(self, lines: list[str]) -> tuple[HistoryEntry, ...]:
        parts = sections(lines)
        _require_root(parts)
        return tuple(history_entry(line) for line in parts["history"] if line)


def _require_root(parts: dict[str, list[str]]) -> None:
    if parts["user"] != ["0"]:
        raise HostError("commands do not run as root; connect as root, or set _sudo = True")
