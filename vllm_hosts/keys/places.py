"""Where the controller keeps what belongs to one inventory: keys and its CA."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from shlex import quote

from vllm_hosts.settings import HostSettings

#: The local CA's certificate, which clients get, in an inventory's folder.
CA_FILE = "ca.pem"


def state_folder(inventory_file: Path) -> Path:
    """The folder beside an inventory for its secrets, such as ``inventory/.vllm-hosts/prod``.

    It depends on the inventory alone, not on where a command is run: another folder would mean
    new keys. It is made, with mode 0700, when something is first kept there.
    """
    path = inventory_file.resolve()
    return path.parent / ".vllm-hosts" / path.stem


def site_of(inventory_file: Path) -> Path:
    """The folder that an inventory's group data lies in, and what its relative paths start from.

    The nearest one above the inventory with a ``deploy.py``, as far as nobody else can put one
    there; without any, the one beside which group data would lie. The current folder has no say.
    """
    beside = inventory_file.resolve().parent
    for folder in nobody_else_s(beside):
        if (folder / "deploy.py").is_file():
            return folder
    return beside if (beside / "group_data").is_dir() else beside.parent


def nobody_else_s(folder: Path) -> Iterator[Path]:
    """A folder and those above it, up to the first in which somebody else could put files: what is
    found there is run by us."""
    ours = {0, os.geteuid()} | ({folder.stat().st_uid} if folder.is_dir() else set())
    for one in (folder, *folder.parents):
        if not one.is_dir():
            return
        found = one.stat()
        if found.st_mode & stat.S_IWOTH or found.st_uid not in ours:
            return
        yield one


def pyinfra_line(inventory_file: Path, after: str = "deploy.py", options: str = "") -> str:
    """What to type for a run of pyinfra, which reads config.py from the folder that one is in."""
    site = site_of(inventory_file)
    words = f"pyinfra {options} " if options else "pyinfra "
    if site == Path.cwd() or not (site / "deploy.py").is_file():
        return f"{words}{quote(str(inventory_file))} {after}"
    named = quote(os.path.relpath(inventory_file.resolve(), site))
    return f"cd {quote(str(site))} && {words}{named} {after}"


def client_ca_file(settings: HostSettings, folder: Path) -> str | None:
    """The CA file that clients of a host need; None: the CAs that every system knows will do.

    :param folder: the inventory's, from ``state_folder``.
    """
    if settings.tls.mode == "local-ca":
        return str(folder / CA_FILE)
    return settings.tls.ca_file
