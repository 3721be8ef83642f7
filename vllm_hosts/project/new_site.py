"""A site of somebody's own: what `vllm-hosts init` writes, and later shows again."""

from __future__ import annotations

import difflib
import errno
import getpass
import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import NamedTemporaryFile

from vllm_hosts.errors import SettingsError
from vllm_hosts.host.render import render
from vllm_hosts.keys.places import nobody_else_s
from vllm_hosts.settings import HostSettings
from vllm_hosts.settings.generated import fresh, upgraded

#: The file that a newer version of the toolkit has something to say to.
GENERATED = Path("group_data", "all.py")
_FILES = {
    "inventory/prod.py": "inventory.py.j2",
    "group_data/gpu_hosts.py": "gpu_hosts.py.j2",
    "deploy.py": "deploy.py.j2",
    "keys.py": "keys.py.j2",
    "rollback.py": "rollback.py.j2",
    "remove.py": "remove.py.j2",
    "config.py": "config.py.j2",
    ".gitignore": "gitignore.j2",
    "README.md": "README.md.j2",
}
#: In the order in which SSH tries them.
_KEYS = ("id_ed25519", "id_ecdsa", "id_rsa")


def make(folder: Path) -> list[str]:
    """Write a site, and say which files it has.

    :raises SettingsError: the folder has something in it, or cannot be written.
    """
    try:
        if folder.is_dir() and (there := sorted(path.name for path in folder.iterdir())):
            raise SettingsError(
                [
                    f"{folder} is not empty (it has {there[0]}); name a folder that is not there"
                    " yet, or an empty one. A site that is there: vllm-hosts init --upgrade"
                ]
            )
        files = dict(_files())
        with ExitStack() as undo:
            for name, text in files.items():
                path = folder / name
                for parent in reversed([one for one in path.parents if not one.exists()]):
                    parent.mkdir()
                    undo.callback(parent.rmdir)
                undo.callback(path.unlink, missing_ok=True)
                path.write_text(text)
            undo.pop_all()
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        then = "make room" if full else "name a folder that you may write"
        raise SettingsError([f"{error.filename or folder}: {error.strerror}; {then}"]) from error
    return sorted(files)


def _files() -> Iterator[tuple[str, str]]:
    known = {
        "user": _user(),
        "key": _ssh_key(),
        "image": HostSettings.model_fields["vllm"].get_default(call_default_factory=True).image,
    }
    for name, template in _FILES.items():
        yield name, render(f"site/{template}", {"json": json.dumps}, **known)
    yield str(GENERATED), fresh()


def _user() -> str:
    """This user's name; a container's user may have none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "root"


def _ssh_key() -> str | None:
    """The key that this user logs in with, if it is where SSH looks for it."""
    try:
        folder = Path.home() / ".ssh"
    except RuntimeError:
        return None
    for name in _KEYS:
        if (folder / name).is_file():
            return f"~/.ssh/{name}"
    return None


def site_above(folder: Path) -> Path:
    """The site that a folder is in.

    :raises SettingsError: it is in none.
    """
    for site in nobody_else_s(folder.resolve()):
        if (site / "deploy.py").is_file() and (site / "group_data").is_dir():
            return site
    raise SettingsError(
        [f"{folder} is in no site (which has deploy.py and group_data); name the folder of one"]
    )


def upgrade(site: Path, *, write: bool) -> list[str]:
    """What this version would write into the generated settings, as lines of a difference.

    :raises SettingsError: the file cannot be read, or is not what ``make`` wrote and people edit.
    """
    path = site / GENERATED
    try:
        before = path.read_text() if path.is_file() else ""
        after = upgraded(before)
        if write and after != before:
            # The owner's settings are there at every moment.
            _replace(path.resolve(), after)
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError([f"{path} cannot be read or written: {error}; correct that"]) from error
    names = f"{GENERATED} (as it is)", f"{GENERATED} (as this version writes it)"
    return list(difflib.unified_diff(before.splitlines(), after.splitlines(), *names, lineterm=""))


def _replace(path: Path, text: str) -> None:
    """Write a file anew, with the mode that it has, or leave everything as it is."""
    with ExitStack() as undo:
        with NamedTemporaryFile("w", dir=path.parent, prefix=f"{path.name}.", delete=False) as new:
            beside = Path(new.name)
            undo.callback(beside.unlink, missing_ok=True)
            new.write(text)
        if path.exists():
            shutil.copymode(path, beside)
        else:
            beside.chmod(0o644)
        beside.replace(path)
