"""Which names clients may write as `model`, and which are refused before anything connects."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from tests.unit.samples import CODER, QWEN, settings
from vllm_hosts.roles.nginx.routes import chosen_paths, model_routes

SHARED = {"served_model_name": "chat"}


def names(**values: object) -> dict[str, list[str]]:
    found = settings(**values).model_names
    return {name: [agent.name for agent in agents] for name, agents in found.items()}


def test_each_agent_has_its_name() -> None:
    assert names(agents=[QWEN, CODER]) == {"qwen": ["qwen"], "coder-14b": ["coder"]}


def test_agents_of_one_model_may_share_one() -> None:
    twins = [QWEN | SHARED, QWEN | SHARED | {"name": "two", "port": 8009, "gpus": [1]}]
    assert names(agents=twins) == {"chat": ["qwen", "two"]}
    [route] = [one for one in model_routes(settings(agents=twins)) if one.path == "/v1/models/chat"]
    assert route.shared


@pytest.mark.parametrize(
    "other", [{"model": "org/other"}, {"model": "Qwen/Qwen3-8B", "revision": "v2"}]
)
def test_agents_of_different_models_may_not(other: dict[str, str]) -> None:
    agents = [QWEN | SHARED, SHARED | {"name": "two", "port": 8009, "gpus": [1]} | other]
    with pytest.raises(ValidationError) as error:
        settings(agents=agents)
    assert (
        "agents 'qwen' and 'two' have different models and are both called 'chat' by clients, who"
        " choose by that name at /v1; give one another served_model_name, or set edge.by_model to"
        " False"
    ) in str(error.value)
    host = settings(agents=agents, edge={"by_model": False})
    assert chosen_paths(host) == {}


@pytest.mark.parametrize(
    ("arguments", "adapters"),
    [
        (["--enable-lora", "--lora-modules", "sql=/a", "x/y=/b", "--seed", "z=1"], ["sql", "x/y"]),
        (["--lora-modules=sql=/a"], ["sql"]),
        (["--lora_modules", json.dumps({"name": "sql", "path": "/a"})], ["sql"]),
        (["--lora-modules", "{", "[]", "a b=/c"], []),
        (["--seed", "a=b"], []),
    ],
)
def test_adapters_have_names_of_their_own(arguments: list[str], adapters: list[str]) -> None:
    host = settings(agents=[QWEN | {"extra_args": arguments}, CODER])
    assert list(host.agents[0].adapter_names) == adapters


def test_one_agent_is_not_chosen() -> None:
    host = settings()
    assert not host.chooses_by_model and chosen_paths(host) == {}
    assert chosen_paths(settings(agents=[QWEN, CODER]))["/v1/models"] == "GET"
