"""Values of the rooms that only decide, and what hosts answered: nobody can change one."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from dataclasses import is_dataclass

import pytest

import vllm_hosts.facts
import vllm_hosts.host
import vllm_hosts.hub
import vllm_hosts.keys
import vllm_hosts.settings

ROOMS = (vllm_hosts.facts, vllm_hosts.host, vllm_hosts.hub, vllm_hosts.keys, vllm_hosts.settings)
#: fetch.py imports what only an agent's image needs to have, and takes long; generated.py writes
#: files, piece by piece; ahead.py keeps where a run is.
MODULES = [
    f"{room.__name__}.{module.name}"
    for room in ROOMS
    for module in pkgutil.iter_modules(room.__path__)
    if module.name not in ("fetch", "generated", "ahead")
]


@pytest.mark.parametrize("name", MODULES)
def test_every_dataclass_is_frozen(name: str) -> None:
    classes = vars(importlib.import_module(name)).values()
    own = [one for one in classes if inspect.isclass(one) and one.__module__ == name]
    loose = [
        one.__name__
        for one in own
        if is_dataclass(one) and not vars(one)["__dataclass_params__"].frozen
    ]
    assert loose == []
