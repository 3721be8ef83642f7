"""Models from the hub as values. Nothing here touches a host."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass


@dataclass(frozen=True)
class HubModel:
    """What to fetch from the hub. ``revision``: a commit, tag or branch."""

    model: str
    revision: str = "main"
    allow_pickle: bool = False
    ignore_files: tuple[str, ...] = ()
    #: Environment for the download that the agent sets, such as proxies.
    environment: tuple[tuple[str, str], ...] = ()

    @property
    def key(self) -> str:
        """One word that identifies what is fetched, whichever mirror it comes from."""
        what = (self.model, self.revision, self.allow_pickle, self.ignore_files)
        return one_word(f"{self.model}@{self.revision}", repr(what))

    def folder(self, cache_directory: str) -> str:
        """The model's folder in the host's cache, in huggingface_hub's layout."""
        return f"{cache_directory}/huggingface/hub/models--{self.model.replace('/', '--')}"


@dataclass(frozen=True)
class Fetched:
    """What a host has of a model now, and what its download left there.

    ``files`` (as recorded at the end of the download) and ``present`` are bytes by name; ``ref``
    is the commit that agents find under the revision's name.
    """

    commit: str | None
    ref: str
    files: dict[str, int]
    present: dict[str, int]

    def complete(self, revision: str) -> bool:
        """Whether an agent finds everything without querying the hub."""
        if self.commit is None or not self.files or self.files != self.present:
            return False
        return revision == self.commit or self.ref == self.commit


def one_word(text: str, what: str) -> str:
    """A file name that people recognise, and that differs whenever ``what`` does."""
    digest = hashlib.sha256(what.encode()).hexdigest()[:10]
    return f"{re.sub(r'[^A-Za-z0-9._@-]+', '--', text).strip('-.')}-{digest}"


@dataclass(frozen=True)
class MirrorWay:
    """How large files are asked of a mirror: its name and its place, and the files with its CAs,
    the host's certificate and its key."""

    host: str
    place: str
    files: tuple[str, str, str]


@dataclass(frozen=True)
class Download:
    """Settings that all downloads of a host share.

    ``user`` is the ``UID:GID`` that owns what is fetched, and is not the agents'. ``token_file``
    has a line ``HF_TOKEN=...``; None: there is no token. ``endpoint`` None: the hub itself.
    ``mirror``: who may have large files already, besides.
    """

    image: str
    user: str
    cache_directory: str
    token_file: str | None
    endpoint: str | None
    connections: int
    mirror: MirrorWay | None = None


@dataclass(frozen=True)
class Copy:
    """A folder of the controller that is copied to a host."""

    source: str
    target: str
    allow_pickle: bool

    @property
    def staging(self) -> str:
        """Its path on the host until the copy is complete."""
        return f"{self.target}.vllm-hosts-new"

    @property
    def key(self) -> str:
        """Name of the record that says the copy is complete."""
        return one_word(self.target, self.target)
