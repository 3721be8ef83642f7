"""Merges settings into Docker's daemon.json without losing anybody else's."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from vllm_hosts.bounded import parse_json
from vllm_hosts.errors import HostError

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
