"""The edge's configuration: golden files, and what must be in every one of them."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import pytest
from pydantic import SecretStr

from tests.golden import check_golden
from tests.unit.samples import CODER, QWEN, settings
from vllm_hosts.host.files import File
from vllm_hosts.host.paths import EDGE_FOLDER as FOLDER
from vllm_hosts.keys import ClientKey, HostKeys
from vllm_hosts.roles.client_keys.plan import clients_map, key_entries, scopes_map
from vllm_hosts.roles.nginx.plan import (
    NginxVersion,
    edge_conf,
    edge_entries,
    included,
    parse_version,
)
from vllm_hosts.roles.secrets.plan import secret_entries
from vllm_hosts.settings import HostSettings

DEBIAN_13 = NginxVersion((1, 26, 3), (3, 5, 0))
UBUNTU_22 = NginxVersion((1, 18, 0), (3, 0, 2))
KEYS = HostKeys(
    internal=SecretStr("INTERNAL-KEY"),
    clients=(
        ClientKey("alice", SecretStr("KEY-A"), expires=datetime(2026, 12, 1, tzinfo=UTC)),
        ClientKey("alice", SecretStr("KEY-NEW")),
        ClientKey("bob", SecretStr("KEY-B"), agents=("qwen",)),
    ),
    hf_token=SecretStr("HF-TOKEN"),
)
PLAIN = settings(edge={"names": ["llm.example.com"]})
RICH = settings(
    agents=[QWEN, CODER],
    edge={
        "names": ["llm.example.com", "2001:db8::11"],
        "https_port": 8443,
        "http_port": 8080,
        "allow_from": ["10.0.0.0/8", "2001:db8::/32"],
    },
)
AGENTS = [agent.name for agent in RICH.agents]

#: What the edge sends to one of the agents.
INNER = KEYS.internal_of(RICH.agents[0].name).get_secret_value().encode()


OPEN = settings(
    agents=[QWEN | {"served_model_name": "Qwen/Qwen3-8B"}],
    edge={
        "names": ["llm.example.com"],
        "cors_origins": ["https://app.example.com", "http://localhost:3000"],
        "routes": ["POST /v2/embed", "POST /v1/chat/completions/render"],
    },
)


def files(chosen: NginxVersion = DEBIAN_13) -> dict[str, File]:
    entries = edge_entries(RICH, KEYS, chosen)
    entries += key_entries(AGENTS, KEYS.clients)
    return {entry.path: entry for entry in entries if isinstance(entry, File)}


def test_golden_one_agent() -> None:
    check_golden("nginx/one-agent.conf", edge_conf(PLAIN, DEBIAN_13))


def test_golden_two_agents_with_networks_and_an_old_nginx() -> None:
    check_golden("nginx/two-agents-nginx-1.18.conf", edge_conf(RICH, UBUNTU_22))


def test_golden_for_web_pages_and_with_further_routes() -> None:
    check_golden("nginx/with-web-pages.conf", edge_conf(OPEN, DEBIAN_13))
    texts = included(OPEN, DEBIAN_13)
    check_golden("nginx/checks-with-web-pages.conf", texts["checks"])
    check_golden("nginx/error-with-web-pages.conf", texts["error"])


def test_golden_what_is_included() -> None:
    texts = included(PLAIN, UBUNTU_22)
    for name in ("common", "checks", "refused", "error"):
        check_golden(f"nginx/{name}.conf", texts[name])


def test_golden_tls() -> None:
    check_golden("nginx/tls.conf", files()[f"{FOLDER}/tls.conf"].content.decode())
    check_golden(
        "nginx/tls-nginx-1.18.conf", files(UBUNTU_22)[f"{FOLDER}/tls.conf"].content.decode()
    )


def test_golden_files_with_keys() -> None:
    check_golden("client_keys/clients.map", clients_map(KEYS.clients))
    check_golden("client_keys/scopes.map", scopes_map(AGENTS, KEYS.clients))
    check_golden("nginx/upstream.conf", files()[f"{FOLDER}/upstream.conf"].content.decode())
    check_golden("nginx/internal.map", files()[f"{FOLDER}/internal.map"].content.decode())


def test_files_with_keys_are_for_root_and_never_shown() -> None:
    with_keys = [
        file
        for file in files().values()
        if re.search(rb"KEY-A|KEY-B|KEY-NEW", file.content) or INNER in file.content
    ]
    assert len(with_keys) == 2
    for file in with_keys:
        assert (file.mode, file.owner, file.secret) == (0o600, "root", True)
        assert "KEY" not in repr(file)


@pytest.mark.parametrize("chosen", [PLAIN, RICH, OPEN])
def test_every_proxied_path_is_written_out(chosen: HostSettings) -> None:
    text = edge_conf(chosen, DEBIAN_13)
    targets = re.findall(r"proxy_pass (\S+);", text)
    assert targets
    for target in targets:
        assert re.fullmatch(
            # Where the agent is chosen, a location of a written path has set the variable.
            r"http://\$vllm_hosts_target"
            r"(\$vllm_hosts_path|/(v1|v2)/[a-z_/]+(\$vllm_hosts_id(/cancel)?)?|/health)",
            target,
        ), target


@pytest.mark.parametrize("chosen", [PLAIN, RICH, OPEN])
def test_every_location_that_clients_reach_has_the_checks_first(chosen: HostSettings) -> None:
    text = edge_conf(chosen, DEBIAN_13)
    ours = text.rpartition("server {")[2]
    locations = re.findall(r"^    location (.+?) \{\n(.*?)^    \}", ours, re.M | re.S)
    assert len(locations) > 30
    for match, body in locations:
        lines = [line.strip() for line in body.splitlines()]
        if match.startswith(("@", "= /./")):
            # No client's path is that: named locations, and a dot that nginx resolves before.
            assert lines[0] in ("internal;", "access_log off;") or lines[0].startswith("include")
            continue
        lines = [line for line in lines if not line.startswith(("set $vllm_hosts_", "#"))]
        if match == "= /health":
            assert lines.pop(0) == "if ($vllm_hosts_health) { rewrite ^ /./health last; }"
        assert lines[0] == f"include {FOLDER}/checks.conf;", match
        assert "return" not in body, "it would answer before any limit"


def test_what_clients_send_is_looked_at_in_this_order() -> None:
    for chosen, more in ((PLAIN, []), (OPEN, ["204"])):
        text = included(chosen, DEBIAN_13)["checks"]
        order = re.findall(r"rewrite \^ /\./(\w+) last", text)
        assert [status.replace("preflight", "204") for status in order] == [
            "403",
            *more,
            "401",
            "404",
        ]


def test_no_regular_expression_takes_a_line_feed_at_its_end() -> None:
    for chosen in (PLAIN, RICH, OPEN):
        text = edge_conf(chosen, DEBIAN_13)
        patterns = re.findall(r'"~\*?(\S.*?)"[ ;]|location ~ "(.*?)" \{', text)
        assert len(patterns) > 4
        for pattern in ("".join(pair) for pair in patterns):
            assert not pattern.endswith("$"), pattern


def test_versions_are_read_from_what_nginx_prints() -> None:
    said = (
        "nginx version: nginx/1.22.1\nbuilt by gcc 12.2.0 (Debian 12.2.0-14)\n"
        "built with OpenSSL 3.0.8 7 Feb 2023 (running with OpenSSL 3.0.15 3 Sep 2024)\n"
    )
    assert parse_version(said) == NginxVersion((1, 22, 1), (3, 0, 15))


def test_env_holds_the_internal_key_and_the_token() -> None:
    [env] = [entry for entry in secret_entries(RICH, KEYS) if isinstance(entry, File)]
    assert (env.path, env.mode, env.owner, env.group) == ("/opt/vllm/.env", 0o600, "root", "root")
    lines = [line for line in env.content.decode().splitlines() if not line.startswith("#")]
    assert lines == [
        *(
            f"VLLM_API_KEY_{agent.name.upper()}={KEYS.internal_of(agent.name).get_secret_value()}"
            for agent in RICH.agents
        ),
        "HF_TOKEN=HF-TOKEN",
    ]
    assert "INTERNAL" not in env.content.decode(), "what keys are derived from left the controller"
    assert env.secret
    assert "KEY-A" not in env.content.decode(), "clients' keys belong to the edge alone"
