"""The edge, as clients and strangers on the controller meet it."""

from __future__ import annotations

from collections.abc import Callable

from pydantic import SecretStr
from testinfra.host import Host

from tests.hosts.conftest import Edge
from tests.hosts.looks import Outside
from tests.hosts.promise import promise
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


@promise("EDGE-01")
def test_nginx_runs_now_and_at_boot(host: Host, settings: HostSettings) -> None:
    assert host.service("nginx").is_running
    assert host.service("nginx").is_enabled
    assert host.run("nginx -t").succeeded


@promise("EDGE-02")
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


@promise("EDGE-03")
def test_a_wrong_key_is_401(agent: Agent, edge: Edge) -> None:
    answers = {
        how: edge.ask(
            f"/{agent.name}/v1/models", key=SecretStr(change(edge.key.get_secret_value()))
        ).status
        for how, change in WRONG.items()
    }
    assert answers == dict.fromkeys(WRONG, 401)


@promise("EDGE-04")
def test_the_right_key_is_200_and_names_the_model(agent: Agent, edge: Edge) -> None:
    answer = edge.ask(f"/{agent.name}/v1/models", key=edge.key)
    assert answer.status == 200
    found = answer.json()
    assert isinstance(found, dict)
    assert [model["id"] for model in found["data"]] == [agent.client_model_name]


@promise("EDGE-05")
def test_the_first_agent_also_answers_at_v1(settings: HostSettings, edge: Edge) -> None:
    answer = edge.ask("/v1/models", key=edge.key)
    assert answer.status == 200
    found = answer.json()
    assert isinstance(found, dict)
    assert [model["id"] for model in found["data"]] == [settings.agents[0].client_model_name]


@promise("EDGE-06")
def test_everything_else_is_404_even_with_a_key(settings: HostSettings, edge: Edge) -> None:
    prefixes = ["", *(f"/{agent.name}" for agent in settings.agents)]
    answers = {
        f"{method} {prefix}{path} {'with' if key else 'without'} a key": edge.ask(
            prefix + path, key=key, method=method
        ).status
        for path in CLOSED
        for prefix in prefixes
        for method in ("GET", "POST")
        for key in (None, edge.key)
    }
    assert {what: status for what, status in answers.items() if status != 404} == {}


@promise("EDGE-07")
def test_plain_http_only_redirects(settings: HostSettings) -> None:
    answer = probe.ask(settings.address, settings.edge.http_port, "/v1/models?x=1", name=None)
    name = probe.host_header(settings.edge_names[0], settings.edge.https_port)
    location = answer.headers.get("Location")
    assert (answer.status, location) == (308, f"https://{name}/v1/models?x=1")


@promise("EDGE-08")
def test_plain_http_on_the_tls_port_is_refused(settings: HostSettings, outside: Outside) -> None:
    assert outside.not_refused("EDGE-08") == []


@promise("EDGE-09")
def test_another_name_finds_nothing(settings: HostSettings, outside: Outside) -> None:
    assert outside.not_refused("EDGE-09") == []


@promise("EDGE-10")
def test_oversized_headers_are_refused(settings: HostSettings, outside: Outside) -> None:
    assert outside.not_refused("EDGE-10") == []


@promise("EDGE-11")
def test_oversized_bodies_are_refused(settings: HostSettings, outside: Outside) -> None:
    assert outside.not_refused("EDGE-11") == []


@promise("EDGE-12")
def test_slow_clients_are_cut(settings: HostSettings, outside: Outside) -> None:
    assert outside.not_refused("EDGE-12") == []


@promise("EDGE-13")
def test_hidden_requests_are_refused(settings: HostSettings, outside: Outside) -> None:
    assert outside.not_refused("EDGE-13") == []


@promise("EDGE-14")
def test_encoded_and_doubled_paths_find_nothing(settings: HostSettings, outside: Outside) -> None:
    assert outside.not_refused("EDGE-14") == []
