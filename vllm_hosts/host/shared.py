"""What deploys write into folders that do not carry our name, and whose it is. Touches no host.

Elsewhere a path of ours has `vllm-hosts` in it, or what was there before is kept (`COPIED` in
`host/manifest.py`). Here somebody else may have had a file of the same name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from vllm_hosts.host.manifest import brought
from vllm_hosts.host.mirror import client_files
from vllm_hosts.host.paths import DOCKER_CERTS, agents_folder, compose_overrides
from vllm_hosts.settings import HostSettings

_FOLDER = re.compile(r"(/[A-Za-z0-9._@:+-]+)+")


@dataclass(frozen=True)
class Shared:
    """Paths that a deploy with these settings writes, or takes away: files, and the folders of
    agents, which are all in one."""

    files: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    above: str = ""

    @property
    def paths(self) -> tuple[str, ...]:
        """All of them."""
        return (*self.files, *self.folders)


@dataclass(frozen=True)
class SharedFound:
    """What a host says of them.

    :param there: those at which there is something.
    :param files: what deploys noted as theirs before they wrote it, and ``folders``.
    :param recorded: whether there is a record of what was deployed.
    :param like_ours: folders beside those of agents that look as deploys make them.
    """

    there: frozenset[str] = frozenset()
    files: frozenset[str] = frozenset()
    folders: frozenset[str] = frozenset()
    recorded: bool = False
    like_ours: tuple[str, ...] = ()

    def earlier(self, ours: bool) -> bool:
        """Whether a version deployed to the host that noted none of this: it took everything there
        for its own.

        :param ours: whether the host's mark or its keys say that it was deployed to.
        """
        return (ours or self.recorded) and not (self.files or self.folders)

    def others(self, shared: Shared, *, ours: bool) -> list[str]:
        """Paths with something that no deploy put there."""
        if self.earlier(ours):
            return []
        return [
            path
            for path in shared.paths
            if path in self.there and path not in self.files and path not in self.folders
        ]

    def noting(self, shared: Shared, *, ours: bool) -> str:
        """Shell that notes what this deploy is about to write; empty: all is noted."""
        folders = {*shared.folders, *(self.like_ours if self.earlier(ours) else ())}
        files = sorted({*shared.files} - self.files)
        made = sorted(one for one in folders - self.folders if _FOLDER.fullmatch(one))
        scripts = [brought("file", files)] if files else []
        scripts += [brought("agent", made)] if made else []
        return "\n".join(scripts)


def shared_of(settings: HostSettings) -> Shared:
    """The paths of a host."""
    files: list[str] = []
    if settings.mirror_at is not None:
        files += client_files(settings.mirror_at)
    if not settings.runs_agents:
        return Shared(tuple(files))
    directory, above = settings.vllm.directory, agents_folder(settings)
    files = [f"{directory}/compose.yaml", f"{directory}/.env", *compose_overrides(settings), *files]
    return Shared(tuple(files), tuple(f"{above}/{one.name}" for one in settings.agents), above)


def refusal(paths: Iterable[str], shared: Shared) -> str:
    """Why a deploy leaves a host alone on which these are somebody else's, with the way out."""
    named = list(paths)
    them, are, some = ("it", "is", named[0]) if len(named) == 1 else ("them", "are", "")
    settings = [
        *(["vllm.directory"] if any(_beside(shared, path) for path in named) else []),
        *(["vllm.cache_directory"] if set(named) & set(shared.folders) else []),
    ]
    other = f", or set {' and '.join(settings)} to another folder" if settings else ""
    return (
        f"{some or ', '.join(named)} {are} there already, and no deploy wrote {them}: this one"
        f" would replace {them}, and remove.py remove {them} later; move {them} away{other}"
    )


def _beside(shared: Shared, path: str) -> bool:
    return path in shared.files and not path.startswith(f"{DOCKER_CERTS}/")
