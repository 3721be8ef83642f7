"""What a host had before us, what deploys brought, and what is there now, for `remove.py`."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from shlex import quote

from vllm_hosts.facts.base import HostFact, ending, sections
from vllm_hosts.facts.vllm_images import recorded
from vllm_hosts.host.files import is_plain
from vllm_hosts.host.manifest import (
    LISTS,
    Manifest,
    before_of,
    damaged,
    manifest_of,
    recorded_files,
    unended,
    whole,
)
from vllm_hosts.host.manifest import recorded as recorded_paths
from vllm_hosts.host.nginx import LIMITS_CONF
from vllm_hosts.host.packages import Package, alternatives
from vllm_hosts.host.paths import (
    BEFORE,
    COPIES,
    DEPLOYED,
    EDGE_CONF,
    EDGE_FOLDER,
    EDGE_LUA,
    IMAGES_RECORD,
    MANIFEST,
    NGINX_WELCOME,
    STORE_MARK,
)
from vllm_hosts.host.remains import DockerHolds, Inhabitant, Inside, Remains, Version
from vllm_hosts.text import clean

_CONTAINER = (
    '{{.ID}}|{{.Name}}|{{index .Config.Labels "com.docker.compose.project"}}'
    '|{{index .Config.Labels "com.docker.compose.project.working_dir"}}|{{.State.Running}}'
)
_NETWORK = (
    '{{.Name}}|{{index .Labels "com.docker.compose.project"}}'
    '|{{index .Options "com.docker.network.bridge.name"}}'
)
_DOCKERS_OWN = frozenset({"bridge", "host", "none"})
#: Kind, mode, owner and path.
_INSIDE = re.compile(r"(.) ([0-7]+) ([0-9]+) (/.+)")


class HostRemains(HostFact[Remains]):
    """Everything on which a removal depends, in one look: each of its steps changes all of it."""

    what = "what deploys have left on the host"

    def command(
        self, directory: str, project: str, fetching: str, bridges: str, folders: Sequence[str] = ()
    ) -> str:
        """
        :param directory: with compose.yaml; ``project`` is its Compose project.
        :param folders: of ours in which others may have something.
        :param fetching: the name of the container that fetches models.
        :param bridges: how the names of our bridges begin.
        """
        return ending(
            f"""
            echo '== asked'; echo {quote(f"{directory}|{project}|{fetching}|{bridges}")}
            echo '== manifest'; cat {MANIFEST} 2>/dev/null
            echo '== files'; {recorded_paths()}
            echo '== unended'
            {unended(DEPLOYED, MANIFEST)}
            if [ -d {BEFORE} ]; then
                for list in {" ".join(LISTS)}; do
                    # Where the host's mark is gone, an earlier removal was at its very end.
                    [ -e {BEFORE}/$list ] || [ -e {STORE_MARK} ] || continue
                    echo "== before $list"; cat {BEFORE}/$list || exit 1
                done
            fi
            echo '== installed'
            dpkg-query -W -f '${{db:Status-Abbrev}}|${{Package}}|${{Pre-Depends}},${{Depends}}'\\
