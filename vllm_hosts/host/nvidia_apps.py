"""Which programs hold memory of a host's cards, as ``nvidia-smi`` lists them, and which of them are
agents of ours. Touches no host.

Fields: ``nvidia-smi --help-query-compute-apps``. Programs that only draw are not in that list.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from vllm_hosts.host.nvidia_smi import PATIENCE
from vllm_hosts.host.paths import PROJECT
from vllm_hosts.text import clean

#: Not the name: a process gives itself any, with line ends, behind which it could list others.
_FIELDS = "pid,used_memory,gpu_uuid"
#: Bytes that are read of its output, and processes of which the owner is looked for.
_MOST, _MOST_PROGRAMS = 200_000, 1000

#: Shell: the list, its exit code, then ``name PID`` with the first line of what the kernel calls
#: it, and ``of PID`` with ``ours`` or ``gone``. A process is an agent's if its control group is of
#: one of our containers.
APPS = f"""
if command -v nvidia-smi >/dev/null; then
    programs=$({{ timeout -k 5 {PATIENCE} nvidia-smi --format=csv,noheader,nounits 2>&1 \\
        --query-compute-apps={_FIELDS}; echo "exit $?"; }} | head -c {_MOST} |
        grep -aE '^([1-9][0-9]*, [^,]*, [^,]*|exit [0-9]+)$')
    echo "$programs"
    pids=$(echo "$programs" | sed -n 's/^\\([1-9][0-9]*\\),.*/\\1/p' | head -n {_MOST_PROGRAMS})
    own=
    [ -z "$pids" ] || own=$(docker ps --quiet --no-trunc \\
        --filter label=com.docker.compose.project={PROJECT} 2>/dev/null)
    for pid in $pids; do
        containers=$(grep -Eo '[0-9a-f]{{64}}' "/proc/$pid/cgroup" 2>/dev/null | sort -u)
        if [ ! -e "/proc/$pid" ]; then
            echo "of $pid gone"
            continue
        fi
        name=
        {{ IFS= read -r name <"/proc/$pid/comm"; }} 2>/dev/null
        # echo would make line ends of what is written with a backslash.
        printf 'name %s %s\\n' "$pid" "$name"
        if [ -n "$containers" ] && echo "$own" | grep -qxF -e "$containers"; then
            echo "of $pid ours"
        fi
    done
fi
""".strip()


@dataclass(frozen=True)
class Holder:
    """A process with memory on a card.

    :ivar memory_mib: None: the driver does not say, as in some virtual machines.
    :ivar gpu: the card's UUID.
    :ivar name: for people; a process can call itself anything.
    :ivar ours: whether it runs in an agent's container.
    """

    pid: int
    memory_mib: int | None
    gpu: str
    name: str
    ours: bool = False


def read(lines: Sequence[str]) -> tuple[Holder, ...]:
    """From what ``APPS`` prints; those that have ended meanwhile are left out.

    Where nvidia-smi fails it lists nobody; why cards do not answer is said where they are asked.

    :raises ValueError: there is no exit code.
    """
    if lines and not any(re.fullmatch(r"exit \d{1,3}", line) for line in lines):
        raise ValueError(f"no exit code in {clean(' '.join(lines), 200)!r}")
    owners = dict(line.split(" ", 2)[1:] for line in lines if re.fullmatch(r"of \d+ \w+", line))
    names = dict(line.split(" ", 2)[1:] for line in lines if re.match(r"name \d+ ", line))
    found: dict[tuple[int, str], Holder] = {}
    for line in lines:
        match = re.fullmatch(r"([1-9][0-9]{0,9}), ([^,]*), ([^,]+)", line)
        if match is None or owners.get(match[1]) == "gone":
            continue
        pid, used, gpu = match.groups()
        found[int(pid), gpu] = Holder(
            int(pid),
            int(used) if re.fullmatch(r"[0-9]{1,9}", used) else None,
            clean(gpu, 100),
            clean(names.get(pid, ""), 60) or "a program",
            ours=owners.get(pid) == "ours",
        )
    return tuple(found.values())
