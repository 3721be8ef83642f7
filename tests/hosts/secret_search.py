"""Searching a host for the secrets of its .env. They travel between programs on the host only."""

from __future__ import annotations

from collections.abc import Mapping
from shlex import quote

from testinfra.host import Host

from vllm_hosts.errors import HostError

#: Seconds for one place: a container's log holds up to some hundred megabytes.
_LIMIT = 180
#: Says of each place whether it holds a secret, how much was read, or that it cannot be searched.
#: The first place is .env itself, where a search that works finds something.
_SEARCH = """
set -uo pipefail
env={env}
keys='BEGIN {{
    while ((getline line < file) > 0)
        if (sub(/^[A-Za-z0-9_]+=/, "", line) && length(line) > 7) {{ keys[line]; n++ }}
    if (!n) exit 3
}}
{{ for (key in keys) if (index($0, key)) found++ }}
END {{ if (!n) exit 3; print found + 0 }}'
look() {{
    found=$(timeout {limit} bash -o pipefail -c "$1" | LC_ALL=C awk -v file="$env" "$keys")
    code=$?
    if [ $code = 0 ]; then echo "$found"; else echo "failed $code"; fi
}}
look "cat $env"
"""


def with_a_secret(host: Host, directory: str, places: Mapping[str, str]) -> list[str]:
    """Which of some places hold a secret of .env.

    :param places: by name: a shell command that prints what is there.
    :raises HostError: .env or a place cannot be searched, and no other holds a secret.
    """
    script = _SEARCH.format(env=quote(f"{directory}/.env"), limit=_LIMIT)
    script += "".join(f"look {quote(command)}\n" for command in places.values())
    answers = host.check_output(f"bash -c {quote(script)}").splitlines()
    if len(answers) != len(places) + 1 or answers[0] in ("0", "failed 3"):
        raise HostError("the search does not even find the keys in .env")
    said = dict(zip(places, answers[1:], strict=True))
    found = [place for place, answer in said.items() if answer.isdigit() and answer != "0"]
    failed = [place for place, answer in said.items() if not answer.isdigit()]
    if failed and not found:
        raise HostError(f"could not be searched for keys: {', '.join(failed)}")
    return found
