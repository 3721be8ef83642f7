"""Which images of a host are still needed, from one query. Touches no host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from vllm_hosts.facts.vllm_images import Image, ImagesFound, ImageUse, Used


class State(StrEnum):
    """What becomes of an image. Only ``OLD`` ones are ever removed."""

    IN_USE = "in use"
    SETTINGS = "in the settings"
    PREVIOUS = "used before"
    OLD = "old"
    FOREIGN = "not ours"


@dataclass(frozen=True)
class Row:
    """An image with something of vLLM's. ``used_by``: names of containers, running or not.

    ``ours``: names under which agents used it.
    """

    image: Image
    state: State
    used_by: tuple[str, ...]
    ours: tuple[str, ...]

    @property
    def name(self) -> str:
        """As people know it; a tag may have gone to another image since."""
        known = [*self.image.names[:1], *self.ours[-1:], *self.image.digests[:1], self.image.id]
        return known[0]


def judged(found: ImagesFound, wanted: str, keep: int) -> list[Row]:
    """Images of agents, of earlier ones, and others of the same repository; the newest use first.

    :param wanted: the settings' image.
    :param keep: how many images stay that agents used before, for going back without a download;
        unless it is none, those that rollback.py needs do too.
    """
    way_back = found.way_back if keep > 0 else frozenset[str]()
    last = {used.id: number for number, used in enumerate(found.record)}
    rows = []
    for image in sorted(found.images, key=lambda image: -last.get(image.id, -1)):
        users = [user for user in found.users if user.image_id == image.id]
        ours = tuple(used.name for used in found.record if used.id == image.id)
        named = _named(image, wanted)
        if not (ours or named or any(user.ours for user in users) or _related(image, wanted)):
            continue
        state = State.FOREIGN
        if users:
            state = State.IN_USE
        elif named:
            state = State.SETTINGS
        elif ours and {*map(_short, image.names)} <= {*map(_short, ours)}:
            kept = keep > 0 or image.id in way_back
            state = State.PREVIOUS if kept else State.OLD
            keep -= 1
        rows.append(Row(image, state, tuple(sorted(user.name for user in users)), ours))
    return rows


def _named(image: Image, wanted: str) -> bool:
    """Whether a reference means this image."""
    name, _, digest = _short(wanted).partition("@")
    repository = _repository(name)
    if digest:
        return f"{repository}@{digest}" in map(_short, image.digests)
    return name in map(_short, image.names)


def _related(image: Image, wanted: str) -> bool:
    names = [*image.names, *image.digests]
    return _repository(_short(wanted)) in [_repository(_short(name)) for name in names]


def _repository(name: str) -> str:
    name = name.partition("@")[0]
    folder, slash, last = name.rpartition("/")
    return f"{folder}{slash}{last.partition(':')[0]}"


def _short(name: str) -> str:
    """Docker's own short form of a name."""
    return name.removeprefix("docker.io/").removeprefix("library/")


def next_record(use: ImageUse, now: Used) -> tuple[Used, ...]:
    """The record once agents use an image; unchanged where nothing is new.

    What agents have now comes before it: a host of an earlier version has no record of that.
    """
    before = [used for used in use.record if used != now]
    before += [used for used in use.agents if used not in (*before, now)]
    return (*before, now)


def old_ones(rows: Sequence[Row]) -> list[Row]:
    """What a prune removes."""
    return [row for row in rows if row.state is State.OLD]


def gigabytes(size: int) -> str:
    """As Docker says sizes."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
