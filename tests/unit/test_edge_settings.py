"""Settings of the edge, one by one: defaults, bounds, routes and groups of clients."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from vllm_hosts.settings.edge import SERVED, Edge


def refused(**values: Any) -> str:
    with pytest.raises(ValidationError) as error:
        Edge(**values)
    [problem] = error.value.errors()
    return problem["msg"].removeprefix("Value error, ")


def test_what_holds_where_nothing_is_set() -> None:
    found = Edge().model_dump()
    assert found == {
        "names": (),
        "https_port": 443,
        "http_port": 80,
        "allow_from": (),
        "max_body_size": "32m",
        "timeout": 3600,
        "requests_per_second": 20,
        "burst": 40,
        "connections": 128,
        "expected_clients": 32,
        "connections_per_source": 512,
        "routes": (),
        "by_model": True,
        "count_tokens": True,
        "cache_isolation": "client",
        "cache_groups": (),
        "cors_origins": (),
        "log_max_size": "64m",
        "log_max_files": 10,
        "log_reserve": "1g",
    }


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [
        ("timeout", 10, None),
        ("requests_per_second", 1, None),
        ("burst", 0, None),
        ("connections", 1, 4096),
        ("expected_clients", 1, 1000),
        ("connections_per_source", 16, None),
        ("log_max_files", 1, 1000),
    ],
)
def test_how_far_a_number_goes(name: str, least: int, most: int | None) -> None:
    # Each alone, so that the two of one product do not stand in each other's way.
    beside = {"connections": 1} if name == "expected_clients" else {"expected_clients": 1}
    given = {} if name in beside else beside
    assert getattr(Edge(**given, **{name: least}), name) == least  # type: ignore[arg-type]
    assert "greater than or equal" in refused(**given, **{name: least - 1})
    if most is not None:
        assert getattr(Edge(**given, **{name: most}), name) == most  # type: ignore[arg-type]
        assert "less than or equal" in refused(**given, **{name: most + 1})


def test_nginx_is_never_asked_for_more_connections_than_it_has_room_for() -> None:
    assert Edge(connections=120, expected_clients=1000).requests == 120_000
    assert refused(connections=121, expected_clients=1000) == (
        "edge.connections times edge.expected_clients is 121000, and nginx is given room for at"
        " most 120000; lower one of them"
    )


def test_the_port_that_redirects_is_another() -> None:
    assert refused(https_port=8080, http_port=8080) == (
        "edge.https_port and edge.http_port must differ"
    )


# Routes.


@pytest.mark.parametrize("route", ["POST /v2/embed", "GET /v1/a-b_c.d", "POST /cohere/x/y"])
def test_a_route_behind_the_key_of_vllm_may_be_added(route: str) -> None:
    assert Edge(routes=(route,)).routes == (route,)


@pytest.mark.parametrize(
    "route",
    [
        "POST /metrics",
        "GET /health",
        "GET /docs",
        "POST /v1",
        "POST /v10/chat",
        "GET /inference",
        "GET /x/v1/models",
        "POST /sleep",
        "POST /collective_rpc",
    ],
)
def test_no_route_is_served_for_which_vllm_asks_nobody_for_a_key(route: str) -> None:
    assert refused(routes=("POST /v2/embed", route)) == (
        f"{route!r} cannot be served: vLLM requires its key below /v1 /v2 /inference /cohere only;"
        " leave it out"
    )


@pytest.mark.parametrize("route", ["POST /v1/load_lora_adapter", "GET /v1/unload_lora_adapter"])
def test_clients_load_no_weights(route: str) -> None:
    assert refused(routes=(route,)) == (
        f"{route!r} cannot be served: it lets clients load weights; leave it out"
    )


@pytest.mark.parametrize(
    "route",
    [
        "",
        "/v1/x",
        "PUT /v1/x",
        "DELETE /v1/x",
        "post /v1/x",
        "POST  /v1/x",
        "POST /v1/x ",
        "POST /v1/x\n",
        "POST /v1/",
        "POST /v1//x",
        "POST /v1/../metrics",
        "POST /v1/./x",
        "POST /v1/x;",
        "POST /v1/x{",
        "POST /v1/%2e%2e/metrics",
        "POST /v1/x?y=1",
        "GET /v1/x$uri",
        "POST v1/x",
    ],
)
def test_a_route_is_a_plain_path_and_nothing_of_a_configuration(route: str) -> None:
    assert refused(routes=(route,)) == (
        f"{route!r} is not a route such as 'POST /v2/embed': GET or POST, a space, and a path of"
        " letters, digits and _ . -"
    )


@pytest.mark.parametrize(
    "path",
    [*(path for _, path in SERVED), "/v1/models/x", "/v1/responses/x", "/v1/responses/x/cancel"],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_what_the_edge_serves_is_not_served_twice(path: str, method: str) -> None:
    assert refused(routes=(f"{method} {path}",)) == (
        f"'{method} {path}' is not needed: the edge already serves that path, or a pattern that"
        " covers it; leave it out"
    )


def test_a_route_is_listed_once() -> None:
    twice = ("POST /v2/embed", "POST /v2/other", "POST /v2/embed")
    assert refused(routes=twice) == "'POST /v2/embed' is listed twice; remove one"
    assert refused(routes=("POST /v2/embed", "GET /v2/embed")) == (
        "'/v2/embed' is listed with two methods, and the edge accepts one; remove the other"
    )
    both = ("POST /v2/embed", "GET /v2/other")
    assert Edge(routes=both).routes == both


def test_what_clients_need_is_served_and_nothing_that_manages() -> None:
    assert (
        ("GET", "/v1/models"),
        *(
            ("POST", path)
            for path in (
                "/v1/chat/completions",
                "/v1/completions",
                "/v1/embeddings",
                "/v1/responses",
                "/v1/messages",
                "/v1/messages/count_tokens",
                "/v1/audio/transcriptions",
                "/v1/audio/translations",
                "/v1/rerank",
                "/v2/rerank",
                "/v1/score",
            )
        ),
    ) == SERVED


# Groups of clients, who can tell what the others of their group have asked.


def test_groups_as_users_write_them() -> None:
    wanted = (("alice", "bob"), ("c",))
    for given in ([["alice", "bob"], ["c"]], (("alice", "bob"), ["c"])):
        assert Edge.model_validate({"cache_groups": given}).cache_groups == wanted


@pytest.mark.parametrize("groups", ["alice", 5, ["alice"], [{"alice": 1}]])
def test_what_is_no_list_of_lists_is_no_group(groups: object) -> None:
    assert "valid tuple" in refused(cache_groups=groups)


@pytest.mark.parametrize(
    "client", ["", "Alice", "a_b", "-a", "a-", "a" * 65, "a\n", 'a"', "a b", "alice.h1"]
)
def test_a_group_names_clients_only(client: str) -> None:
    """Their names go into a map of nginx."""
    assert refused(cache_groups=[["bob"], ["carol", client]]) == (
        f"edge.cache_groups has {client!r}, which is no client's name; write it as vllm-hosts keys"
        " list shows it"
    )


@pytest.mark.parametrize("client", ["a", "9", "a-b", "a" * 64])
def test_names_of_clients(client: str) -> None:
    assert Edge(cache_groups=((client,),)).cache_groups == ((client,),)


@pytest.mark.parametrize("groups", [[["bob", "bob"]], [["bob"], ["alice", "bob"]]])
def test_nobody_joins_two_groups(groups: object) -> None:
    """Or what one group asks would show to the other."""
    assert refused(cache_groups=groups) == (
        "edge.cache_groups has 'bob' twice; leave it in one group only"
    )


def test_groups_where_everybody_shares() -> None:
    assert refused(cache_groups=[["bob"]], cache_isolation="off") == (
        "edge.cache_groups means nothing while edge.cache_isolation is 'off'; remove one of them"
    )
    assert Edge(cache_isolation="off").cache_groups == ()


@pytest.mark.parametrize(
    ("tokens", "isolation", "changes"),
    [(True, "client", True), (True, "off", True), (False, "client", True), (False, "off", False)],
)
def test_when_the_edge_adds_to_requests(tokens: bool, isolation: Any, changes: bool) -> None:
    assert Edge(count_tokens=tokens, cache_isolation=isolation).changes_requests is changes
