"""Container images that a host has, who uses them, and which of them agents have used."""

from __future__ import annotations

import re
from dataclasses import dataclass
from shlex import quote

from vllm_hosts.bounded import json_object
from vllm_hosts.facts.base import HostFact, ending, sections
from vllm_hosts.host.containers import INSPECT, Container, read
from vllm_hosts.host.image_places import IMAGES, image_places
from vllm_hosts.host.paths import IMAGES_RECORD, PROJECT, WAY_BACK
from vllm_hosts.text import clean

_IMAGE = (
    '{"id":{{json .Id}},"tags":{{json .RepoTags}},"digests":{{json .RepoDigests}},"size":{{.Size}}}'
)
_LINE = re.compile(r"(sha256:[0-9a-f]{64}) ([A-Za-z0-9][A-Za-z0-9._:/@-]{0,600})")


@dataclass(frozen=True)
class Image:
    """``names`` are tags, and ``digests`` names with a digest. Bytes, layers of others included."""

    id: str
    names: tuple[str, ...]
    digests: tuple[str, ...]
    size: int


@dataclass(frozen=True)
class Used:
    """One line of the record."""

    id: str
    name: str


@dataclass(frozen=True)
class ImagesFound:
    """``users``: containers, running or not. ``record`` in the order in which deploys used them,
    the last one at the end. ``way_back``: identifiers of those that a rollback would start."""

    images: tuple[Image, ...]
    users: tuple[Container, ...]
    record: tuple[Used, ...]
    way_back: frozenset[str] = frozenset()


class ImagesThere(HostFact[ImagesFound]):
    """Every image and every container of a host, and the record of what agents have used."""

    what = "the container images"
    steady = True

    def command(self) -> str:
        return ending(
            f"""
            echo '== record'; cat {IMAGES_RECORD} 2>/dev/null
            echo '== images'; ids=$(docker image ls --no-trunc --quiet) || exit 1
            [ -z "$ids" ] || printf '%s\\n' "$ids" | sort -u |
                xargs docker image inspect --format {quote(_IMAGE)} || exit 1
            echo '== containers'; ids=$(docker ps --all --no-trunc --quiet) || exit 1
            [ -z "$ids" ] || printf '%s\\n' "$ids" |
                xargs docker container inspect --format {quote(INSPECT)} || exit 1
            echo '== way back'
            cat {WAY_BACK}/now/definition.json {WAY_BACK}/before/definition.json 2>/dev/null |
                grep -o '"image_id":"sha256:[0-9a-f]*"' | cut -d '"' -f 4
            """
        )

    def parse(self, lines: list[str]) -> ImagesFound:
        parts = sections(lines)
        return ImagesFound(
            images=tuple(_image(line) for line in parts["images"]),
            users=_users(parts["containers"]),
            record=recorded(parts["record"]),
            way_back=frozenset(map(_identifier, parts["way back"])),
        )


def _image(line: str) -> Image:
    one = json_object(line)
    return Image(
        id=_identifier(one["id"]),
        names=tuple(clean(name, 700) for name in one["tags"] or ()),
        digests=tuple(clean(name, 700) for name in one["digests"] or ()),
        size=int(one["size"]),
    )


def _users(lines: list[str]) -> tuple[Container, ...]:
    found = tuple(read(lines))
    for one in found:
        _identifier(one.image_id)
    return found


def _identifier(text: str) -> str:
    if not re.fullmatch(r"sha256:[0-9a-f]{64}", text):
        raise ValueError(text[:100])
    return text


def recorded(lines: list[str]) -> tuple[Used, ...]:
    """:raises ValueError: a line is not one that we write."""
    found = [_LINE.fullmatch(line) for line in lines]
    if None in found:
        raise ValueError(lines[found.index(None)][:200])
    return tuple(Used(one[1], one[2]) for one in found if one)


@dataclass(frozen=True)
class ImageUse:
    """``agents``: identifier and name of each image that an agent has now."""

    agents: tuple[Used, ...]
    record: tuple[Used, ...]


class ImagesUsed(HostFact[ImageUse]):
    """What the record of used images has, and what it should have."""

    what = "the agents' images"
    steady = True

    def command(self) -> str:
        ours = f"label=com.docker.compose.project={PROJECT}"
        return ending(
            f"""
            echo '== record'; cat {IMAGES_RECORD} 2>/dev/null
            echo '== agents'
            if command -v docker >/dev/null; then
                ids=$(docker ps --all --quiet --filter {ours}) || exit 1
                [ -z "$ids" ] || printf '%s\\n' "$ids" |
                    xargs docker container inspect --format {quote(INSPECT)} || exit 1
            fi
            """
        )

    def parse(self, lines: list[str]) -> ImageUse:
        parts = sections(lines)
        return ImageUse(
            agents=recorded(
                sorted({f"{one.image_id} {one.image}" for one in read(parts["agents"])})
            ),
            record=recorded(parts["record"]),
        )


class ImageRoom(HostFact[int]):
    """Free bytes where Docker keeps images."""

    what = "the disk with the container images"

    def command(self) -> str:
        return ending(IMAGES)

    def parse(self, lines: list[str]) -> int:
        places = image_places(sections(lines)["images"])
        return (places.store if places.kind == "containerd" else places.root)[1]
