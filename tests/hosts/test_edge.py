"""The edge, as clients and strangers on the controller meet it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from pydantic import SecretStr
from testinfra.host import Host

from vllm_hosts.errors import HostError
from vllm_hosts.host import probe
from vllm_hosts.settings import Agent, HostSettings
from vllm_hosts.suite.conftest import Edge
from vllm_hosts.suite.looks import Outside, edge_statuses
from vllm_hosts.suite.promise import BrokenError, promise, unit_runs

#: Routes of vLLM that clients have no business with; several of them ask for no key.
CLOSED = (
    "/metrics",
    "/docs",
    "/openapi.json",
    "/invocations",
    "/tokenize",
    "/detokenize",
    "/version",
    "/ping",
    "/pulse",
    "/sleep",
    "/reset_prefix_cache",
    "/collective_rpc",
    "/v1/load_lora_adapter",
    "/v1/models/",
    "//v1/models",
    "/v1/../metrics",
    "/v1/%2e%2e/metrics",
)
#: Ways to write the path of an API that two programs could read differently.
DISGUISED = (
    "/%761/models",
    "/v1/%6dodels",
    "/v1/./models",
    "/v1/x/../models",
    "/v1/x%2f..%2fmodels",
    "/v1/%2e/models",
    "/v1%2fmodels",
    "/v1/models%0a",
    "/v1/responses/x%0a",
)
#: The edge may serve this to browsers, whatever its agents do.
_PLAIN_HEADERS = {
    "server",
    "date",
    "content-type",
    "content-length",
    "connection",
    "strict-transport-security",
    "vary",
    "access-control-allow-origin",
}


@promise("EDGE-01")
def test_nginx_runs_now_and_at_boot(host: Host, settings: HostSettings) -> None:
    unit_runs(host, "nginx")
    if host.run("nginx -t").failed:
        raise BrokenError("nginx -t rejects the configuration")


@promise("EDGE-02")
def test_no_key_is_401(agent: Agent, edge: Edge) -> None:
    answer = edge.ask(f"/{agent.name}/v1/models")
    assert answer.status == 401
    assert answer.json()["error"]["code"] == "invalid_api_key"  # type: ignore[index]
    # And nobody learns which agents there are.
    nobody = edge.ask("/no-such-agent/v1/models")
    assert (nobody.status, nobody.body) == (answer.status, answer.body)
    assert set(nobody.headers) == set(answer.headers)


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
    others = {
        how: edge.ask(f"/{agent.name}/v1/models", headers=headers).status
        for how, headers in _in_headers(edge.key.get_secret_value()).items()
    }
    assert others == dict.fromkeys(others, 401)


def _in_headers(key: str) -> dict[str, dict[str, str]]:
    """Headers that bring no valid key, or a valid one beside another."""
    wrong = {how: {"X-Api-Key": change(key)} for how, change in WRONG.items()}
    bearer = f"Bearer {key}"
    return wrong | {
        "a valid key and another": {"Authorization": bearer, "X-Api-Key": "x" * len(key)},
        "another and a valid key": {"Authorization": "Bearer x", "X-Api-Key": key},
        "a scheme in the other header": {"X-Api-Key": bearer},
        "no scheme": {"Authorization": key},
    }


@promise("EDGE-04")
def test_the_right_key_is_200_and_names_the_model(agent: Agent, edge: Edge) -> None:
    answer = edge.ask(f"/{agent.name}/v1/models", key=edge.key)
    assert answer.status == 200
    found = answer.json()
    if not isinstance(found, dict):
        raise BrokenError("the list of models is no JSON object")
    assert [model["id"] for model in found["data"]] == [agent.client_model_name]
    key = edge.key.get_secret_value()
    ways = {"X-Api-Key": key}, {"Authorization": f"bearer {key}"}
    statuses = {
        name: edge.ask(f"/{agent.name}/v1/models", headers=headers).status
        for headers in ways
        for name in headers
    }
    assert statuses == {"X-Api-Key": 200, "Authorization": 200}


@promise("EDGE-05")
def test_agents_answer_at_v1(settings: HostSettings, edge: Edge) -> None:
    answer = edge.ask("/v1/models", key=edge.key)
    assert answer.status == 200
    found = answer.json()
    if not isinstance(found, dict):
        raise BrokenError("the list of models is no JSON object")
    listed = [model["id"] for model in found["data"]]
    if not edge.settings.chooses_by_model:
        assert listed[:1] == [edge.settings.agents[0].client_model_name]
        return
    assert listed == list(edge.settings.model_names)
    # An agent refuses what is asked of it. The edge's own refusals have codes, vLLM's numbers.
    statuses = {name: edge.ask_for(name, key=edge.key).status for name in listed}
    assert {name: one for name, one in statuses.items() if one in (401, 403, 404, 503)} == {}
    answer = edge.ask_for("no-such-model", key=edge.key)
    assert answer.status == 404
    assert answer.json()["error"]["code"] == "model_not_found"  # type: ignore[index]


@promise("EDGE-06")
def test_everything_else_is_404_even_with_a_key(settings: HostSettings, edge: Edge) -> None:
    prefixes = ["", *(f"/{agent.name}" for agent in edge.settings.agents)]
    paths = [prefix + path for prefix in prefixes for path in CLOSED]
    paths += [f"{prefix}/health" for prefix in prefixes[1:]]
    wrong = {}
    for path in paths:
        for method in ("GET", "POST"):
            for key, expected in ((None, 401), (edge.key, 404)):
                status = edge.ask(path, key=key, method=method).status
                if status != expected:
                    wrong[f"{method} {path} {'with' if key else 'without'} a key"] = status
    assert wrong == {}


@promise("EDGE-07")
def test_plain_http_only_redirects(settings: HostSettings) -> None:
    answer = probe.get(settings.address, settings.edge.http_port, "/v1/models?x=1", name=None)
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
def test_encoded_and_doubled_paths_find_nothing(
    settings: HostSettings, edge: Edge, outside: Outside
) -> None:
    # Without a key all paths look the same, so what would be found is asked with one.
    answers = {path: edge.ask(path, key=edge.key).status for path in DISGUISED}
    assert {path: status for path, status in answers.items() if status != 404} == {}
    assert outside.not_refused("EDGE-14") == []


@promise("EDGE-15")
def test_refused_requests_are_limited_by_source(settings: HostSettings, edge: Edge) -> None:
    statuses = Counter(
        status for _ in range(4) for status in edge_statuses(settings, "/no-such-path", 80)
    )
    if statuses[429] <= 0:
        raise BrokenError(f"no request was refused with 429: {dict(statuses)}")
    # A client on the same machine is not.
    assert edge.ask_once("/v1/models", key=edge.key).status != 429


@promise("EDGE-16")
def test_the_health_path_says_only_up_or_down(settings: HostSettings, edge: Edge) -> None:
    answer = edge.ask("/health")
    expected = {200: {"status": "up"}, 503: {"status": "down"}}
    if answer.json() != expected.get(answer.status):
        raise BrokenError(f"the answer to {answer.status} is {answer.json()}")
    more = {name.lower() for name in answer.headers} - _PLAIN_HEADERS
    assert more == set()
    assert answer.headers["Server"] == "nginx"
    assert edge.ask("/health", method="POST").status == 401


@promise("EDGE-17")
def test_the_edge_has_connections_for_all_its_clients(host: Host, settings: HostSettings) -> None:
    # What a whole configuration holds are keys too: only these two lines leave the host.
    said = host.check_output(
        "nginx -T 2>/dev/null | grep -vE '^[[:space:]]*#' |"
        " grep -oE 'worker_(connections|rlimit_nofile)[[:space:]]+[0-9]+'"
    )
    found = dict(line.split() for line in said.splitlines())
    # Each client's connections, and the agents' in their places; and as many as strangers may have.
    clients = 2 * settings.edge.connections * settings.edge.expected_clients
    assert int(found["worker_connections"]) >= clients + 4096
    files = host.check_output(
        "master=$(systemctl show -p MainPID --value nginx.service);"
        " for worker in $(cat /proc/$master/task/$master/children); do"
        " sed -n 's/^Max open files *\\([0-9]*\\) .*/\\1/p' /proc/$worker/limits; done"
    ).split()
    if not files:
        raise HostError("nginx has no worker; is it running?")
    assert min(map(int, files)) >= int(found["worker_connections"])


@promise("EDGE-18")
def test_no_client_chooses_whose_prefix_cache_it_is(settings: HostSettings, edge: Edge) -> None:
    if settings.edge.cache_isolation == "off":
        return
    # No vLLM takes that salt, and it says so; and it completes nothing with less than one token.
    body = {"cache_salt": "/", "prompt": "x", "input": [], "max_tokens": -1}
    passed = []
    for agent in edge.settings.agents:
        for path in ("/v1/completions", "/v1/embeddings", "/v1/score"):
            asked = body | {"model": agent.client_model_name}
            answer = edge.post(f"/{agent.name}{path}", asked, key=edge.key)
            if b"cache_salt" in answer.body:
                passed.append(f"/{agent.name}{path}")
    if passed:
        raise BrokenError(f"a client's own cache_salt reached {', '.join(passed)}")
