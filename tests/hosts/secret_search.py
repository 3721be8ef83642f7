"""Searching a host for the secrets that it holds. They travel between programs on the host only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from shlex import quote

from testinfra.host import Host

from vllm_hosts.errors import HostError
from vllm_hosts.host.paths import EDGE_FOLDER
from vllm_hosts.settings import HostSettings

#: Seconds for one place: a container's log holds up to some hundred megabytes.
_LIMIT = 180
#: Says of each place whether it holds a secret, how much was read, or that it cannot be searched.
#: The first place is the file that has them, where a search that works finds something.
_SEARCH = """
set -uo pipefail
kept={kept}
keys='BEGIN {{
    while ((getline line < file) > 0)
        if ({entry} && length(line) > 7) {{ keys[line]; n++ }}
    if (!n) exit 3
}}
{{ for (key in keys) if (index($0, key)) found++ }}
END {{ if (!n) exit 3; print found + 0 }}'
look() {{
    found=$(timeout {limit} bash -o pipefail -c "$1" | LC_ALL=C awk -v file="$kept" "$keys")
    code=$?
    if [ $code = 0 ]; then echo "$found"; else echo "failed $code"; fi
}}
look "cat $kept"
"""


@dataclass(frozen=True)
class Kept:
    """A file with secrets. ``entry``: what makes awk's ``line`` a secret, or is false."""

    file: str
    entry: str


def kept(settings: HostSettings) -> tuple[Kept, ...]:
    """Where a host has its secrets: agents' keys, and the keys of a gateway's clients."""
    # Each line is compared with each key, so not with those of thousands of clients.
    client = 'n < 50 && sub(/^"Bearer /, "", line) && sub(/".*/, "", line)'
    env = f"{settings.vllm.directory}/.env"
    return (
        *([Kept(f"{EDGE_FOLDER}/clients.map", client)] if settings.is_gateway else []),
        *([Kept(env, 'sub(/^[A-Za-z0-9_]+=/, "", line)')] if settings.runs_agents else []),
    )


def with_a_secret(host: Host, known: Iterable[Kept], places: Mapping[str, str]) -> list[str]:
    """Which of some places hold one of a host's secrets.

    :param places: by name: a shell command that prints what is there.
    :raises HostError: the secrets or a place cannot be searched, and no other holds a secret.
    """
    found = {place: None for one in known for place in _with_one_of(host, one, places)}
    return list(found)


def _with_one_of(host: Host, known: Kept, places: Mapping[str, str]) -> list[str]:
    script = _SEARCH.format(kept=quote(known.file), entry=known.entry, limit=_LIMIT)
    script += "".join(f"look {quote(command)}\n" for command in places.values())
    answers = host.check_output(f"bash -c {quote(script)}").splitlines()
    if len(answers) != len(places) + 1 or answers[0] in ("0", "failed 3"):
        raise HostError("the search does not even find the keys in their own file")
    said = dict(zip(places, answers[1:], strict=True))
    found = [place for place, answer in said.items() if answer.isdigit() and answer != "0"]
    failed = [place for place, answer in said.items() if not answer.isdigit()]
    if failed and not found:
        raise HostError(f"could not be searched for keys: {', '.join(failed)}")
    return found
