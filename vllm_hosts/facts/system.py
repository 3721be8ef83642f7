"""What kind of machine a host is: everything that preflight judges, in one look."""

from __future__ import annotations

from dataclasses import dataclass
from shlex import quote

from vllm_hosts.facts.base import HostFact, ending, sections
from vllm_hosts.nvidia_smi import QUERY, Gpu, parse


@dataclass(frozen=True)
class Listener:
    """A listening TCP socket: address as ``ss`` prints it, port, and the programs that hold it."""

    address: str
    port: int
    programs: str


@dataclass(frozen=True)
class System:
    """A host as preflight sees it.

    ``free`` is in bytes, by the folder that was asked about; ``present`` are those that exist.
    ``gpu_message`` is what ``nvidia-smi`` said where it failed.
    """

    user: str
    init: str
    free: dict[str, int]
    present: frozenset[str]
    has_image: bool
    listeners: tuple[Listener, ...]
    container_ports: dict[int, str]
    gpus: tuple[Gpu, ...]
    gpu_message: str | None


class SystemState(HostFact[System]):
    """Login, init, disk, listeners, published ports and GPUs."""

    what = "the system, as root (check ssh_user, _sudo and the sudo password),"

    def command(self, folders: list[str], image: str) -> str:
        return ending(
            f"""
            echo '== user'; id -u
            echo '== init'; cat /proc/1/comm
            echo '== image'; docker image inspect --format present {quote(image)} 2>/dev/null
            for folder in {" ".join(folders)}; do
                at=$folder; while [ ! -d "$at" ]; do at=$(dirname "$at"); done
                echo "== free $folder"; [ "$at" != "$folder" ] || echo present
                df --output=avail -B1 "$at" | tail -n 1
            done
            echo '== listeners'; ss -Hltnp
            echo '== containers'
            if command -v docker >/dev/null; then
                docker ps -a --format '{{{{.Names}}}} {{{{.Ports}}}}' 2>/dev/null
            fi
            echo '== gpus'
            {QUERY}
            """
        )

    def parse(self, lines: list[str]) -> System:
        parts = sections(lines)
        smi = parse(parts["gpus"])
        return System(
            user=parts["user"][0],
            init=parts["init"][0],
            free={
                heading.removeprefix("free "): int(content[-1])
                for heading, content in parts.items()
                if heading.startswith("free ")
            },
            present=frozenset(
                heading.removeprefix("free ")
                for heading, content in parts.items()
                if heading.startswith("free ") and content[0] == "present"
            ),
            has_image=parts["image"] == ["present"],
            listeners=tuple(_listener(line) for line in parts["listeners"]),
            container_ports=_container_ports(parts["containers"]),
            gpus=smi.gpus,
            gpu_message=smi.message,
        )


def _listener(line: str) -> Listener:
    fields = line.split(None, 5)
    address, _, port = fields[3].rpartition(":")
    return Listener(address, int(port), fields[5] if len(fields) > 5 else "")


def _container_ports(lines: list[str]) -> dict[int, str]:
    """Published port -> container name, from ``docker ps``' column of ports."""
    ports: dict[int, str] = {}
    for line in lines:
        name, _, published = line.partition(" ")
        for item in published.split(", "):
            outside, arrow, _ = item.partition("->")
            if arrow:
                ports[int(outside.rpartition(":")[2].partition("-")[0])] = name
    return ports
