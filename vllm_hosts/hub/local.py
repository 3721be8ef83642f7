"""A model in a folder of the controller, for hosts that cannot reach a hub."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from io import BufferedReader
from pathlib import Path

from vllm_hosts.bounded import INDEX_SIZE
from vllm_hosts.errors import HostError, SettingsError
from vllm_hosts.hub.weights import IS_POINTER, POINTER_SIZE, is_pointer, parts, tensor_bytes

_SAFE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._@+-]*(/[A-Za-z0-9_][A-Za-z0-9._@+-]*)*")
#: Loading these can run code.
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
#: More than any model has: somebody named the wrong folder.
_MOST_FILES = 20_000
INDEX = "model.safetensors.index.json"
#: What holds weights, ours and other programs', and bytes of a file that is none of the small ones.
_WEIGHTS = (".safetensors", *_PICKLES, ".gguf", ".h5", ".msgpack", ".onnx")
_SMALL = 64 << 20


@dataclass(frozen=True)
class LocalFile:
    """A file of the model; ``size`` in bytes. ``changed`` in nanoseconds since 1970.

    ``path`` has all links resolved. ``identity`` is the device, inode and change time of the file
    found there, so that a later read gets exactly that file or fails.
    """

    name: str
    path: Path
    size: int
    changed: int
    identity: tuple[int, int, int]

    def open(self) -> BufferedReader:
        """The file that was listed.

        :raises HostError: it was replaced or changed since, or cannot be read.
        """
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        try:
            descriptor = os.open(self.path, flags)
        except OSError as error:
            raise HostError(
                f"{self.path} cannot be read any more: {error.strerror}; run again"
            ) from error
        found = os.fstat(descriptor)
        seen = _identity(found), found.st_size, found.st_mtime_ns
        if not stat.S_ISREG(found.st_mode) or seen != (self.identity, self.size, self.changed):
            os.close(descriptor)
            raise HostError(f"{self.path} was changed while it was copied; run again")
        return os.fdopen(descriptor, "rb")

    @property
    def sha256(self) -> str:
        """Hexadecimal digest of the content, computed once for each version of the file."""
        known = _digests.get(self)
        if known is None:
            with self.open() as content:
                known = hashlib.file_digest(content, "sha256").hexdigest()
            _digests[self] = known
        return known


_digests: dict[LocalFile, str] = {}


@dataclass(frozen=True)
class LocalModel:
    """A model's files that will be copied."""

    folder: str
    files: tuple[LocalFile, ...]

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes by name."""
        return {file.name: file.size for file in self.files}

    @cached_property
    def fingerprint(self) -> str:
        """Changes whenever a file changes; computed without reading contents."""
        lines = [f"{file.name} {file.size} {file.changed}\n" for file in self.files]
        return hashlib.sha256("".join(lines).encode()).hexdigest()


def local_model(folder: str, *, allow_pickle: bool) -> LocalModel:
    """The model in a folder, whose files are copied to hosts where everybody can read them.

    A symbolic link may point to a file in the folder itself or, in a snapshot of the hub's own
    cache, to a blob of the same model. All others are refused: a cloned model could contain a link
    to any file of this machine.

    :raises SettingsError: it cannot be read, contains something other than files and folders, or
        is no model that agents could load.
    """
    try:
        root = Path(folder).expanduser()
        there = root.is_dir()
    except (OSError, RuntimeError):
        # Such as a name that is too long, or the home of a user who is not there.
        there = False
    if not there:
        raise SettingsError([f"copy_from {folder} is not a folder on the controller; correct it"])
    try:
        files = tuple(_files(f"copy_from {folder}", root.resolve(strict=True), allow_pickle))
    except OSError as error:
        raise SettingsError(
            [f"copy_from {folder} cannot be read: {error}; correct its rights, or name another"]
        ) from error
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
    problems = [f"copy_from {folder} {problem}" for problem in _no_weights(files)]
    if problems:
        raise SettingsError(problems[:3])
    return LocalModel(folder, files)


def small_files(folder: str, option: str = "copy_from ") -> tuple[LocalFile, ...]:
    """What a model's folder has beside its weights, by the same rules for links; weights may be
    missing.

    :param option: by which somebody named the folder, up to its name.
    :raises SettingsError: it cannot be read, or has no config.json.
    """
    root, named = Path(folder).expanduser(), f"{option}{folder}"
    try:
        files = tuple(_files(named, root.resolve(strict=True), False))
    except OSError as error:
        raise SettingsError(
            [f"{named} cannot be read: {error}; correct its rights, or name another"]
        ) from error
    small = [one for one in files if not one.name.endswith(_WEIGHTS) and one.size <= _SMALL]
    if not any(one.name in ("config.json", "params.json") for one in small):
        raise SettingsError([f"{named} has no config.json; name a model's folder"])
    return tuple(small)


def contents(files: tuple[LocalFile, ...]) -> str:
    """A digest of files, by what is in them.

    :raises HostError: one cannot be read, or has changed.
    """
    lines = [f"{file.sha256} {file.name}\n" for file in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _no_weights(files: tuple[LocalFile, ...]) -> Iterator[str]:
    """Files that are not what their names suggest, as after a clone without git-lfs."""
    there = {file.name for file in files}
    for file in files:
        place, slash, last = file.name.rpartition("/")
        if last == INDEX and file.size <= INDEX_SIZE:
            with _opened(file) as content:
                named = parts(content.read(INDEX_SIZE), INDEX_SIZE)
            beside = [f"{place}{slash}{name}" for name in sorted(named)]
            if missing := [name for name in beside if name not in there]:
                yield (
                    f"does not hold all weights: {file.name} names {missing[0]}, which does not"
                    " exist; fetch the model again"
                )
        if file.name.endswith(".safetensors"):
            with _opened(file) as content:
                try:
                    tensor_bytes(content, file.size)
                except ValueError as error:
                    yield f"holds no weights: {file.name} {error}"
        elif file.size <= POINTER_SIZE or file.name.endswith(_PICKLES):
            with _opened(file) as content:
                pointer = is_pointer(content.read(POINTER_SIZE))
            if pointer:
                weights = "holds no weights: " if file.name.endswith(_PICKLES) else "is not whole: "
                yield f"{weights}{file.name} {IS_POINTER}"
            elif file.size == 0 and file.name.endswith(_PICKLES):
                yield f"holds no weights: {file.name} is empty; fetch the model again"


def _opened(file: LocalFile) -> BufferedReader:
    try:
        return file.open()
    except HostError as error:
        raise SettingsError([str(error)]) from error


def _files(named: str, root: Path, allow_pickle: bool) -> Iterator[LocalFile]:
    """Files in a fixed order, without names that begin with a dot, such as ``.git``."""
    count = 0
    for place, folders, names in os.walk(root, onerror=_raise):
        entries = [(name, Path(place) / name) for name in sorted(names) if name[0] != "."]
        # os.walk lists links to folders as folders, and does not enter them.
        folders[:] = sorted(name for name in folders if name[0] != ".")
        entries += [
            (name, Path(place) / name) for name in folders if (Path(place) / name).is_symlink()
        ]
        for name, path in entries:
            if name.endswith(_PICKLES) and not allow_pickle:
                continue
            count += 1
            if count > _MOST_FILES:
                raise SettingsError(
                    [f"{named} has more than {_MOST_FILES} files; name a model's folder"]
                )
            yield _file(named, root, path)


def _file(named: str, root: Path, path: Path) -> LocalFile:
    name = str(path.relative_to(root))
    if not _SAFE_NAME.fullmatch(name):
        raise SettingsError(
            [
                f"{named} has a file {name!r}, and names may have letters,"
                " digits and . _ @ + - only, a letter or digit first; rename or remove it"
            ]
        )
    target = _followed(named, root, path, name) if path.is_symlink() else path
    found = target.lstat()
    if not stat.S_ISREG(found.st_mode):
        raise SettingsError(
            [f"{named} has {name}, which is neither a file nor a folder; remove it"]
        )
    return LocalFile(name, target, found.st_size, found.st_mtime_ns, _identity(found))


def _identity(found: os.stat_result) -> tuple[int, int, int]:
    # An inode number is reused once its file is removed.
    return found.st_dev, found.st_ino, found.st_ctime_ns


def _followed(named: str, root: Path, path: Path, name: str) -> Path:
    """A link's target, with all links resolved.

    :raises SettingsError: it is a folder, does not exist, or is outside of the folder and of the
        hub's blobs.
    """
    says = path.readlink()
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError):
        raise SettingsError(
            [f"{named} has the link {name} -> {says}, which leads nowhere; remove it"]
        ) from None
    inside = target.is_relative_to(root) and not any(
        # Folders that are not copied, such as .git, may hold a password.
        part.startswith(".")
        for part in target.relative_to(root).parts
    )
    if not inside and not any(target.parent == blobs for blobs in _blobs(root)):
        raise SettingsError(
            [
                f"{named} has the link {name} -> {says}, which leads out of the folder"
                f" to {target}; put the file itself there, or remove the link"
            ]
        )
    if target.is_dir():
        raise SettingsError(
            [
                f"{named} has the link {name} -> {says} to a folder; put the folder"
                " itself there, or remove the link"
            ]
        )
    return target


def _blobs(root: Path) -> tuple[Path, ...]:
    """Where huggingface_hub keeps the files of a snapshot: models--ORG--NAME/snapshots/COMMIT."""
    repository = root.parent.parent
    if root.parent.name != "snapshots" or not repository.name.startswith("models--"):
        return ()
    blobs = repository / "blobs"
    # If it were a link, it could lead anywhere.
    return (blobs,) if blobs.is_dir() and not blobs.is_symlink() else ()


def _raise(error: OSError) -> None:
    raise error
