"""Bad settings: one clear sentence each, a non-zero exit, and nothing is connected to."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.stores import kept_ca
from tests.unit.bad_agents import BAD_AGENTS, agent
from tests.unit.projects import Project


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


#: What group_data/gpu_hosts.py sets -> the one sentence that has to come of it.
BAD: dict[str, tuple[dict[str, Any], str]] = {
    **BAD_AGENTS,
    "unknown setting": (
        {"edge": {"http_prot": 80}},
        "group_data/gpu_hosts.py: unknown setting edge.http_prot; did you mean 'http_port'?",
    ),
    "unknown section": (
        {"dcoker": {}},
        "group_data/gpu_hosts.py: unknown setting 'dcoker'; did you mean 'docker'?"
        " (data of your own: start it with x_)",
    ),
    "wrong type": (
        {"edge": {"https_port": "443"}},
        "group_data/gpu_hosts.py: edge.https_port must be a whole number, not '443'",
    ),
    "wrong type of a section": (
        {"edge": 443},
        "group_data/gpu_hosts.py: edge must be a dictionary, not 443",
    ),
    "driver mode": (
        {"nvidia": {"driver": "latest"}},
        "group_data/gpu_hosts.py: nvidia.driver must be 'present' or 'install', not 'latest'",
    ),
    "driver series": (
        {"nvidia": {"driver_series": 58}},
        "group_data/gpu_hosts.py: nvidia.driver_series must be at least 470, not 58",
    ),
    "driver version in the place of a series": (
        {"nvidia": {"driver_series": "580.95.05"}},
        "group_data/gpu_hosts.py: nvidia.driver_series must be a whole number, not '580.95.05'",
    ),
    "an agent's port for everybody": (
        {"firewall": {"extra_tcp_ports": [8001]}},
        "group_data/gpu_hosts.py: firewall.extra_tcp_ports has 8001, the port of agent 'one', which"
        " only the edge is to reach; remove it, or open it to named networks with the agent's"
        " expose",
    ),
    "the edge for some and for everybody": (
        {"edge": {"allow_from": ["10.0.0.0/8"]}, "firewall": {"extra_tcp_ports": [443]}},
        "group_data/gpu_hosts.py: firewall.extra_tcp_ports opens 443 (edge.https_port) to"
        " everybody, which edge.allow_from closes; remove one of them",
    ),
    "port of the edge": (
        {"agents": [agent(port=8443)], "edge": {"https_port": 8443}},
        "group_data/gpu_hosts.py: agent 'one' has port 8443, which is edge.https_port; give it"
        " another",
    ),
    "a token in the clear": (
        {
            "hub": {"endpoint": "http://mirror.example"},
            "secrets": {"hf_token_command": "printf secret-value"},
        },
        "group_data/gpu_hosts.py: hub.endpoint http://mirror.example would get the Hugging Face"
        " token in the clear; use https, or remove the token from secrets",
    ),
    "a URL with a command": (
        {"hub": {"endpoint": "https://mirror.example/$(id)"}},
        "group_data/gpu_hosts.py: hub.endpoint: 'https://mirror.example/$(id)' is not a URL such as"
        " 'https://example.org/archive', made of letters, digits and . _ ~ : / @ % + , = [ ] -",
    ),
    "old vLLM": (
        {"vllm": {"image": "vllm/vllm-openai:v0.19.1"}},
        "group_data/gpu_hosts.py: vllm: vLLM 0.19.1 has known vulnerabilities that bypass its key;"
        " use 0.32.0 or newer",
    ),
    "moving tag": (
        {"vllm": {"image": "vllm/vllm-openai:latest"}},
        "group_data/gpu_hosts.py: vllm.image: 'vllm/vllm-openai:latest' can change without notice;"
        " name an exact tag such as ':v0.33.0' or a digest",
    ),
    "version unknown": (
        {"vllm": {"image": "registry.example/vllm@sha256:" + "a" * 64}},
        "group_data/gpu_hosts.py: vllm: the version of vLLM cannot be read from"
        f" 'registry.example/vllm@sha256:{'a' * 64}'; set vllm.version, such as '0.33.0'",
    ),
    "certificate missing": (
        {"tls": {"mode": "files", "certificate": "no.pem", "key": "no.key"}},
        "tls.certificate no.pem cannot be read: No such file or directory",
    ),
    "CA file missing": (
        {"tls": {"mode": "local-ca", "ca_file": "ca.pem"}},
        "group_data/gpu_hosts.py: tls: tls.ca_file is only for tls.mode = 'files',"
        " and here it is 'local-ca'; remove tls.ca_file, or set tls.mode",
    ),
    "certificate not named": (
        {"tls": {"mode": "files", "key": "no.key"}},
        "group_data/gpu_hosts.py: tls: tls.mode is 'files' but tls.certificate names no file;"
        " set it, or tls.mode = 'local-ca'",
    ),
    "network with host bits": (
        {"edge": {"allow_from": ["10.0.0.1/8"]}},
        "group_data/gpu_hosts.py: edge.allow_from[0]: '10.0.0.1/8' is not a network;"
        " write it like '10.0.0.0/8', '192.0.2.7/32' or '2001:db8::/32'",
    ),
    "more connections than there can be": (
        {"edge": {"connections": 1024, "expected_clients": 500}},
        "group_data/gpu_hosts.py: edge: edge.connections times edge.expected_clients is 512000, and"
        " nginx is given room for at most 120000; lower one of them",
    ),
    "route without a key": (
        {"edge": {"routes": ["POST /tokenize"]}},
        "group_data/gpu_hosts.py: edge.routes: 'POST /tokenize' cannot be served: vLLM requires its"
        " key below /v1 /v2 /inference /cohere only; leave it out",
    ),
    "route that loads weights": (
        {"edge": {"routes": ["POST /v1/load_lora_adapter"]}},
        "group_data/gpu_hosts.py: edge.routes: 'POST /v1/load_lora_adapter' cannot be served: it"
        " lets clients load weights; leave it out",
    ),
    "route that climbs": (
        {"edge": {"routes": ["POST /v1/../metrics"]}},
        "group_data/gpu_hosts.py: edge.routes: 'POST /v1/../metrics' is not a route such as"
        " 'POST /v2/embed': GET or POST, a space, and a path of letters, digits and _ . -",
    ),
    "route that is served": (
        {"edge": {"routes": ["POST /v1/completions"]}},
        "group_data/gpu_hosts.py: edge.routes: 'POST /v1/completions' is not needed: the edge"
        " already serves that path, or a pattern that covers it; leave it out",
    ),
    "origin with a path": (
        {"edge": {"cors_origins": ["https://app.example.com/"]}},
        "group_data/gpu_hosts.py: edge.cors_origins[0]: 'https://app.example.com/' is not an origin"
        " such as 'https://app.example.com', in lower case and without a path",
    ),
    "token not set": (
        {"secrets": {"hf_token_env": "NO_SUCH_TOKEN"}},
        "secrets.hf_token_env names the environment variable NO_SUCH_TOKEN, which is not set;"
        " export it, or remove the setting",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_one_clear_sentence(project: Project, case: str) -> None:
    data, sentence = BAD[case]
    project.group(**data)
    done = project.check()
    assert done.returncode == 1, done.stdout
    said = [line.strip() for line in done.stdout.splitlines() if line.strip().startswith("- ")]
    assert said == [f"- {sentence} (on 192.0.2.1)"], done.stdout
    assert "secret-value" not in done.stdout
    assert "Traceback" not in done.stdout
    assert not (project.folder / "inventory" / ".vllm-hosts").exists(), "a key was made"


def test_an_empty_key(project: Project) -> None:
    project.environment = {"MY_KEY": ""}
    project.group(secrets={"internal_key_env": "MY_KEY"})
    done = project.check()
    assert done.returncode == 1
    assert "secrets.internal_key_env names the environment variable MY_KEY, which is empty" in (
        done.stdout
    )


def certificate(folder: Path, days_ago: int = 0) -> None:
    now = datetime.now(UTC) - timedelta(days=days_ago)
    issued = kept_ca(folder / "ca", "x", now).issue(["192.0.2.1"], 30, now)
    (folder / "cert.pem").write_bytes(issued.certificate_pem)
    (folder / "cert.key").write_bytes(issued.key_pem.get_secret_value())


FILES = {"mode": "files", "certificate": "cert.pem", "key": "cert.key"}


def test_certificate_files(project: Project) -> None:
    project.group(tls=FILES)
    certificate(project.folder)
    assert project.check().returncode == 0
    project.group(tls=FILES | {"ca_file": "no.pem"})
    assert "tls.ca_file no.pem cannot be read: No such file" in project.check().stdout
    project.group(tls=FILES)
    (project.folder / "other").mkdir()
    certificate(project.folder / "other")
    (project.folder / "other" / "cert.key").replace(project.folder / "cert.key")
    done = project.check()
    assert done.returncode == 1
    assert "tls.key cert.key is not the key of cert.pem" in done.stdout
    certificate(project.folder, days_ago=60)
    done = project.check()
    assert done.returncode == 1
    assert re.search(r"tls.certificate cert.pem expired on \d{4}-\d\d-\d\d", done.stdout)


def test_all_problems_are_said_at_once(project: Project) -> None:
    project.group(edge={"https_port": "443"}, docker={"sourc": 1})
    said = project.check().stdout
    assert said.count("\n  - ") == 2, said


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("gpu_hosts = [", "inventory/prod.py, line 1: '[' was never closed"),
        ("import no_such_module\n", "line 1: cannot be loaded: ModuleNotFoundError"),
        ("gpu_hosts = []\n", "has no hosts; add one to the group gpu_hosts"),
    ],
)
def test_an_inventory_that_cannot_be_used(project: Project, text: str, words: str) -> None:
    project.write("inventory/prod.py", text)
    done = project.check()
    assert done.returncode == 1
    assert words in done.stdout, done.stdout
    assert "Traceback" not in done.stdout


def test_an_inventory_that_is_not_there(project: Project) -> None:
    done = project.run("vllm-hosts", "check", "inventory/nope.py")
    assert done.returncode == 2
    assert "Error: inventory/nope.py is not a file; name an inventory" in done.stdout
