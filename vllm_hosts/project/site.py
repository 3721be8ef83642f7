"""The folder that an inventory belongs to: what is found there, whatever folder one stands in."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from pyinfra.api.inventory import Inventory

from vllm_hosts.connect.lock import Purpose
from vllm_hosts.keys.places import site_of
from vllm_hosts.text import clean


def import_from(path: Path) -> str:
    """The folder of an inventory's site, which inventories and group data may import from."""
    site = str(site_of(path))
    if site not in sys.path:
        sys.path.append(site)
    return site


def belongs_to(inventory: Inventory, path: Path) -> None:
    """Note which site a loaded inventory is of, for whoever has no more than that."""
    inventory.site = site_of(path)  # type: ignore[attr-defined]


def site(inventory: Inventory) -> Path:
    """The folder of the site that a loaded inventory is of."""
    found: Path = getattr(inventory, "site", None) or Path.cwd()
    return found


@cache
def commit_of(path: Path) -> str:
    """The commit of an inventory's site, with a mark if files differ from it; empty: no git."""
    words = ["git", "-C", str(site_of(path)), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run([*words, "--exclude=*"], capture_output=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return clean(done.stdout.decode(errors="replace").strip(), 60)


def held_for(what: str, path: Path) -> Purpose:
    """What hosts are held for by a command, as others there read it."""
    return Purpose(f"{what} of {path.name}", commit_of(path))


def from_site(merged: dict[str, Any], there: Path) -> dict[str, Any]:
    """Settings whose relative paths on the controller start from the site, wherever one is."""
    if there == Path.cwd():
        return merged

    def of(section: object, names: tuple[str, ...]) -> object:
        if not isinstance(section, Mapping):
            return section
        paths = {
            name: str(there / value)
            for name in names
            if isinstance(value := section.get(name), str) and value and not value.startswith("~")
        }
        return {**section, **paths}

    found = dict(merged)
    if "tls" in found:
        found["tls"] = of(found["tls"], ("certificate", "key", "ca_file"))
    if isinstance(found.get("agents"), list | tuple):
        found["agents"] = [of(agent, ("copy_from",)) for agent in found["agents"]]
    return found
