"""Stores of other inventories in the same folder, and how to move one to another name."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from shlex import quote

from vllm_hosts.errors import SettingsError
from vllm_hosts.keys.hosts import identified
from vllm_hosts.keys.store import KeyStore
from vllm_hosts.keys.store_content import Content


def stores_beside(store: KeyStore) -> Iterator[tuple[KeyStore, Content]]:
    """Other inventories' stores in this one's folder, if they can be opened here."""
    folder = store.folder.parent
    names = {path.parent.name for path in folder.glob("*/keys.json")}
    names |= {path.stem for path in store.encrypted_path.parent.glob("*.age")}
    for name in sorted(names - {store.name}):
        other = KeyStore(folder.parent / f"{name}.py")
        try:
            content = other.peek()
        except SettingsError:
            continue
        if content is not None:
            yield other, identified(content)


def named_beside(store: KeyStore, name: str) -> KeyStore | None:
    """Another inventory's encrypted store by its name, whether or not it can be opened here."""
    if name == store.name or not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", name):
        return None
    other = KeyStore(store.folder.parent.parent / f"{name}.py")
    return other if other.encrypted else None


def inventory_of(store: KeyStore) -> Path:
    """The inventory file that a store belongs to, which may no longer exist."""
    return store.folder.parent.parent / f"{store.name}.py"


def moved(source: KeyStore, target: KeyStore) -> str:
    """What to type to move a store to another inventory."""
    commands = []
    for old, new in (
        (source.folder, target.folder),
        (source.encrypted_path, target.encrypted_path),
        (source.recipients_path, target.recipients_path),
    ):
        if not old.exists():
            continue
        if new.exists():
            # mv would move it into that folder.
            commands.append(f"mv {shown(new)} {shown(_unused(new))}")
        commands.append(f"mv {shown(old)} {shown(new)}")
    return " && ".join(commands)


def _unused(path: Path) -> Path:
    number = 1
    while (aside := path.with_name(f"{path.name}.unused{number}")).exists():
        number += 1
    return aside


def shown(path: Path) -> str:
    """A path quoted for the reader's shell, relative to the current folder if possible."""
    return quote(os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path))
