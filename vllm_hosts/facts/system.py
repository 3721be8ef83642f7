"""What kind of machine a host is: everything that preflight judges, in one query."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterable, Iterator, Sequence
from ipaddress import IPv4Network
from shlex import quote

from vllm_hosts.facts.base import HostFact, as_user, ending, sections
from vllm_hosts.host.containers import published
from vllm_hosts.host.nvidia_apps import APPS
from vllm_hosts.host.nvidia_apps import read as read_apps
from vllm_hosts.host.nvidia_smi import QUERY, parse
from vllm_hosts.host.sockets import LISTENING, OWNERS, read
from vllm_hosts.host.system import ModelFolder, NetworkRoute, System
from vllm_hosts.hub.weights import HEADER_SIZE, IS_POINTER, POINTER, judged, read_total
from vllm_hosts.text import clean

#: A label may have line ends, and JSON has none.
_CONTAINER = (
    '{{.Names}}|{{.Status}}|{{.Ports}}|{{json (.Label "com.docker.compose.project.working_dir")}}'
)
#: For each folder with a model its config.json, what the index says, and every file with weights:
#: its size, the length of its header, where that says that the last tensor ends, and its name. A
#: download of the hub's has a folder for each revision below it.
_MODELS = """
pointer() {{
    case $(head -c 40 "$1" | tr -d '\\0') in
    '{pointer}'*) echo "pointer ${{1##*/}}" ;;
    *) false ;;
    esac
}}
for folder in {folders}; do
    at=$folder
    if [ -d "$folder/snapshots" ]; then
        revision=$(cat "$folder/refs/main" 2>/dev/null || ls -1t "$folder/snapshots" | head -n 1)
        at=$folder/snapshots/$revision
    fi
    [ -f "$at/config.json" ] || continue
    echo "== model $folder"
    echo "config $(head -c 1000000 "$at/config.json" | base64 -w 0)"
    index=$at/model.safetensors.index.json
    names=
    if [ -f "$index" ]; then
        grep -ao '"total_size" *: *"\\{{0,1\\}}[0-9][0-9.eE+]*' "$index" | sed 's/.*[: "]/total /' |
            head -n 1
        names=$(grep -ao '"[A-Za-z0-9._@+-]*\\.safetensors"' "$index" | sort -u | tr -d '"')
        for name in $names; do [ -f "$at/$name" ] || echo "missing $name"; done | head -n 3
        pointer "$index"
    fi
    for file in "$at"/*.safetensors; do
        name=${{file##*/}}
        case $name in consolidated*) continue ;; esac
        [ -f "$file" ] || continue
        [ -z "$names" ] || echo "$names" | grep -qxF -e "$name" || continue
        pointer "$file" && continue
        header=$(od -An -t u8 -N 8 "$file") end=
        header=${{header##* }}
        if [ ${{#header}} -le 9 ] && [ "${{header:-0}}" -le {header_size} ]; then
            end=$(tail -c +9 "$file" | head -c "${{header:-0}}" |
                grep -ao '"data_offsets" *: *\\[ *[0-9]* *, *[0-9]*' |
                awk -F '[, ]' '$NF + 0 >= most + 0 {{ most = $NF }} END {{ if (NR) print most }}')
        fi
        echo "file $(stat -Lc %s "$file") ${{header:--}} ${{end:-0}} $name"
    done
done
:
"""


class SystemState(HostFact[System]):
    """Login, init, disk, listeners, published ports, GPUs and models."""

    what = "the system, as root (check ssh_user, _sudo and the sudo password),"
    steady = True

    def command(
        self, folders: list[str], image: str, reader: str, models: Iterable[str] = ()
    ) -> str:
        """:param reader: ``UID:GID`` that looks into the models."""
        return ending(
            f"""
            echo '== user'; id -u
            echo '== clock'; date +%s
            echo '== init'; IFS= read -r init </proc/1/comm; printf '%s\\n' "$init"
            echo '== image'; docker image inspect --format present {quote(image)} 2>/dev/null
            set --
            for folder in {" ".join(folders)}; do
                at=$folder; while [ ! -d "$at" ]; do at=$(dirname "$at"); done
                set -- "$@" "$at"
            done
            [ $# = 0 ] || df --output=avail,file -B1 "$@" | {{
                read -r free path; read -r free path  # the first line is a heading
                for folder in {" ".join(folders)}; do
                    echo "== free $folder"; [ "$1" != "$folder" ] || echo present
                    # df leaves out what it cannot see.
                    [ "$path" != "$1" ] || {{ echo "$free"; read -r free path; }}
                    shift
                done
            }}
            echo '== listeners'; {LISTENING}
            echo '== users'
            {OWNERS}
            echo '== containers'
            if command -v docker >/dev/null; then
                docker ps -a --format {quote(_CONTAINER)} 2>/dev/null
            fi
            echo '== routes'; ip -o -4 route show
            echo '== ipv6'; [ ! -e /proc/net/if_inet6 ] || echo present
            echo '== gpus'
            {QUERY}
            echo '== programs'
            {APPS}
            {as_user(reader, _models_script(models))}
            """
        )

    def parse(self, lines: list[str]) -> System:
        parts = sections(lines)
        smi = parse(parts["gpus"])
        containers = [(*line.split("|", 3), "", "", "")[:4] for line in parts["containers"]]
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
            listeners=tuple(
                one
                for one in read(parts["listeners"], parts.get("users", []))
                if one.protocol == "tcp"
            ),
            containers=frozenset(name for name, *_ in containers),
            container_ports={
                port: name for name, _, ports, _ in containers for port in published(ports)
            },
            project_ports=_project_ports(containers),
            routes=tuple(_routes(parts["routes"])),
            gpus=smi.gpus,
            gpu_failure=smi.failure,
            gpus_lost=smi.lost,
            gpu_notes=smi.notes,
            programs=read_apps(parts.get("programs", [])),
            clock=int(parts["clock"][0]) - time.time() if parts.get("clock") else 0.0,
            ipv6=parts.get("ipv6", ["present"]) == ["present"],
            models={
                heading.removeprefix("model "): _model(content)
                for heading, content in parts.items()
                if heading.startswith("model ")
            },
        )


def _routes(lines: list[str]) -> Iterator[NetworkRoute]:
    """From what ``ip -o -4 route show`` prints: ``[KIND] NETWORK ... dev NAME ...``."""
    for line in lines:
        words = line.split()
        target = words[1] if words[0].isalpha() and words[0] != "default" else words[0]
        if target != "default":
            interface = words[words.index("dev") + 1] if "dev" in words else words[0]
            yield NetworkRoute(IPv4Network(target), interface)


def _project_ports(containers: Iterable[Sequence[str]]) -> dict[str, frozenset[int]]:
    """What containers that run publish, by the folder of their project as JSON writes it."""
    ports: dict[str, frozenset[int]] = {}
    for _, status, shown, label in containers:
        # Docker has other words for what it does not list by itself.
        if status.startswith(("Up ", "Restarting ")):
            folder = label.removeprefix('"').removesuffix('"')
            ports[folder] = ports.get(folder, frozenset()) | published(shown)
    return ports


def _models_script(folders: Iterable[str]) -> str:
    return _MODELS.format(folders=" ".join(folders), pointer=POINTER[:30], header_size=HEADER_SIZE)


def _model(lines: list[str]) -> ModelFolder:
    """What ``_MODELS`` prints of one folder."""
    config, total, files, damage = b"", None, 0, list[str]()
    for line in lines:
        kind, _, rest = line.partition(" ")
        if kind == "config":
            config = base64.b64decode(rest)
        elif kind == "total":
            total = read_total(rest)
        elif kind == "pointer":
            damage.append(f"holds no weights: {clean(rest, 200)} {IS_POINTER}")
        elif kind == "missing":
            damage.append(
                f"does not hold all weights: its index names {clean(rest, 200)}, which does not"
                " exist; fetch the model again"
            )
        elif kind == "file":
            words = [*rest.split(None, 3), "", "", "", ""]
            size, header, end, name = words[:4]
            try:
                # Where no end was seen, nothing is cut short.
                files += judged(
                    int(size), None if header in ("-", "") else int(header), int(end or 0)
                )
            except ValueError as error:
                damage.append(f"holds no weights: {clean(name or 'a file', 200)} {error}")
    if damage:
        return ModelFolder(config, total, damage[0])
    return ModelFolder(config, total if total is not None else files or None)


class HostMemory(HostFact[int]):
    """Main memory of the host in bytes, as its kernel has it to give away."""

    what = "the host's memory"
    steady = True

    def command(self) -> str:
        return ending(
            "echo '== memory'; sed -n 's/^MemTotal: *\\([0-9]*\\) kB$/\\1/p' /proc/meminfo"
        )

    def parse(self, lines: list[str]) -> int:
        [kib] = sections(lines)["memory"]
        return int(kib) * 1024
