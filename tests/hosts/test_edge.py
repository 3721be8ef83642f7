"""The edge, as clients and strangers on the controller meet it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from pydantic import SecretStr
from testinfra.host import Host

from tests.hosts.conftest import Edge
from vllm_hosts import probe
from vllm_hosts.settings import Agent, HostSettings

#: Routes of vLLM that clients have no business with; several of them ask for no key.
CLOSED = (
    "/metrics",
    "/docs",
    "/openapi.json",
    "/invocations",
    "/tokenize",
    "/detokenize",
    "/version",
    "/health",
    "/ping",
    "/sleep",
    "/reset_prefix_cache",
    "/collective_rpc",
    "/v1/load_lora_adapter",
    "/v1/models/",
    "//v1/models",
    "/v1/../metrics",
    "/v1/%2e%2e/metrics",
)


def test_nginx_runs_now_and_at_boot(host: Host, settings: HostSettings) -> None:
    assert host.service("nginx").is_running
    assert host.service("nginx").is_enabled
    assert host.run("nginx -t").succeeded


def test_no_key_is_401(agent: Agent, edge: Edge) -> None:
    answer = edge.ask(f"/{agent.name}/v1/models")
    assert answer.status == 401
    assert answer.json()["error"]["code"] == "invalid_api_key"  # type: ignore[index,call-overload]


#: Keys that are almost the right one.
WRONG: dict[str, Callable[[str], str]] = {
    "another": lambda key: "x" * len(key),
    "other case": str.swapcase,
    "cut short": lambda key: key[:-1],
    "with more": lambda key: f"{key} x",
}


@pytest.mark.parametrize("how", WRONG)
def test_a_wrong_key_is_401(agent: Agent, edge: Edge, how: str) -> None:
    key = SecretStr(WRONG[how](edge.key.get_secret_value()))
    assert edge.ask(f"/{agent.name}/v1/models", key=key).status == 401


def test_the_right_key_is_200_and_names_the_model(agent: Agent, edge: Edge) -> None:
    answer = edge.ask(f"/{agent.name}/v1/models", key=edge.key)
    assert answer.status == 200
    found = answer.json()
    assert isinstance(found, dict)
    assert [model["id"] for model in found["data"]] == [agent.client_model_name]


def test_the_first_agent_also_answers_at_v1(settings: HostSettings, edge: Edge) -> None:
    found = edge.ask("/v1/models", key=edge.key).json()
    assert isinstance(found, dict)
    assert [model["id"] for model in found["data"]] == [settings.agents[0].client_model_name]


@pytest.mark.parametrize("path", CLOSED)
def test_everything_else_is_404_even_with_a_key(
    settings: HostSettings, edge: Edge, path: str
) -> None:
    prefixes = ["", *(f"/{agent.name}" for agent in settings.agents)]
    answers = {
        (prefix + path, method, bool(key)): edge.ask(prefix + path, key=key, method=method).status
        for prefix in prefixes
        for method in ("GET", "POST")
        for key in (None, edge.key)
    }
    assert set(answers.values()) == {404}, answers


def test_plain_http_only_redirects(settings: HostSettings) -> None:
    answer = probe.ask(settings.address, settings.edge.http_port, "/v1/models?x=1", name=None)
    name = probe.host_header(settings.edge_names[0], settings.edge.https_port)
    assert (answer.status, answer.headers["Location"]) == (308, f"https://{name}/v1/models?x=1")


def test_answers_ask_browsers_to_stay_with_https(settings: HostSettings, edge: Edge) -> None:
    for path, key in (("/v1/models", edge.key), ("/v1/models", None), ("/metrics", None)):
        assert "max-age=63072000" in edge.ask(path, key=key).headers["Strict-Transport-Security"]
