"""Who nginx lets in, read from what `nginx -T` prints: the script runs for real on this machine."""

from __future__ import annotations

import hashlib
from pathlib import Path
from shlex import quote

import pytest

from tests.unit.here import Here
from tests.unit.samples import settings
from vllm_hosts.errors import HostError
from vllm_hosts.roles.nginx.plan import NginxVersion, edge_conf
from vllm_hosts.suite import nginx_maps

FOLDER = "/etc/nginx/vllm-hosts"
CONF = {
    "/etc/nginx/nginx.conf": "http {\n    include /etc/nginx/conf.d/*.conf;\n}",
    "/etc/nginx/conf.d/vllm-hosts.conf": f"""
map "$http_x_api_key\\n$http_authorization" $vllm_hosts_presented {{
    default "";
    "~^\\n(?i:bearer) +(?<vllm_hosts_key>\\S+)\\z" "Bearer $vllm_hosts_key";
    "~^(?<vllm_hosts_key>\\S+)\\n\\z" "Bearer $vllm_hosts_key";
    "~^(?<vllm_hosts_key>\\S+)\\n(?i:bearer) +\\k<vllm_hosts_key>\\z" "Bearer $vllm_hosts_key";
}}
map $vllm_hosts_presented $vllm_hosts_entry {{
    default "";
    include {FOLDER}/clients*.map;
}}
map "$vllm_hosts_entry|$vllm_hosts_presented" $vllm_hosts_client {{
    default "";
    "~^([a-z0-9-]+) (.+)\\|\\2$" $1;
}}
proxy_set_header Authorization "Bearer $vllm_hosts_internal";
        add_header WWW-Authenticate Bearer always;
""",
    f"{FOLDER}/clients.map": """# Managed by vllm-hosts.
"Bearer key-1" "default Bearer key-1";
"Bearer key-2" "ci Bearer key-2"; # until 1800000000
""",
    f"{FOLDER}/scopes.map": '# Agents that a client may not use.\n"spare ci" 1;\n',
}


def digest(key: str) -> str:
    return hashlib.sha256(f"Bearer {key}".encode()).hexdigest()


GOOD = {(digest("key-1"), "default"), (digest("key-2"), "ci")}


@pytest.fixture
def here(tmp_path: Path) -> Here:
    return Here(tmp_path)


def entries(here: Here, **files: str) -> list[str]:
    """What the script makes of the good configuration with these files changed."""
    all_files = CONF | {name: text for name, text in files.items() if text}
    said = "".join(f"# configuration file {name}:\n{text}\n\n" for name, text in all_files.items())
    here.program("nginx", f"cat <<'end of it'\n{said}\nend of it")
    return here.check_output(f"bash -c {quote(nginx_maps.SCRIPT)}").splitlines()


def test_a_good_configuration(here: Here) -> None:
    found = entries(here)
    assert set(nginx_maps.clients(found)) == GOOD
    assert nginx_maps.strange(found) == []
    assert nginx_maps.refused(found) == {("spare", "ci")}
    assert not any("key-" in line for line in found)


@pytest.mark.parametrize("name", ["clients.map", "clients-lab.map"])
def test_a_key_that_was_added(here: Here, name: str) -> None:
    path = f"{FOLDER}/{name}"
    text = CONF.get(path, "") + '"Bearer x" "x Bearer x";\n'
    found = entries(here, **{path: text})
    assert set(nginx_maps.clients(found)) - GOOD == {(digest("x"), "x")}


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (f"{FOLDER}/clients.map", '"Basic x" "x Basic y";'),
        (f"{FOLDER}/clients.map", 'default "x ";'),
        (f"{FOLDER}/clients.map", '"~." "x ";'),
        (f"{FOLDER}/clients.map", "Bearer\\ x 'x Bearer x';"),
        ("/etc/nginx/conf.d/lab.conf", 'map $uri $x { "Bearer x" "x Bearer x"; }'),
        ("/etc/nginx/conf.d/lab.conf", 'map ${http_authorization} $x {\n"Bearer x" "x Bearer y";}'),
        ("/etc/nginx/conf.d/lab.conf", "map $http_authorization $x {\ninclude /srv/lab;\n}"),
        ("/etc/nginx/conf.d/lab.conf", 'map $http_X_Api_Key $x {\n"x" "x Bearer x";\n}'),
        ("/etc/nginx/conf.d/lab.conf", "map $vllm_hosts_presented $vllm_hosts_client {\n}"),
        ("/etc/nginx/conf.d/lab.conf", 'proxy_set_header Authorization "Bearer x";'),
    ],
)
def test_what_lets_somebody_in_otherwise(here: Here, path: str, text: str) -> None:
    found = entries(here, **{path: f"{CONF.get(path, '')}{text}\n"})
    assert nginx_maps.strange(found) != []
    assert not any("Bearer x" in line for line in found)


def test_an_entry_in_the_map_itself(here: Here) -> None:
    path = "/etc/nginx/conf.d/vllm-hosts.conf"
    text = CONF[path].replace('    default "";\n', '"Basic x" "x Basic x";\n', 1)
    found = entries(here, **{path: text})
    assert set(nginx_maps.clients(found)) == GOOD
    assert nginx_maps.strange(found) == [f"a rule for headers in {path}"]
    text = CONF[path].replace("    include", '    "Basic x" "x Basic x";\n    include', 1)
    found = entries(here, **{path: text})
    assert {client for _, client in nginx_maps.clients(found)} == {"default", "ci", "x"}


def test_the_rules_are_those_of_the_edge(here: Here) -> None:
    """What the edge is written with, and what this knows of it, come from two places."""
    written = edge_conf(settings(), NginxVersion((1, 26, 3), (3, 5, 0)))
    found = entries(here, **{"/etc/nginx/conf.d/vllm-hosts.conf": written})
    assert nginx_maps.strange(found) == []
    assert sum(line.startswith("rule ") for line in found) == 3


def test_a_host_of_an_earlier_version(here: Here) -> None:
    path = "/etc/nginx/conf.d/vllm-hosts.conf"
    old = CONF[path].partition("map $vllm_hosts_presented")[2].replace("presented", "http")
    found = entries(here, **{path: f"map $http_authorization{old}"})
    assert set(nginx_maps.clients(found)) == GOOD
    assert nginx_maps.strange(found) == [f"a rule for headers in {path}"]


def test_a_scope_that_says_otherwise(here: Here) -> None:
    found = entries(here, **{f"{FOLDER}/scopes.map": '"spare ci" 0;\n'})
    assert nginx_maps.refused(found) == {('"spare ci" 0;', "")}


def test_an_nginx_that_cannot_say_is_not_checked(here: Here) -> None:
    here.program("nginx", "exit 1")
    with pytest.raises(HostError):
        here.check_output(f"bash -c {quote(nginx_maps.SCRIPT)}")
    here.program("nginx", "echo '# configuration file /etc/nginx/nginx.conf:'")
    said = here.check_output(f"bash -c {quote(nginx_maps.SCRIPT)}").splitlines()
    with pytest.raises(HostError, match="is the edge installed"):
        nginx_maps.clients(said)
