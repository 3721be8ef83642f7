"""What .env has while agents leave."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import SecretStr

from tests.unit.samples import behind
from vllm_hosts.facts.compose import ComposeHashes
from vllm_hosts.keys import HostKeys
from vllm_hosts.roles import secrets as role
from vllm_hosts.roles.secrets.plan import secret_entries


def test_agents_of_the_host_s_compose_yaml_keep_their_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    settings, keys = behind(), HostKeys(SecretStr("x" * 40), (), None)
    asked: list[Any] = []

    def look(fact: type, **given: object) -> Any:
        asked.append((fact, given))
        return SimpleNamespace(wanted={"left": "hash", settings.agents[0].name: "hash"})

    monkeypatch.setattr(role, "look", look)
    current: Any = SimpleNamespace(settings=settings, keys=keys)
    assert role._entries(current) == secret_entries(settings, keys, ["left"])
    assert role._entries(current) != secret_entries(settings, keys)
    assert asked[0] == (ComposeHashes, {"directory": settings.vllm.directory})
