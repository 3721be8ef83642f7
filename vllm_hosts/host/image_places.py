"""Where images are stored on a host: in Docker's data-root, or in containerd's."""

from __future__ import annotations

from dataclasses import dataclass

from vllm_hosts.host.docker_there import DockerThere, version_in

#: New installations keep images in containerd from this version on (moby's notes for 29.0).
_CONTAINERD_SINCE = 29

#: Asks the daemon if it runs, and its files if it does not; prints the free bytes of each place.
#: The daemon is asked once for all: docker starts every plugin of its own for it. What it says of
#: Compose, its swarm, its context and its version is in variables then.
IMAGES = r"""
echo '== images'
root= feature= store=
if [ -f /etc/docker/daemon.json ]; then
    root=$(sed -n '/.*"data-root" *: *"\([^"]*\)".*/{s//\1/p;q;}' /etc/docker/daemon.json)
    feature=$(tr -d ' \t\n' </etc/docker/daemon.json |
        sed -n 's/.*"containerd-snapshotter":\(true\|false\).*/\1/p')
fi
root=${root:-/var/lib/docker}
[ ! -f /etc/containerd/config.toml ] ||
    store=$(sed -n '/^root *= *["'"'"']\([^"'"'"']*\)["'"'"'].*/{s//\1/p;q;}' \
        /etc/containerd/config.toml)
store=${store:-/var/lib/containerd}
says=$(timeout 20 docker info --format '{{.DockerRootDir}} {{json .DriverStatus}}'\
'|{{range .ClientInfo.Plugins}}{{if eq .Name "compose"}}{{if not .Err}}{{.Version}}'\
'{{end}}{{end}}{{end}}'\
'|{{.Swarm.LocalNodeState}}|{{.ClientInfo.Context}}|{{.ServerVersion}}' 2>/dev/null)
case $says in *'|'*'|'*'|'*'|'*) ;; *) says="$says||||" ;; esac
server=${says##*|}; says=${says%|*}
context=${says##*|}; says=${says%|*}
swarm=${says##*|}; says=${says%|*}
compose=${says##*|}; says=${says%|*}
case $says in /*)
    root=${says%% *}; kind=docker
    case $says in *io.containerd.snapshotter*) kind=containerd ;; esac
    # A containerd that Docker starts itself lies in Docker's own folder.
    [ -S /run/containerd/containerd.sock ] || store=$root/containerd/daemon
    echo "kind $kind" ;;
esac
echo "feature ${feature:--}"
for one in "root $root" "store $store"; do
    at=${one#* }; while [ ! -d "$at" ]; do at=$(dirname "$at"); done
    echo "$one"
    df --output=avail -B1 "$at" | { read -r head; read -r free; echo "free ${one%% *} $free"; }
done
""".strip()


@dataclass(frozen=True)
class ImagePlaces:
    """``kind``: ``docker`` or ``containerd``, from the running daemon; empty: none runs.

    ``feature``: whether daemon.json enables containerd's store; None: it does not say. ``root`` is
    Docker's folder and ``store`` containerd's, each with its free bytes.
    """

    kind: str
    feature: bool | None
    root: tuple[str, int]
    store: tuple[str, int]

    def goes_to(self, source: str, docker: DockerThere) -> tuple[str, int]:
        """The folder that an image will be pulled to, and the free bytes there.

        :param source: ``docker.source``, which says what will be installed.
        """
        if self.kind:
            return self.store if self.kind == "containerd" else self.root
        if self.feature is not None:
            return self.store if self.feature else self.root
        # Nothing runs yet: the installed version decides, or else the newest of Docker's own.
        version = version_in(docker.daemon)
        there = bool(docker.packages) and version is not None
        newest = version.major if there and version else _CONTAINERD_SINCE
        new = source == "docker-ce" and newest >= _CONTAINERD_SINCE
        return self.store if new else self.root


def image_places(lines: list[str]) -> ImagePlaces:
    """What ``IMAGES`` prints. :raises ValueError: it is not that."""
    said: dict[str, str] = {}
    free: dict[str, int] = {}
    for line in lines:
        kind, _, rest = line.partition(" ")
        if kind == "free":
            name, _, count = rest.partition(" ")
            free[name] = int(count)
        else:
            said[kind] = rest
    if missing := {"feature", "root", "store"} - set(said) | {"root", "store"} - set(free):
        raise ValueError(f"nothing is reported for {', '.join(sorted(missing))}")
    feature = {"true": True, "false": False}.get(said["feature"])
    return ImagePlaces(
        kind=said.get("kind", ""),
        feature=feature,
        root=(said["root"], free["root"]),
        store=(said["store"], free["store"]),
    )
