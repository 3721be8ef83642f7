"""What Docker says of itself on a host: its programs, its daemon, and where images go."""

from __future__ import annotations

from dataclasses import dataclass, field

from vllm_hosts.facts.base import HostFact, ending, sections
from vllm_hosts.host import dpkg
from vllm_hosts.host.docker_there import DockerThere
from vllm_hosts.host.image_places import IMAGES, ImagePlaces, image_places
from vllm_hosts.text import clean

_PACKAGES = (
    *("docker.io", "docker-ce"),
    *("docker-compose", "docker-compose-v2", "docker-compose-plugin"),
)
#: dockerd takes long to say its version. The daemon that runs has said it, if it is this program.
_DOCKERD = """
if dockerd=$(command -v dockerd); then
    echo "path $dockerd"; pid=
    { read -r pid </run/docker.pid; } 2>/dev/null
    if [ -n "$server" ] && [ "$context${DOCKER_HOST:-}" = default ] &&
        [ -n "$pid" ] && [ "/proc/$pid/exe" -ef "$dockerd" ]; then
        echo "daemon Docker version $server"
    else
        echo "daemon $(dockerd --version 2>/dev/null)"
    fi
fi
[ -z "$swarm" ] || echo "swarm $swarm"
""".strip()


@dataclass(frozen=True)
class DockerSays:
    """``compose``: which Compose v2 `docker compose` is; None: there is none. ``swarm``: whether
    the host is a node of a swarm."""

    there: DockerThere = field(default_factory=DockerThere)
    images: ImagePlaces | None = None
    swarm: bool = False
    compose: str | None = None


class DockerState(HostFact[DockerSays]):
    """All that is asked of docker's own program but containers and images, in one question: it
    starts each of its plugins for it, and knows Compose's version from that."""

    what = "Docker's versions and folders"
    steady = True

    def command(self) -> str:
        return ending(
            f"""
            {IMAGES}
            echo '== docker'
            {_DOCKERD}
            {dpkg.query(_PACKAGES, mark="package ")}
            echo '== compose'
            [ -n "$compose" ] || compose=$(docker compose version --short 2>/dev/null)
            printf '%s\\n' "$compose"
            """
        )

    def parse(self, lines: list[str]) -> DockerSays:
        parts = sections(lines)
        words = [line.partition(" ")[::2] for line in parts["docker"]]
        said = {kind: rest for kind, rest in words if kind != "package"}
        compose = "".join(parts["compose"])
        return DockerSays(
            there=DockerThere(
                packages=dpkg.installed(rest for kind, rest in words if kind == "package"),
                daemon=clean(said.get("daemon", ""), 200),
                # Without the daemon's program, what is left of Docker is nobody's.
                compose=clean(compose, 200) if "path" in said else "",
                path=clean(said.get("path", ""), 200),
            ),
            images=image_places(parts["images"]),
            swarm=said.get("swarm", "inactive") != "inactive",
            compose=compose.removeprefix("v") or None,
        )
