"""The Docker daemon of a host, its configuration and its images."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from shlex import quote

from vllm_hosts.facts.base import HostFact, ending, sections
from vllm_hosts.facts.compose import start_seconds
from vllm_hosts.host import daemon_json, systemctl
from vllm_hosts.host.containers import INSPECT, read
from vllm_hosts.host.docker_unit import DockerOptions
from vllm_hosts.host.paths import RAN, STAMPS, STARTS
from vllm_hosts.text import clean

DAEMON_JSON = daemon_json.PATH


@dataclass(frozen=True)
class Daemon:
    """``config`` is daemon.json's text, None where there is none.

    ``stale`` names what changed after the daemon started, or is left to do when it starts again:
    such a daemon has to be restarted.
    """

    running: bool
    enabled: bool
    config: bytes | None
    stale: tuple[str, ...]


class DockerDaemon(HostFact[Daemon]):
    """Its daemon.json, and whether the running daemon is older than what it should read."""

    what = "the Docker daemon"
    steady = True

    def command(self, read_at_start: list[str]) -> str:
        return ending(
            f"""
            echo '== active'; pid=
            for word in $({systemctl.NOW} docker.service 2>/dev/null); do
                case $word in
                ActiveState=*) echo "${{word#*=}}" ;;
                MainPID=*) pid=${{word#*=}} ;;
                *) echo "$word" ;;
                esac
            done
            echo '== enabled'; {systemctl.IS_ENABLED} docker.service 2>/dev/null
            echo '== config'; [ ! -e {DAEMON_JSON} ] || {{ echo present; base64 {DAEMON_JSON}; }}
            echo '== stale'
            if [ -n "$pid" ] && [ "$pid" != 0 ] && [ -d "/proc/$pid" ]; then
                began=$(stat -c %Y "/proc/$pid")
                for path in {" ".join(read_at_start)}; do
                    [ -e "$path" ] || continue
                    [ "$(stat -c %Z "$path")" -le "$began" ] || echo "$path"
                done
            fi
            [ ! -e {RAN} ] || echo {RAN}
            """
        )

    def parse(self, lines: list[str]) -> Daemon:
        parts = sections(lines)
        config = parts["config"]
        return Daemon(
            running=systemctl.active(parts["active"]).runs,
            enabled=systemctl.enabled(parts["enabled"]),
            config=_decoded(config[1:]) if config else None,
            stale=tuple(parts["stale"]),
        )


@dataclass(frozen=True)
class Served:
    """Containers that are ``well``, by name. ``answers``: Docker does; ``live_restore``: containers
    outlive a restart of the daemon that runs now; ``starts``: seconds that agents took to start."""

    answers: bool
    live_restore: bool
    well: tuple[str, ...]
    starts: dict[str, int]


class AgentsServed(HostFact[Served]):
    """Who would be out if Docker were restarted. A host without Docker has nobody."""

    what = "the agents' containers"

    def command(self) -> str:
        return ending(
            f"""
            echo '== live'; docker info --format '{{{{.LiveRestoreEnabled}}}}' 2>/dev/null
            echo '== containers'
            docker ps -q --no-trunc 2>/dev/null |
                xargs -r docker inspect --format {quote(INSPECT)} 2>/dev/null
            echo '== starts'
            find {STARTS} -maxdepth 1 -type f -exec grep -H '' {{}} + 2>/dev/null
            """
        )

    def parse(self, lines: list[str]) -> Served:
        parts = sections(lines)
        said = [line for line in parts["live"] if line in ("true", "false")]
        if parts["live"] and not said:
            # A daemon that says something answers, and may have containers.
            raise ValueError(f"docker info says {' '.join(parts['live'])[:200]!r}")
        return Served(
            answers=bool(said),
            live_restore=said == ["true"],
            well=tuple(one.name for one in read(parts["containers"]) if one.well),
            starts=dict(start_seconds(line) for line in parts["starts"]),
        )


def _decoded(lines: list[str]) -> bytes:
    return base64.b64decode("".join(lines), validate=True)


class ImageId(HostFact[str]):
    """The id of an image that the host has; empty where it does not."""

    what = "the container images"
    steady = True

    def command(self, image: str) -> str:
        return ending(
            f"echo '== id'; docker image inspect --format '{{{{.Id}}}}' {quote(image)} 2>/dev/null"
        )

    def parse(self, lines: list[str]) -> str:
        return _identifier(sections(lines)["id"])


def _identifier(lines: list[str]) -> str:
    found = "".join(lines)
    if found and not re.fullmatch(r"sha256:[0-9a-f]{64}", found):
        raise ValueError(found[:200])
    return found


#: The image that was checked last for its vLLM, and its answer.
IMAGE_VERSION = f"{STAMPS}/image-version"


@dataclass(frozen=True)
class ImageFound:
    """``id`` is empty where the host does not have the image; ``version`` is what it said of its
    vLLM, None where it was not asked."""

    id: str
    version: str | None


class ImageVersion(HostFact[ImageFound]):
    """Whether the host has an image, and which vLLM that has, if it was checked since it came.

    A deploy asks this of its image wherever it has to know of it: Docker answers once for all.
    """

    what = "the container images"
    steady = True

    def command(self, image: str) -> str:
        return ending(
            f"""
            echo '== id'; docker image inspect --format '{{{{.Id}}}}' {quote(image)} 2>/dev/null
            echo '== note'; cat {IMAGE_VERSION} 2>/dev/null
            """
        )

    def parse(self, lines: list[str]) -> ImageFound:
        parts = sections(lines)
        found = _identifier(parts["id"])
        asked, _, version = "".join(parts["note"]).partition(" ")
        return ImageFound(found, clean(version, 100) if found and asked == found else None)


#: Drop-ins in an earlier folder hide those of the same name in a later one; systemd reads what is
#: left by name. Only lines with options of dockerd are shown: others may have a proxy's password.
_UNIT = r"""
lines() {{ sed -e ':a' -e '/\\$/{{N;s/\\\n/ /;ta' -e '}}' "$1" |
    sed -nE -e 's/^[[:space:]]*//' \
        -e '/^(ExecStart|EnvironmentFile)[[:space:]]*=|^Environment[[:space:]]*=.*--/s/^/| /p'; }}
echo '== log driver'
[ ! -f /etc/docker/daemon.json ] ||
    sed -n '/.*"log-driver" *: *"\([^"]*\)".*/{{s//\1/p;q;}}' /etc/docker/daemon.json 2>/dev/null
set --
for folder in {folders}; do
    [ ! -f "$folder/docker.service" ] || {{ set -- "$folder/docker.service"; break; }}
done
names=
for folder in {folders}; do
    [ ! -d "$folder/docker.service.d" ] || names=some
done
[ -z "$names" ] || names=$(
    for folder in {folders}; do ls "$folder/docker.service.d" 2>/dev/null; done |
    grep '[.]conf$' | LC_ALL=C sort -u)
for name in $names; do
    for folder in {folders}; do
        [ ! -e "$folder/docker.service.d/$name" ] ||
            {{ set -- "$@" "$folder/docker.service.d/$name"; break; }}
    done
done
said=$(for file in "$@"; do
    [ ! -f "$file" ] || {{ echo "== unit $file"; lines "$file"; }}
done)
[ -z "$said" ] || printf '%s\n' "$said"
printf '%s\n' "$said" | sed -n 's/^| EnvironmentFile[[:space:]]*=[[:space:]]*-*//p' |
    while read -r file; do
        [ -f "$file" ] || continue
        echo "== environment $file"; grep -e '^[A-Za-z_].*--' "$file" | sed 's/^/| /'
    done
"""
_FOLDERS = (
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
)


class DockerUnit(HostFact[DockerOptions]):
    """Options that docker.service and its drop-ins give the daemon. Whether the host is in a swarm
    is known from ``DockerState``, which asks the daemon anyway."""

    what = "docker.service"
    steady = True

    def command(self, folders: tuple[str, ...] = _FOLDERS) -> str:
        return ending(_UNIT.format(folders=" ".join(folders)))

    def parse(self, lines: list[str]) -> DockerOptions:
        parts = sections(lines)

        def of(kind: str) -> list[tuple[str, list[str]]]:
            return [
                (heading.removeprefix(kind), [line.removeprefix("| ") for line in content])
                for heading, content in parts.items()
                if heading.startswith(kind)
            ]

        return DockerOptions(of("unit "), of("environment "), "".join(parts["log driver"]))