'|${{Recommends}}|${{Provides}}\\n'
            echo '== automatic'; apt-mark showauto
            echo '== held'; apt-mark showhold
            echo '== sites'
            theirs=/etc/nginx/sites-available/default welcome=
            known=$(dpkg-query -W -f '${{Conffiles}}\n' nginx-common 2>/dev/null |
                awk -v file=$theirs '$1 == file {{ print $2 }}')
            [ -z "$known" ] || ! echo "$known  $theirs" | md5sum --check --status 2>/dev/null ||
                welcome={NGINX_WELCOME}  # as the distribution has it
            find /etc/nginx/conf.d /etc/nginx/sites-enabled -mindepth 1 \\
                ! -path {EDGE_CONF} ! -path "${{welcome:--}}" 2>/dev/null
            # Where nginx's packages go, all of this folder goes with them.
            [ -z "$known" ] || [ -n "$welcome" ] || [ ! -e $theirs ] || echo $theirs
            owned=$(dpkg-query -S '/etc/nginx/*' 2>/dev/null | sed 's/^[^/]*: //')
            find /etc/nginx -mindepth 1 ! -type d ! -path {LIMITS_CONF} ! -name '*.dpkg-*' \\
                ! -path '/etc/nginx/conf.d/*' ! -path '/etc/nginx/sites-enabled/*' \\
                ! -path '{EDGE_FOLDER}/*' ! -path '{EDGE_LUA}/*' \\
                ! '(' -type l -path '/etc/nginx/modules-enabled/*' ')' 2>/dev/null |
                grep -vxF "$owned"
            echo '== rules'
            ! systemctl --quiet is-enabled nftables.service 2>/dev/null || echo enabled
            ! systemctl --quiet is-active nftables.service 2>/dev/null || echo active
            echo '== haproxy'
            ! systemctl --quiet is-enabled haproxy.service 2>/dev/null || echo enabled
            ! systemctl --quiet is-active haproxy.service 2>/dev/null || echo active
            echo '== keepalived'
            [ ! -s /etc/keepalived/keepalived.conf ] || echo configured
            ! systemctl --quiet is-enabled keepalived.service 2>/dev/null || echo enabled
            ! systemctl --quiet is-active keepalived.service 2>/dev/null || echo active
            echo '== docker'
            ! command -v docker >/dev/null || echo installed
            echo '== images used'; cat {IMAGES_RECORD} 2>/dev/null
            echo '== inside'
            for folder in {" ".join(map(quote, folders))}; do
                [ -d "$folder" ] && [ ! -L "$folder" ] || continue
                # A name may have line ends.
                find "$folder" -mindepth 1 -maxdepth 1 -printf '%y %m %U %p\\0' |
                    tr '\\n\\0' '?\\n'
            done
            if docker info >/dev/null 2>&1; then
                echo '== containers'
                docker ps -aq --no-trunc | xargs -r docker inspect --format {quote(_CONTAINER)}
                echo '== networks'
                docker network ls -q | xargs -r docker network inspect --format {quote(_NETWORK)}
                echo '== images'; docker image ls --no-trunc --quiet | sort -u
                echo '== volumes'; docker volume ls -q
                echo '== answers'
            fi
            """
        )

    def parse(self, lines: list[str]) -> Remains:
        parts = sections(lines)
        return Remains(
            manifest=_manifest(parts),
            packages=_packages(parts),
            held=frozenset(parts["held"]),
            docker=_docker(parts),
            sites=tuple(clean(line) for line in parts["sites"]),
            own_rules=bool(parts["rules"]),
            own_haproxy=bool(parts["haproxy"]),
            own_keepalived=bool(parts["keepalived"]),
            inside=tuple(_inside(line) for line in parts["inside"]),
        )


def _manifest(parts: Mapping[str, Sequence[str]]) -> Manifest:
    lists = {name: parts[f"before {name}"] for name in LISTS if f"before {name}" in parts}
    before = before_of(lists) if len(lists) == len(LISTS) else None
    whole(parts["unended"])
    try:
        files = recorded_files(parts["files"])
    except ValueError as error:
        raise damaged(DEPLOYED, str(error)) from error
    try:
        return manifest_of(parts["manifest"], files, before)
    except ValueError as error:
        raise damaged(MANIFEST, str(error)) from error


def _inside(line: str) -> Inside:
    if (found := _INSIDE.fullmatch(line)) is None:
        raise ValueError(line[:200])
    kind, mode, owner, path = found.groups()
    like = (kind, mode, owner != "0") == ("d", "700", True) and is_plain(path)
    return Inside(path, like)


def _packages(parts: Mapping[str, Sequence[str]]) -> dict[str, Package]:
    automatic = {name.partition(":")[0] for name in parts["automatic"]}
    found = {}
    for line in parts["installed"]:
        # Between alternatives, bars stand between blanks.
        status, name, *relations = line.replace(" | ", "\0").split("|")
        needs, likes, provides = (alternatives(one.replace("\0", "|")) for one in relations)
        if status[1] == "i":
            found[name] = Package(
                automatic=name in automatic,
                needs=needs,
                likes=likes,
                provides=frozenset(one for group in provides for one in group),
            )
    return found


def _docker(parts: Mapping[str, Sequence[str]]) -> DockerHolds:
    [asked] = parts["asked"]
    directory, project, fetching, bridges = asked.split("|")
    containers = []
    for line in parts.get("containers", ()):
        identifier, name, of, where, running = line.split("|")
        name = clean(name.removeprefix("/"))
        ours = (of, where) == (project, directory) or name == fetching
        containers.append(Inhabitant(_hexadecimal(identifier), name, ours, running == "true"))
    networks, others = [], []
    for line in parts.get("networks", ()):
        name, of, bridge = line.split("|")
        if bridge.startswith(bridges) and (of == project or name == bridge):
            networks.append(name)
        elif name not in _DOCKERS_OWN:
            others.append(clean(name))
    return DockerHolds(
        installed="installed" in parts["docker"],
        answers="answers" in parts,
        containers=tuple(containers),
        networks=tuple(networks),
        others_networks=tuple(others),
        images=frozenset(parts.get("images", ())),
        ours=frozenset(one.id for one in recorded(list(parts["images used"]))),
        volumes=tuple(clean(name) for name in parts.get("volumes", ())),
    )


def _hexadecimal(text: str) -> str:
    """It becomes a word of a command."""
    if not set(text) <= set("0123456789abcdef"):
        raise ValueError(text[:100])
    return text


class Versions(HostFact[dict[str, Version]]):
    """Three versions of files that are only partly ours."""

    what = "files that are only partly ours"

    def command(self, paths: Sequence[str]) -> str:
        script = []
        for path in paths:
            files = {"now": path, "before": f"{BEFORE}/files{path}", "deployed": f"{COPIES}{path}"}
            for kind, file in files.items():
                script += [
                    f"echo {quote(f'== {kind} {path}')}",
                    f"[ ! -f {quote(file)} ] || {{ echo there; base64 {quote(file)}; }}",
                ]
        return ending("\n".join(script))

    def parse(self, lines: list[str]) -> dict[str, Version]:
        texts: dict[str, dict[str, bytes | None]] = {}
        for name, read in sections(lines).items():
            kind, path = name.split(" ", 1)
            content = base64.b64decode("".join(read[1:]), validate=True) if read else None
            texts.setdefault(path, {})[kind] = content
        return {
            path: Version(found["now"], found["before"], found["deployed"])
            for path, found in texts.items()
        }
