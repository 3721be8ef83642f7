"""A host's history: a line for each run that changed something there."""

from __future__ import annotations

from dataclasses import dataclass

from vllm_hosts.bounded import parse_json
from vllm_hosts.text import clean


@dataclass(frozen=True)
class HistoryEntry:
    """A line of a host's history: ``at`` is when it ended, on the host's clock; ``address`` where
    sshd saw it come from, ``changed`` the steps that changed something."""

    at: str
    address: str
    who: str
    what: str
    since: str
    commit: str
    version: str
    ended: str
    changed: tuple[str, ...]


def history_entry(line: str) -> HistoryEntry:
    """Of a line; one that somebody edited does not hide the others."""
    at, _, rest = line.partition(" ")
    address, _, text = rest.partition(" ")
    try:
        said = parse_json(text, size=8000)
        names = ("who", "what", "since", "commit", "version", "ended")
        words = {name: clean(said[name], 200) for name in names}
        changed = tuple(clean(step, 200) for step in said["changed"][:200])
    except (KeyError, TypeError, ValueError):
        words = dict.fromkeys(("who", "what", "since", "commit", "version"), "unknown")
        words["ended"], changed = "this line cannot be read", ()
    return HistoryEntry(clean(at, 32), clean(address, 64), changed=changed, **words)
