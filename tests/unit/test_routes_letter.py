"""Every path that the edge serves, the one method that it takes, and where that leads."""

from __future__ import annotations

import re
from dataclasses import FrozenInstanceError

import pytest

from tests.unit.samples import CODER, QWEN, gateway, settings
from vllm_hosts.roles.nginx import routes as routes_of
from vllm_hosts.roles.nginx.routes import (
    MODELS,
    ModelRoute,
    Route,
    browser_paths,
    chosen_paths,
    encoded_models,
    inner_routes,
    model_routes,
    prefixes,
    routes,
)
from vllm_hosts.settings.edge import SERVED

ONE = settings(edge={"routes": ["POST /v1/more", "GET /v1/extra"]})
UNCOUNTED = settings(edge={"count_tokens": False, "cache_isolation": "off"})
TOGETHER = settings(edge={"cache_isolation": "off"})
ASKED = ("/v1/chat/completions", "/v1/completions")
SALTED = (
    *("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"),
    *("/v1/embeddings", "/v1/rerank", "/v2/rerank", "/v1/score"),
)
ORG = QWEN | {"served_model_name": "org/m"}
TWO = settings(
    agents=[ORG | {"extra_args": ["--lora-modules", "sql=/x"]}, CODER],
    edge={"routes": ["POST /v1/more", "GET /v1/extra"]},
)
GATEWAY = gateway()
APART = settings(agents=[ORG, CODER], edge={"by_model": False})
WANTED = [*SERVED, ("POST", "/v1/more"), ("GET", "/v1/extra")]
ID = "(?<vllm_hosts_id>[A-Za-z0-9_-]{1,128})"


def fixed(prefix: str, agent: str) -> list[Route]:
    return [
        Route(
            f"= {prefix}{path}",
            method,
            agent,
            path,
            f"{prefix}{path}",
            adds=path in (*ASKED, *SALTED),
            counts=method == "POST",
        )
        for method, path in WANTED
    ]


def responses(prefix: str, agent: str) -> list[Route]:
    base, there = f'~ "^{prefix}/v1/responses/{ID}', "/v1/responses/$vllm_hosts_id"
    logged = f"{prefix}/v1/responses/ID"
    return [
        Route(f'{base}\\z"', "GET", agent, there, logged),
        Route(f'{base}/cancel\\z"', "POST", agent, f"{there}/cancel", f"{logged}/cancel"),
    ]


def test_what_gateways_ask_of_any_agent() -> None:
    assert list(inner_routes(ONE)) == [
        *(Route(f"= {path}", method, "", path, path) for method, path in WANTED),
        *responses("", ""),
    ]


def test_a_gateway_finds_out_who_made_a_response() -> None:
    plain = [route for route in routes(GATEWAY) if route.match.startswith("~")]
    assert plain[:2] == responses("", "")
    assert plain[2:4] == responses("/qwen", "qwen")


def test_where_keys_and_salts_are_added() -> None:
    assert ASKED == routes_of.ASKED and SALTED == routes_of.SALTED
    assert routes_of.RESPONSES == "/v1/responses"
    with pytest.raises(FrozenInstanceError):
        next(iter(routes(ONE))).path = "/"  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        ModelRoute("/", "a", "b").name = "c"  # type: ignore[misc]


def test_the_first_agent_needs_no_prefix() -> None:
    assert [(prefix, agent.name) for prefix, agent in prefixes(TWO)] == [
        ("", "qwen"), ("/qwen", "qwen"), ("/coder", "coder"),
    ]  # fmt: skip


def test_one_agent_is_served_everywhere() -> None:
    assert list(routes(ONE)) == [
        *fixed("", "qwen"), *responses("", "qwen"),
        *fixed("/qwen", "qwen"), *responses("/qwen", "qwen"),
    ]  # fmt: skip
    assert chosen_paths(ONE) == {}


def test_where_nobody_counts() -> None:
    assert {route.path for route in routes(TOGETHER) if route.adds} == {*ASKED}
    assert not any(route.adds or route.counts for route in routes(UNCOUNTED))


def test_where_the_model_chooses_no_agent_has_the_plain_paths() -> None:
    chosen = {path: "POST" for method, path in WANTED if method == "POST"} | {MODELS: "GET"}
    assert chosen_paths(TWO) == chosen
    assert list(routes(TWO)) == [
        Route("= /v1/extra", "GET", "qwen", "/v1/extra", "/v1/extra"), *responses("", "qwen"),
        *fixed("/qwen", "qwen"), *responses("/qwen", "qwen"),
        *fixed("/coder", "coder"), *responses("/coder", "coder"),
    ]  # fmt: skip
    assert chosen_paths(APART) == {}


def test_the_model_of_each_agent() -> None:
    own = [
        ModelRoute("/qwen/v1/models/org/m", "qwen", "org/m"),
        ModelRoute("/coder/v1/models/coder-14b", "coder", "coder-14b"),
    ]
    # Without a choice the first one answers where there is no prefix.
    assert not any(route.shared for route in (*own, *model_routes(APART)))
    assert model_routes(APART) == [ModelRoute("/v1/models/org/m", "qwen", "org/m"), *own]
    # With one each by its name, and adapters are not models of their own.
    assert model_routes(TWO) == [
        *own,
        ModelRoute("/v1/models/org/m", "qwen", "org/m", shared=False),
        ModelRoute("/v1/models/coder-14b", "coder", "coder-14b", shared=False),
    ]
    twin = {"model": "org/twin", "served_model_name": "twin", "gpus": []}
    twins = settings(agents=[twin | {"name": "aa", "port": 8001},
                             twin | {"name": "bb", "port": 8002}])  # fmt: skip
    assert model_routes(twins)[-1] == ModelRoute("/v1/models/twin", "aa", "twin", shared=True)


def test_names_as_openai_s_client_encodes_them() -> None:
    assert encoded_models(APART) == [
        ("/v1/models/org/m", "/v1/models/org%2Fm"),
        ("/qwen/v1/models/org/m", "/qwen/v1/models/org%2Fm"),
    ]


@pytest.mark.parametrize(
    ("path", "known"),
    [
        *((path, True) for _, path in WANTED),
        ("/any-0/v1/models", True),
        ("/v1/models/org/m", True),
        ("/a/v1/responses/x_Y-1", True),
        ("/v1/responses/x/cancel", True),
        (f"/v1/responses/{'x' * 129}", False),
        ("/v1/responses/", False),
        ("/v1/models/", False),
        ("/v1xmodels", False),
        ("/A/v1/models", False),
        ("/a/b/v1/models", False),
        ("/v1/other", False),
    ],
)
def test_what_a_browser_may_ask_about(path: str, known: bool) -> None:
    """The same on any host, whatever its agents are called."""
    assert bool(re.fullmatch(browser_paths(ONE), path)) is known
    assert browser_paths(ONE) == browser_paths(TWO)
    assert "qwen" not in browser_paths(ONE)
