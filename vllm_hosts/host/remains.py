"""What is on a host that `remove.py` has to know of. Touches no host."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from vllm_hosts.host.manifest import Manifest
from vllm_hosts.host.packages import Package


@dataclass(frozen=True)
class Inhabitant:
    """A container: ``ours`` is an agent of the toolkit's."""

    id: str
    name: str
    ours: bool
    running: bool


@dataclass(frozen=True)
class DockerHolds:
    """What is in Docker. ``networks`` are ours, ``others_networks`` are not Docker's own either;
    ``images`` are identifiers, and ``ours`` those of them that agents have used."""

    installed: bool = False
    answers: bool = False
    containers: tuple[Inhabitant, ...] = ()
    networks: tuple[str, ...] = ()
    others_networks: tuple[str, ...] = ()
    images: frozenset[str] = frozenset()
    ours: frozenset[str] = frozenset()
    volumes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Inside:
    """What lies in a folder of ours that is not only ours. ``like_an_agent_s``: it is a folder as
    deploys make them for agents."""

    path: str
    like_an_agent_s: bool = False


@dataclass(frozen=True)
class Remains:
    """All of that. ``sites``: files in nginx's folder that neither the edge nor a package has put
    there; ``own_rules``: whether nftables.service loads rules of somebody's; ``own_haproxy``:
    whether the distribution's haproxy.service runs, or is to at boot, which no deploy makes it;
    ``own_keepalived``: the same, or there is a configuration for it; ``inside``: what lies in the
    folders of settings, and in the one of agents' folders."""

    manifest: Manifest = field(default_factory=Manifest)
    packages: Mapping[str, Package] = field(default_factory=dict)
    held: frozenset[str] = frozenset()
    docker: DockerHolds = field(default_factory=DockerHolds)
    sites: tuple[str, ...] = ()
    own_rules: bool = False
    own_haproxy: bool = False
    own_keepalived: bool = False
    inside: tuple[Inside, ...] = ()


@dataclass(frozen=True)
class Version:
    """A file as it is now, as it was before us, and as the last deploy left it; None: not there."""

    now: bytes | None = None
    before: bytes | None = None
    deployed: bytes | None = None
