"""What deploys write into folders that do not carry our name, and whose it is. Touches no host.

Elsewhere a path of ours has `vllm-hosts` in it, or what was there before is kept (`COPIED` in
`host/manifest.py`). Here somebody else may have had a file of the same name.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from vllm_hosts.host.files import is_plain
from vllm_hosts.host.manifest import brought
from vllm_hosts.host.mirror import client_files
from vllm_hosts.host.paths import DOCKER_CERTS, STATE, agents_folder, compose_overrides
from vllm_hosts.settings import HostSettings


@dataclass(frozen=True)
class Shared:
    """Paths that a deploy with these settings writes, or takes away: files, and the folders of
    agents, which are all in one."""

    files: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    above: str | None = None

    @property
    def paths(self) -> tuple[str, ...]:
        """All of them."""
        return (*self.files, *self.folders)


@dataclass(frozen=True)
class SharedFound:
    """What a host says of them.

    :param there: those at which there is something.
    :param files: what deploys noted as theirs before they wrote it, and ``folders``.
    :param recorded: files that deploys left there, by the record of what was deployed.
    :param mounted: folders that compose.yaml has as it was deployed.
    :param like_ours: folders beside those of agents that look as deploys make them.
    """

    there: frozenset[str] = frozenset()
    files: frozenset[str] = frozenset()
    folders: frozenset[str] = frozenset()
    recorded: frozenset[str] = frozenset()
    mounted: frozenset[str] = frozenset()
    like_ours: tuple[str, ...] = ()

    def earlier(self, keys: bool) -> bool:
        """Whether a version deployed agents to the host that noted none of this: it took everything
        there for its own. A gateway's mark and record are no evidence: it never had any.

        :param keys: whether .env has keys of the host's agents.
        """
        agents = any(
            path.endswith("/compose.yaml") and not path.startswith(f"{STATE}/")
            for path in self.recorded
        )
        return (keys or agents) and not (self.files or self.folders)

    def others(self, shared: Shared, *, keys: bool) -> list[str]:
        """Paths with something that no deploy put there."""
        if self.earlier(keys):
            return []
        # What deploys noted may be damaged, and what they left there is ours all the same.
        ours = self.files | self.folders | self.recorded | self.mounted
        return [path for path in shared.paths if path in self.there and path not in ours]

    def noting(self, shared: Shared, *, keys: bool) -> str:
        """Shell that notes what this deploy is about to write; empty: all is noted."""
        folders = {*shared.folders, *(self.like_ours if self.earlier(keys) else ())}
        files = sorted({*shared.files} - self.files)
        made = sorted(one for one in folders - self.folders if is_plain(one))
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
