"""Which keys nginx sends on, read from what `nginx -T` prints: the script runs on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from shlex import quote

import pytest

from tests.unit.fleets import both, fleet
from tests.unit.here import Here
from tests.unit.samples import CODER, QWEN, settings
from tests.unit.test_edge_conf import KEYS
from vllm_hosts.errors import HostError
from vllm_hosts.host.files import File
from vllm_hosts.host.paths import EDGE_CONF, EDGE_FOLDER
from vllm_hosts.keys import HostKeys
from vllm_hosts.roles.client_keys.plan import key_entries
from vllm_hosts.roles.nginx.plan import NginxVersion, edge_entries
from vllm_hosts.suite import nginx_forwarded, nginx_maps
from vllm_hosts.suite.nginx_forwarded import places_that_forward_keys, places_that_forward_names

SETTINGS = settings(agents=[QWEN, CODER], edge={"cors_origins": ["https://app.example.com"]})
FILES = {
    "/etc/nginx/nginx.conf": "events { }\nhttp {\n    include conf.d/*.conf; # ours\n}\n",
    "/etc/nginx/conf.d/lab.conf": "server { location / { proxy_pass http://127.0.0.1:3000; } }\n",
} | {
    entry.path: entry.content.decode()
    for entry in [
        *edge_entries(SETTINGS, KEYS, NginxVersion((1, 26, 3), (3, 5, 0))),
        *key_entries([agent.name for agent in SETTINGS.agents], KEYS.clients),
    ]
    if isinstance(entry, File)
}
UPSTREAM = f"{EDGE_FOLDER}/upstream.conf"


@pytest.fixture
def here(tmp_path: Path) -> Here:
    return Here(tmp_path)


def said(here: Here, path: str = "", old: str = "", new: str = "") -> list[str]:
    """What the script makes of the edge's configuration, with one text in one file replaced."""
    assert not path or old in FILES[path]
    return shown(here, FILES | ({path: FILES[path].replace(old, new, 1)} if path else {}))


def shown(here: Here, files: Mapping[str, str]) -> list[str]:
    text = "".join(f"# configuration file {name}:\n{text}\n" for name, text in files.items())
    here.program("nginx", f"cat <<'end of it'\n{text}\nend of it")
    return here.check_output(f"bash -c {quote(nginx_forwarded.SCRIPT)}").splitlines()


def test_the_edge_sends_no_client_s_key_on(here: Here) -> None:
    found = said(here)
    assert places_that_forward_keys(found) == []
    assert not any("KEY" in line.replace("keys", "") for line in found)


@pytest.mark.parametrize(
    ("path", "old", "new"),
    [
        (UPSTREAM, 'proxy_set_header X-Api-Key "";', ""),
        (UPSTREAM, 'X-Api-Key ""', "X-Api-Key $http_x_api_key"),
        (UPSTREAM, '"Bearer $vllm_hosts_internal"', "$http_authorization"),
        (EDGE_CONF, f"include {EDGE_FOLDER}/upstream.conf;", ""),
    ],
)
def test_a_header_that_is_not_replaced(here: Here, path: str, old: str, new: str) -> None:
    found = places_that_forward_keys(said(here, path, old, new))
    assert "location = /./by-model" in found and "location = /coder/v1/messages" in found
    assert "location = /./agent" not in found, "which sends no header of a client's"


@pytest.mark.parametrize("line", ["proxy_set_header X-Lab 1;", "if ($x) { proxy_set_header A b; }"])
def test_a_location_with_headers_of_its_own(here: Here, line: str) -> None:
    before = "location = /coder/v1/messages {"
    found = places_that_forward_keys(said(here, EDGE_CONF, before, f"{before}\n        {line}"))
    assert found == (["location = /coder/v1/messages"] if line.startswith("proxy") else [])


def test_headers_that_stay_on_another_way(here: Here) -> None:
    found = said(here, EDGE_CONF, "proxy_pass_request_headers off;", "")
    assert places_that_forward_keys(found) == ["location = /./agent"]


def test_another_s_location_that_asks_an_agent(here: Here) -> None:
    lab = "/etc/nginx/conf.d/lab.conf"
    found = said(here, lab, "127.0.0.1:3000", "vllm_hosts_qwen")
    assert places_that_forward_keys(found) == ["location /"]


def test_an_nginx_that_cannot_say_is_not_checked(here: Here) -> None:
    for text in ([], ["end"], ["file /etc/nginx/nginx.conf", "end"], ["file x", "open server"]):
        with pytest.raises(HostError, match="is the edge installed"):
            places_that_forward_keys(text)


