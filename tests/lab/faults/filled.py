"""Folders of a lab host that are full, without inodes or read-only, and well again afterwards.

A small file system with the same contents lies over the folder meanwhile, since the host's own disk
is this machine's. What a deploy has written there is moved below when it goes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from lab import hosts as lab_hosts

#: In a folder that is full: what takes the room.
_FILLER = ".lab-filler"
_COPY = "/var/tmp/lab-copy"
_MOUNT = f"""
    set -e
    mode=$(stat -c %a "$at"); owner=$(stat -c %u:%g "$at")
    rm -rf {_COPY}; mkdir {_COPY}; cp -a "$at/." {_COPY}
    mount -t tmpfs -o size=64m lab-small "$at"
    chmod "$mode" "$at"; chown "$owner" "$at"
    cp -a {_COPY}/. "$at"
    """
_UNMOUNT = f"""
    set -e
    mount -o remount,rw "$at"
    rm -rf {_COPY}; mkdir {_COPY}; cp -a "$at/." {_COPY}
    rm -rf {_COPY}/{_FILLER}
    umount "$at"
    find "$at" -mindepth 1 -delete
    cp -a {_COPY}/. "$at"; rm -rf {_COPY}
    """
#: What is wrong with the small file system, and how that ends.
KINDS = {
    "full": (
        f'head -c 1G /dev/zero >"$at/{_FILLER}" 2>/dev/null || :',
        f'rm "$at/{_FILLER}"',
    ),
    "without inodes": (
        # What is used, without the blanks that df puts before it.
        'mount -o remount,nr_inodes=$(($(df --output=iused "$at" | tail -n 1))) "$at"',
        'mount -o remount,nr_inodes=50000 "$at"',
    ),
    "read-only": ('mount -o remount,ro "$at"', 'mount -o remount,rw "$at"'),
}


@contextmanager
def small(host: str, folder: str) -> Iterator[None]:
    """A file system of its own for a folder, until the end."""
    _run(host, folder, _MOUNT)
    try:
        yield
    finally:
        _run(host, folder, _UNMOUNT)


@contextmanager
def unwell(host: str, folder: str, kind: str) -> Iterator[None]:
    """Nothing can be written to a folder that is `small`."""
    begin, end = KINDS[kind]
    _run(host, folder, begin)
    try:
        yield
    finally:
        _run(host, folder, end)


@contextmanager
def full_run(host: str) -> Iterator[None]:
    """/run is full, until the end."""
    fill_run(host)
    try:
        yield
    finally:
        empty_run(host)


def fill_run(host: str) -> None:
    """/run is memory, on any host: it gets no more than what is used."""
    _run(host, "/run", f"mount -o remount,size=8m /run && {KINDS['full'][0]}")


def empty_run(host: str) -> None:
    """/run has room again."""
    _run(host, "/run", f"{KINDS['full'][1]}; mount -o remount,size=20% /run")


def _run(host: str, folder: str, script: str) -> None:
    lab_hosts.run(host, f"at={folder}\n{script}", timeout=120)
