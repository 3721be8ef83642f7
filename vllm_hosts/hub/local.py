"""A model in a folder of the controller, for hosts that reach no hub."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

from vllm_hosts.errors import SettingsError

_SAFE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._@+-]*(/[A-Za-z0-9_][A-Za-z0-9._@+-]*)*")
#: Loading these can run code.
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


@dataclass(frozen=True)
class LocalFile:
    """A file of the model; ``size`` in bytes. ``changed`` in nanoseconds since 1970."""

    name: str
    path: Path
    size: int
    changed: int

    @property
    def sha256(self) -> str:
        """Hexadecimal digest of the content; read once for each version of the file."""
        return _sha256(self.path, self.size, self.changed)


@dataclass(frozen=True)
class LocalModel:
    """All files of a model that are copied."""

    folder: str
    files: tuple[LocalFile, ...]

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes by name."""
        return {file.name: file.size for file in self.files}

    @cached_property
    def fingerprint(self) -> str:
        """Changes when any file changes; known without reading what is in them."""
        lines = [f"{file.name} {file.size} {file.changed}\n" for file in self.files]
        return hashlib.sha256("".join(lines).encode()).hexdigest()


def local_model(folder: str, *, allow_pickle: bool) -> LocalModel:
    """The model in a folder. Symbolic links are followed: the hub's own cache is made of them.

    :raises SettingsError: it cannot be read, or is no model that agents could load.
    """
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise SettingsError([f"copy_from {folder} is not a folder on the controller; correct it"])
    files = []
    try:
        for place, folders, names in os.walk(root, followlinks=True):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(name for name in names if not name.startswith(".")):
                path = Path(place) / name
                if name.endswith(_PICKLES) and not allow_pickle:
                    continue
                found = path.stat()
                relative = str(path.relative_to(root))
                files.append(LocalFile(relative, path, found.st_size, found.st_mtime_ns))
    except OSError as error:
        raise SettingsError([f"copy_from {folder} cannot be read: {error}"]) from error
    for file in files:
        if not _SAFE_NAME.fullmatch(file.name):
            raise SettingsError(
                [
                    f"copy_from {folder} has a file {file.name!r}, and names may have letters,"
                    " digits and . _ @ + - only, a letter or digit first; rename or remove it"
                ]
            )
    names = [file.name for file in files]
    if "config.json" not in names and "params.json" not in names:
        raise SettingsError([f"copy_from {folder} has no config.json; name a model's folder"])
    if not allow_pickle and not any(name.endswith(".safetensors") for name in names):
        raise SettingsError(
            [
                f"copy_from {folder} has no safetensors; use another model, or set"
                " allow_pickle = True (loading pickle files can run code)"
            ]
        )
    return LocalModel(folder, tuple(files))


@cache
def _sha256(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