def of_host(name: str) -> dict[str, str]:
    """What nginx shows of a host of a fleet."""
    host = (fleet() | both())[name]
    keys = HostKeys(KEYS.internal, KEYS.clients, None, front=KEYS.internal)
    return {
        "/etc/nginx/nginx.conf": "events { }\nhttp {\n    include conf.d/*.conf; # ours\n}\n"
    } | {
        entry.path: entry.content.decode()
        for entry in edge_entries(host, keys, NginxVersion((1, 26, 3), (3, 5, 0)))
        if isinstance(entry, File)
    }


@pytest.mark.parametrize("name", ["gw1", "gpu1"])
def test_no_client_says_who_it_is(here: Here, name: str) -> None:
    files, gateway = of_host(name), name == "gw1"
    found = shown(here, files)
    assert places_that_forward_names(found, gateway=gateway) == []
    assert places_that_forward_keys(found) == []
    # A gateway's own way would let agents see it, and a host's would tell hosts nothing.
    assert places_that_forward_names(found, gateway=not gateway)


@pytest.mark.parametrize(
    ("name", "file", "old"),
    [
        ("gw1", "upstream.conf", "proxy_set_header X-Vllm-Hosts-Client $vllm_hosts_client;"),
        ("gw1", "upstream.conf", "proxy_set_header X-Vllm-Hosts-Affinity $vllm_hosts_affinity;"),
        ("gpu1", "upstream.conf", 'proxy_set_header X-Vllm-Hosts-Client "";'),
        ("gpu1", "inner.conf", 'proxy_set_header X-Vllm-Hosts-Client "";'),
        ("gpu1", "inner.conf", 'proxy_set_header X-Vllm-Hosts-Affinity "";'),
    ],
)
@pytest.mark.parametrize("how", ["", "proxy_set_header X-Vllm-Hosts-Client $http_x_who;"])
def test_a_name_that_a_client_gave_itself(
    here: Here, name: str, file: str, old: str, how: str
) -> None:
    files, path = of_host(name), f"{EDGE_FOLDER}/{file}"
    assert old in files[path]
    files[path] = files[path].replace(old, how)
    assert places_that_forward_names(shown(here, files), gateway=name == "gw1")


def test_each_side_of_a_machine_that_is_both(here: Here) -> None:
    files = of_host("one")
    found = shown(here, files)
    assert places_that_forward_names(found, gateway=True, agents=True) == []
    assert places_that_forward_keys(found) == []
    # Neither side's rules are the other one's.
    assert places_that_forward_names(found, gateway=True)
    assert places_that_forward_names(found, gateway=False, agents=True)
    for file, old in {
        "upstream.conf": "$vllm_hosts_client;",
        "inner.conf": 'proxy_set_header X-Vllm-Hosts-Client "";',
    }.items():
        path = f"{EDGE_FOLDER}/{file}"
        assert old in files[path]
        broken = files | {path: files[path].replace(old, "$http_x_vllm_hosts_client;", 1)}
        assert places_that_forward_names(shown(here, broken), gateway=True, agents=True), file


def test_what_only_gateways_send_is_not_sent_to_agents(here: Here) -> None:
    """As somebody would who takes the two for one."""
    files, path = of_host("one"), f"{EDGE_FOLDER}/inner.conf"
    old, new = 'X-Vllm-Hosts-Client "";', "X-Vllm-Hosts-Client $vllm_hosts_client;"
    broken = files | {path: files[path].replace(old, new)}
    assert places_that_forward_names(shown(here, broken), gateway=True, agents=True)


def test_who_is_let_in_by_a_machine_that_is_both(here: Here) -> None:
    """The rules for gateways let no key in."""
    files = of_host("one") | {
        entry.path: entry.content.decode()
        for entry in key_entries(["qwen", "coder"], KEYS.clients)
        if isinstance(entry, File)
    }
    # nginx shows none of what its workers run.
    shown(here, {path: text for path, text in files.items() if not path.endswith(".lua")})
    entries = here.check_output(f"bash -c {quote(nginx_maps.SCRIPT)}").splitlines()
    assert nginx_maps.strange(entries) == []
    assert sorted({client for _, client in nginx_maps.clients(entries)}) == ["alice", "bob"]
    assert nginx_maps.refused(entries) == {("coder", "bob")}
