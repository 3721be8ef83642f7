"""Where the controller keeps an inventory's keys and its CA."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from shlex import quote

from vllm_hosts.settings import HostSettings

#: The local CA's certificate, which clients need, in an inventory's state folder.
CA_FILE = "ca.pem"


def state_folder(inventory_file: Path) -> Path:
    """The folder beside an inventory for its secrets, such as ``inventory/.vllm-hosts/prod``.

    It depends only on the inventory, not on where a command is run: another folder would mean new
    keys. It is created, with mode 0700, when something is first kept there.
    """
    path = inventory_file.resolve()
    return path.parent / ".vllm-hosts" / path.stem


def site_of(inventory_file: Path) -> Path:
    """The folder that an inventory's group data is in, and that its relative paths start from.

    It is the nearest folder above the inventory with a ``deploy.py``, unless somebody else could
    have put it there. Without one it is where group data would be. The current folder is ignored.
    """
    beside = inventory_file.resolve().parent
    for folder in nobody_else_s(beside):
        if (folder / "deploy.py").is_file():
            return folder
    return beside if (beside / "group_data").is_dir() else beside.parent


def nobody_else_s(folder: Path) -> Iterator[Path]:
    """A folder and its parents, up to the first where somebody else could put files, since we run
    what we find there."""
    ours = {0, os.geteuid()} | ({folder.stat().st_uid} if folder.is_dir() else set())
    for one in (folder, *folder.parents):
        if not one.is_dir():
            return
        found = one.stat()
        if found.st_mode & stat.S_IWOTH or found.st_uid not in ours:
            return
        yield one


def pyinfra_line(inventory_file: Path, after: str = "deploy.py", options: str = "") -> str:
    """What to type to run pyinfra, which reads config.py from the current folder."""
    site = site_of(inventory_file)
    words = f"pyinfra {options} " if options else "pyinfra "
    if site == Path.cwd() or not (site / "deploy.py").is_file():
        return f"{words}{quote(str(inventory_file))} {after}"
    named = quote(os.path.relpath(inventory_file.resolve(), site))
    return f"cd {quote(str(site))} && {words}{named} {after}"


def client_ca_file(settings: HostSettings, folder: Path) -> str | None:
    """The CA file that clients of a host need; None: the system's CAs will do.

    :param folder: the inventory's, from ``state_folder``.
    """
    if settings.tls.mode == "local-ca":
        return str(folder / CA_FILE)
    return settings.tls.ca_file
