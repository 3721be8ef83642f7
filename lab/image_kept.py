"""The agents' image as Docker keeps it once it is pulled, for hosts that need not pull it again.

Unpacking it takes a processor 40 s. A host may have its layers before Docker is installed, as
where somebody removed Docker's packages and left its folder. Hosts share the files by hard links:
Docker lays layers of images below a container and never writes to them.
"""

from __future__ import annotations

import os
from pathlib import Path

from lab import image, recipe
from lab.layout import CACHE

#: As Docker's overlay2 driver has it: what images consist of, and the files of each layer.
_IMAGES, _LAYERS = Path("image/overlay2"), Path("overlay2")
_DOCKER = Path("var/lib/docker")


def keep(root: Path) -> bool:
    """Keep what a host has, unless it is kept already. Nothing is pulled there meanwhile.

    :return: whether it is kept.
    """
    docker = root / _DOCKER
    if not (docker / _IMAGES / "repositories.json").is_file() or not _same_disk(docker):
        return False
    recipe.keep("image-kept", _recipe(), lambda folder: _link(docker, folder))
    return True


def give(root: Path) -> bool:
    """Give a new host what is kept.

    :return: whether anything is.
    """
    kept = CACHE / f"image-kept-{recipe.fingerprint(_recipe())}"
    if not kept.is_dir():
        return False
    os.utime(kept)
    docker = root / _DOCKER
    docker.mkdir(mode=0o710, parents=True)
    _link(kept, docker)
    return True


def _recipe() -> list[str]:
    return [image.digest(), "links 1"]


def _same_disk(docker: Path) -> bool:
    """Only there can files have second names."""
    CACHE.mkdir(parents=True, exist_ok=True)
    return docker.stat().st_dev == CACHE.stat().st_dev


def _link(docker: Path, to: Path) -> None:
    """All of images, and nothing of containers."""
    (to / _IMAGES).mkdir(mode=0o710, parents=True)
    for name in ("distribution", "imagedb", "layerdb/sha256", "repositories.json"):
        target = to / _IMAGES / name
        target.parent.mkdir(mode=0o710, exist_ok=True)
        recipe.run(["cp", "-aT", docker / _IMAGES / name, target], "copying what images are")
    (to / _LAYERS / "l").mkdir(mode=0o710, parents=True)
    for file in sorted((docker / _IMAGES / "layerdb/sha256").glob("*/cache-id")):
        layer = docker / _LAYERS / file.read_text()
        recipe.run(["cp", "-alT", layer, to / _LAYERS / layer.name], "linking an image's layer")
        (to / _LAYERS / "l" / (layer / "link").read_text()).symlink_to(f"../{layer.name}/diff")
