"""Merges settings into Docker's daemon.json without losing anybody else's."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vllm_hosts.bounded import parse_json
from vllm_hosts.errors import HostError

#: Docker's settings, which may be somebody's in part.
PATH = "/etc/docker/daemon.json"
#: Docker looks for this program only when it starts, to register its GPU driver.
HOOK = "/usr/bin/nvidia-container-runtime-hook"
#: What it reads at no other time. Who asks about one asks about all: it is one question then.
READ_AT_START = (PATH, HOOK)
Json = dict[str, Any]


def merged(
    existing: bytes | None, wanted: Callable[[Mapping[str, Any]], Mapping[str, Any]]
) -> bytes | None:
    """The new text of the file, or None if the file already has everything.

    ``wanted`` gets what the file holds now, and returns what it should hold. Objects are merged key
    by key, everything else is replaced. Keys that it does not name stay, in their order. A missing
    or empty file counts as ``{}``.

    :raises HostError: the file is not a JSON object; it is left as it is.
    """
    current = _parsed(existing)
    target = _merge(current, wanted(current))
    if existing is not None and target == current:
        return None
    return (json.dumps(target, indent=4) + "\n").encode()


#: Where the keys stand that deploys set; what else is in the file is somebody's own.
OURS = (
    ("live-restore",),
    ("ip",),
    ("default-network-opts", "bridge", "com.docker.network.bridge.host_binding_ipv4"),
    ("log-opts", "max-size"),
    ("log-opts", "max-file"),
    ("runtimes", "nvidia", "args"),
    ("runtimes", "nvidia", "path"),
)
_NOTHING = object()


def restored(now: bytes | None, before: bytes | None, deployed: bytes | None) -> bytes | None:
    """The file with our keys as they were before us; None: it is not to be there.

    A key that somebody has changed since the last deploy is theirs, and stays.

    :param before: the file before us, and ``deployed`` as the last deploy left it; None: no file.
    :raises HostError: one of them is not a JSON object.
    """
    if now is None:
        return None
    current, old, ours = _parsed(now), _parsed(before), _parsed(deployed)
    for path in OURS:
        value = _at(current, path)
        if value is not _NOTHING and value == _at(ours, path):
            _set(current, path, _at(old, path), old)
    if current == old:
        return before
    return (json.dumps(current, indent=4) + "\n").encode()


def _at(value: object, path: Sequence[str]) -> object:
    for key in path:
        if not isinstance(value, Mapping) or key not in value:
            return _NOTHING
        value = value[key]
    return value


def _set(current: Json, path: Sequence[str], value: object, old: Json) -> None:
    """Give a key its old value, or take it away, with objects that are empty then."""
    *parents, key = path
    inside = [current]
    for name in parents:
        inside.append(inside[-1][name])
    if value is not _NOTHING:
        inside[-1][key] = value
        return
    del inside[-1][key]
    for depth in range(len(parents), 0, -1):
        if not inside[depth] and _at(old, parents[:depth]) is _NOTHING:
            del inside[depth - 1][parents[depth - 1]]


def _parsed(existing: bytes | None) -> Json:
    if existing is None or not existing.strip():
        return {}
    try:
        value = parse_json(existing)
    except ValueError as error:
        raise HostError(
            f"/etc/docker/daemon.json is not JSON ({error}); repair it or move it away"
        ) from error
    if not isinstance(value, dict):
        raise HostError("/etc/docker/daemon.json is not a JSON object; repair it or move it away")
    return value


def _merge(current: Json, wanted: Mapping[str, Any]) -> Json:
    result = dict(current)
    for key, value in wanted.items():
        old = result.get(key)
        result[key] = (
            _merge(old if isinstance(old, dict) else {}, value)
            if isinstance(value, Mapping)
            else value
        )
    return result
