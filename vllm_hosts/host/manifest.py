"""What a host had before its first deploy, and what deploys brought since: remove.py goes by both.

Files are not here: the record of what was deployed has them. Touches no host.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from shlex import quote

from vllm_hosts.errors import HostError
from vllm_hosts.host import daemon_json, dpkg, paths
from vllm_hosts.host.files import PART, is_plain
from vllm_hosts.host.nginx import MAIN_CONF
from vllm_hosts.text import clean

#: Of these the host's own version is kept: a deploy changes them, replaces them or takes them away.
COPIED = (
    "/etc/apt/sources.list",
    "/etc/apt/sources.list.d",
    "/etc/apt/keyrings",
    daemon_json.PATH,
    MAIN_CONF,
    paths.NGINX_WELCOME,
    paths.PERSISTENCE_UNIT,
)
#: Where Docker keeps what it has, beside what its packages bring.
DOCKER_FOLDERS = (
    "/var/lib/docker",
    "/var/lib/containerd",
    "/var/lib/docker-engine",
    "/etc/docker",
    "/etc/containerd",
    "/opt/containerd",
    "/etc/cni/net.d",
    "/etc/cni",
)
#: nginx's package makes it, and leaves it behind.
WELCOME_PAGE = "/var/www/html/index.nginx-debian.html"
#: The same of the container toolkit's.
TOOLKIT_FOLDER = "/etc/nvidia-container-runtime"
#: Of these it is known whether they were there.
WATCHED = (
    *DOCKER_FOLDERS,
    *COPIED,
    TOOLKIT_FOLDER,
    *("/usr/bin/dockerd", "/var/www", "/var/www/html", WELCOME_PAGE),
)
UNITS = ("docker.service", "nginx.service", "nvidia-persistenced.service")
LISTS = ("packages", "held", "enabled", "active", "images", "paths", "groups")
_PACKAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]*(:[a-z0-9-]+)?")
_APT = r"/etc/apt/(?:sources\.list\.d|keyrings)"
#: Kinds of lines of the manifest, each with what deploys write after it. remove.py takes whole
#: folders by these: a line that lost its end must not name the folder above.
_KINDS = {
    "package": _PACKAGE,
    "hold": _PACKAGE,
    "source": re.compile(f"{_APT}{PART}"),
    # Somebody's file has any name.
    "gave-way": re.compile(
        rf"(?:-|[0-9a-f]{{64}}) (?:/etc/apt/sources\.list|{_APT}/(?!\.{{1,2}}$)[^/\x00-\x1f\x7f]+)"
    ),
    "model": re.compile(f"({PART})+"),
    "file": re.compile(f"{PART}({PART})+"),
    "agent": re.compile(f"({PART})+/agents{PART}"),
}


@dataclass(frozen=True)
class Before:
    """Names of what there was: packages, those held, units enabled and active, images by their
    identifier, paths out of ``WATCHED``, groups."""

    packages: frozenset[str] = frozenset()
    held: frozenset[str] = frozenset()
    enabled: frozenset[str] = frozenset()
    active: frozenset[str] = frozenset()
    images: frozenset[str] = frozenset()
    paths: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Manifest:
    """What deploys brought.

    :param before: None where the first deploy was one of a version that did not write it down.
    :param files: paths of files that deploys wrote, by the record of what was deployed.
    :param sources: apt's source files and keys of ours.
    :param gave_way: by path of somebody's source file that was in the way of ours, the digest of
        what we made of it; empty: we took it away.
    :param models: folders with models that deploys copied.
    :param taken: paths of files in folders that are not only ours, noted before they were written.
    :param agents: the same of agents' folders. Both are empty where no version noted them.
    """

    before: Before | None = None
    files: tuple[str, ...] = ()
    packages: frozenset[str] = frozenset()
    held: frozenset[str] = frozenset()
    sources: tuple[str, ...] = ()
    gave_way: Mapping[str, str] = field(default_factory=dict)
    models: tuple[str, ...] = ()
    taken: tuple[str, ...] = ()
    agents: tuple[str, ...] = ()


def before_of(lists: Mapping[str, Sequence[str]]) -> Before:
    """From the lists that ``before_taken`` writes.

    :raises KeyError: one is missing.
    """
    return Before(**{name: frozenset(lists[name]) for name in LISTS})


def is_ours(kind: str, rest: str) -> bool:
    """Whether deploys write such a line."""
    return kind in _KINDS and _KINDS[kind].fullmatch(rest) is not None


def manifest_of(
    lines: Iterable[str], files: Iterable[str], before: Before | None = None
) -> Manifest:
    """From the manifest's lines.

    :raises ValueError: one is none that we write.
    """
    by_kind: dict[str, list[str]] = {kind: [] for kind in _KINDS}
    for line in lines:
        kind, _, rest = line.partition(" ")
        if not is_ours(kind, rest):
            raise ValueError(line[:200])
        by_kind[kind].append(rest)
    gave_way = [rest.split(" ", 1) for rest in by_kind["gave-way"]]
    return Manifest(
        before=before,
        files=tuple(sorted(files)),
        packages=frozenset(by_kind["package"]),
        held=frozenset(by_kind["hold"]),
        sources=tuple(by_kind["source"]),
        gave_way={path: digest.removeprefix("-") for digest, path in gave_way},
        models=tuple(by_kind["model"]),
        taken=tuple(by_kind["file"]),
        agents=tuple(by_kind["agent"]),
    )


def recorded_files(lines: Iterable[str]) -> list[str]:
    """Paths out of the record of what was deployed.

    :raises ValueError: one is none that we write.
    """
    found = []
    for line in lines:
        if not is_plain(line):
            raise ValueError(line.removeprefix("? ")[:200])
        found.append(line)
    return found


def recorded() -> str:
    """Shell: the paths in the record of what was deployed; a line that is none of ours after a
    question mark. A digest of nothing is one of no file."""
    return (
        f"[ ! -e {paths.DEPLOYED} ] || sed -n -e 's/^[0-9a-f]\\{{64\\}}  //p' -e t"
        f" -e '/^-  \\//d' -e 's/^/? /p' {paths.DEPLOYED} | sort -u"
    )


def unended(*notes: str) -> str:
    """Shell: of each of these files, what follows its last line end."""
    return f"""for notes in {" ".join(notes)}; do
                [ ! -s $notes ] || [ "$(tail -c 1 $notes | wc -l)" = 1 ] ||
                    echo "$notes $(tail -n 1 $notes | head -c 200)"
            done"""


def whole(lines: Iterable[str]) -> None:
    """From what ``unended`` prints.

    :raises HostError: a file was cut off, and what it has last may name something else.
    """
    for line in lines:
        path, _, end = line.partition(" ")
        raise damaged(path, end, "ends in the middle of a line")


def damaged(path: str, line: str, how: str = "has a line that no deploy writes there") -> HostError:
    """Why a host is left alone of which it cannot be told what deploys brought."""
    return HostError(
        f"{path} on the host {how}: {clean(line, 200)!r}; restore that file, or correct that line,"
        " and run again"
    )


def bringing() -> str:
    """Shell: the function that notes lines, before the first change that they are about, so that a
    run that is cut off leaves nothing unnoted. What is in the manifest and not on the host is
    nothing to remove."""
    return f"""
    brought() {{ # LINE...: of ours from now on
        (umask 022; mkdir -p {paths.MANIFEST.rpartition("/")[0]})
        {{ cat {paths.MANIFEST} 2>/dev/null || :; printf '%s\\n' "$@"; }} |
            LC_ALL=C sort -u >{paths.MANIFEST}.new && sync {paths.MANIFEST}.new &&
            mv -fT {paths.MANIFEST}.new {paths.MANIFEST}
    }}
""".strip()


def brought(kind: str, names: Iterable[str]) -> str:
    """Shell: note that these are of ours. Nothing for no names."""
    lines = " ".join(quote(f"{kind} {name}") for name in names)
    return f"{bringing()}\nbrought {lines}" if lines else ":"


def before_taken(further: Iterable[str]) -> str:
    """The shell script that writes down what a host has, before a deploy changes anything.

    All of it or nothing: a host without it counts as one of which nobody knows what it had.

    :param further: more paths to watch.
    """
    folder = paths.BEFORE
    watched = " ".join(dict.fromkeys([*WATCHED, *further]))
    units = " ".join(UNITS)
    return f"""
        set -eu; umask 077; export LC_ALL=C
        (umask 022; mkdir -p {folder.rpartition("/")[0]})
        # Agents that somebody else had here are no way back for ours.
        rm -rf {folder} {folder}.new {paths.WAY_BACK}; mkdir {folder}.new
        cd {folder}.new; mkdir files
        {dpkg.query()} | sed -n 's/^.i.|\\([^|]*\\)|.*/\\1/p' | sort -u >packages
        apt-mark showhold | sort -u >held
        : >enabled; : >active
        for unit in {units}; do
            ! systemctl --quiet is-enabled $unit 2>/dev/null || echo $unit >>enabled
            ! systemctl --quiet is-active $unit 2>/dev/null || echo $unit >>active
        done
        : >images
        ! docker info >/dev/null 2>&1 || docker image ls --no-trunc --quiet | sort -u >images
        : >paths
        for path in {watched}; do
            [ ! -e $path ] && [ ! -L $path ] || echo $path >>paths
        done
        cut -d : -f 1 /etc/group | sort -u >groups
        set --
        for path in {" ".join(COPIED)}; do
            [ ! -e $path ] && [ ! -L $path ] || set -- "$@" "${{path#/}}"
        done
        if [ $# -gt 0 ]; then
            tar -c -f copies.tar -C / "$@"; tar -x -p -f copies.tar -C files; rm copies.tar
        fi
        sync -f .
        mv -T {folder}.new {folder}
    """
