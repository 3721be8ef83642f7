"""Bad settings: one clear sentence each, a non-zero exit, and nothing is connected to."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.stores import kept_ca
from tests.unit.projects import AGENT, Project


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def agent(**changes: Any) -> dict[str, Any]:
    return {**AGENT, **changes}


def two(**changes: Any) -> list[dict[str, Any]]:
    return [AGENT, {"name": "two", "model": "org/model", "port": 8002, "gpus": [1], **changes}]


#: What group_data/gpu_hosts.py sets -> the one sentence that has to come of it.
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "unknown setting": (
        {"edge": {"http_prot": 80}},
        "group_data/gpu_hosts.py: unknown setting edge.http_prot; did you mean 'http_port'?",
    ),
    "unknown section": (
        {"dcoker": {}},
        "group_data/gpu_hosts.py: unknown setting 'dcoker'; did you mean 'docker'?"
        " (data of your own: start it with x_)",
    ),
    "unknown setting of an agent": (
        {"agents": [agent(max_modl_len=1)]},
        "group_data/gpu_hosts.py: unknown setting agents[0].max_modl_len;"
        " did you mean 'max_model_len'?",
    ),
    "wrong type": (
        {"edge": {"https_port": "443"}},
        "group_data/gpu_hosts.py: edge.https_port must be a whole number, not '443'",
    ),
    "wrong type of a list": (
        {"agents": [agent(gpus=0)]},
        "group_data/gpu_hosts.py: agents[0].gpus must be a list, not 0",
    ),
    "wrong type of a section": (
        {"edge": 443},
        "group_data/gpu_hosts.py: edge must be a dictionary, not 443",
    ),
    "missing": (
        {"agents": [{"name": "one", "port": 8001}]},
        "group_data/gpu_hosts.py: agents[0].model is missing; set it",
    ),
    "no agents": (
        {"agents": []},
        "group_data/gpu_hosts.py: agents is empty; add at least one agent",
    ),
    "duplicate name": (
        {"agents": two(name="one")},
        "group_data/gpu_hosts.py: two agents have the name 'one', agents[0] and agents[1];"
        " each needs its own",
    ),
    "duplicate port": (
        {"agents": two(port=8001)},
        "group_data/gpu_hosts.py: agents 'one' and 'two' both have port 8001; each needs its own",
    ),
    "low port": (
        {"agents": [agent(port=443)]},
        "group_data/gpu_hosts.py: agents[0].port must be at least 1024, not 443",
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
    "length in words": (
        {"agents": [agent(max_model_len="16 thousand")]},
        "group_data/gpu_hosts.py: agents[0].max_model_len: '16 thousand' is not a number of tokens;"
        " write 16384, or in vLLM's notation '16k' (16000) or '16K' (16384), or 'auto'",
    ),
    "half a length": (
        {"agents": [agent(max_model_len="1.5K")]},
        "group_data/gpu_hosts.py: agents[0].max_model_len: '1.5K' is not a number of tokens;"
        " write 16384, or in vLLM's notation '16k' (16000) or '16K' (16384), or 'auto'",
    ),
    "no length": (
        {"agents": [agent(max_model_len=0)]},
        "group_data/gpu_hosts.py: agents[0].max_model_len: 0 is not a number of tokens;"
        " write 16384, or in vLLM's notation '16k' (16000) or '16K' (16384), or 'auto'",
    ),
    "no length, in words": (
        {"agents": [agent(max_model_len="0k")]},
        "group_data/gpu_hosts.py: agents[0].max_model_len: '0k' is not a number of tokens;"
        " write 16384, or in vLLM's notation '16k' (16000) or '16K' (16384), or 'auto'",
    ),
    "an argument with its value": (
        {"agents": [agent(extra_args=["--max-num-seqs 64"])]},
        "group_data/gpu_hosts.py: agents[0].extra_args: --max-num-seqs and its value are in one"
        " word; write two, such as '--max-num-seqs', 'VALUE', or '--max-num-seqs=VALUE'",
    ),
    "an argument with a space behind it": (
        {"agents": [agent(extra_args=["--enforce-eager "])]},
        "group_data/gpu_hosts.py: agents[0].extra_args: '--enforce-eager ' has a space beside the"
        " argument; write '--enforce-eager'",
    ),
    "GPUs that would idle": (
        {"agents": [agent(gpus=[0, 1, 2], tensor_parallel_size=2)]},
        "group_data/gpu_hosts.py: agents[0]: tensor_parallel_size 2 uses 2 of the 3 GPUs that gpus"
        " names, and the rest would idle; name 2, or leave tensor_parallel_size out, or have"
        " extra_args use them (--pipeline-parallel-size, --data-parallel-size)",
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
    "too much of one GPU": (
        {"agents": two(gpus=[0], gpu_memory_utilization=0.5)},
        "group_data/gpu_hosts.py: agents 'one' (0.92) and 'two' (0.5) ask for 1.42 of GPU 0's"
        " memory; lower gpu_memory_utilization so that they add up to 1 or less",
    ),
    "utilization above 1": (
        {"agents": [agent(gpu_memory_utilization=1.5)]},
        "group_data/gpu_hosts.py: agents[0].gpu_memory_utilization must be at most 1, not 1.5",
    ),
    "api key": (
        {"agents": [agent(extra_args=["--api-key", "x"])]},
        "group_data/gpu_hosts.py: agents[0].extra_args: --api-key is refused:"
        " the key comes from .env, where `ps` cannot show it; leave it out",
    ),
    "api key, joined": (
        {"agents": [agent(extra_args=["--api_key=secret-value"])]},
        "group_data/gpu_hosts.py: agents[0].extra_args: --api_key is refused:"
        " the key comes from .env, where `ps` cannot show it; leave it out",
    ),
    "root path": (
        {"agents": [agent(extra_args=["--root-path=/v1"])]},
        "group_data/gpu_hosts.py: agents[0].extra_args: --root-path is refused:"
        " it turns authentication off; leave it out",
    ),
    "root path, abbreviated": (
        {"agents": [agent(extra_args=["--root=/v1"])]},
        "group_data/gpu_hosts.py: agents[0].extra_args: --root is refused:"
        " it turns authentication off; leave it out",
    ),
    "host": (
        {"agents": [agent(extra_args=["--host", "0.0.0.0"])]},
        "group_data/gpu_hosts.py: agents[0].extra_args: --host is refused:"
        " only 127.0.0.1 of the host reaches the container; leave it out",
    ),
    "port": (
        {"agents": [agent(extra_args=["--port", "80"])]},
        "group_data/gpu_hosts.py: agents[0].extra_args: --port is refused: set the agent's port",
    ),
    "revision of a folder": (
        {"agents": [agent(model="/srv/x", revision="main")]},
        "group_data/gpu_hosts.py: agents[0]: revision is for hub ids, and model /srv/x is a folder"
        " on the host; leave revision out",
    ),
    "not a revision": (
        {"agents": [agent(revision="../main")]},
        "group_data/gpu_hosts.py: agents[0].revision: '../main' is not a commit, a tag or a branch",
    ),
    "revision as an argument": (
        {"agents": [agent(extra_args=["--revision", "v1"])]},
        "group_data/gpu_hosts.py: agents[0].extra_args: --revision is refused: set revision",
    ),
    "token as an argument": (
        {"agents": [agent(extra_args=["--hf-token=secret-value"])]},
        "group_data/gpu_hosts.py: agents[0].extra_args: --hf-token is refused:"
        " set secrets.hf_token_env; an argument shows in `ps`",
    ),
    "a mirror for one agent": (
        {"agents": [agent(env={"HF_ENDPOINT": "https://mirror.example"})]},
        "group_data/gpu_hosts.py: agents[0].env: HF_ENDPOINT is refused:"
        " set hub.endpoint; models are fetched through it",
    ),
    "copy to a hub id": (
        {"agents": [agent(copy_from="/data/x")]},
        "group_data/gpu_hosts.py: agents[0]: copy_from needs a folder as model, such as"
        " '/srv/models/mine'; 'org/model' is a hub id",
    ),
    "copy of nothing": (
        {"agents": [agent(model="/srv/x", copy_from="no/such/folder")]},
        "copy_from no/such/folder is not a folder on the controller; correct it",
    ),
    "two sources of one folder": (
        {"agents": two(model="/srv/x", copy_from="/a")[1:] + [agent(model="/srv/x")]},
        "group_data/gpu_hosts.py: agents with the model /srv/x name different copy_from; give them"
        " the same, or folders of their own",
    ),
    "a token in the clear": (
        {
            "hub": {"endpoint": "http://mirror.example"},
            "secrets": {"hf_token_command": "printf secret-value"},
        },
        "group_data/gpu_hosts.py: hub.endpoint http://mirror.example would get the Hugging Face"
        " token in the clear; use https, or remove the token from secrets",
    ),
    "development mode": (
        {"agents": [agent(env={"VLLM_SERVER_DEV_MODE": "1"})]},
        "group_data/gpu_hosts.py: agents[0].env: VLLM_SERVER_DEV_MODE is refused:"
        " it opens control routes without a key; leave it out",
    ),
    "a risk without a word": (
        {"agents": [agent(extra_args=["--trust_remote_code"])]},
        "group_data/gpu_hosts.py: agents[0]: --trust-remote-code lets the model's authors run their"
        " code in the agent; if you want that, add '--trust-remote-code' to accepted_risks of agent"
        " 'one'",
    ),
    "GPUs in the environment": (
        {"agents": [agent(env={"CUDA_VISIBLE_DEVICES": "1"})]},
        "group_data/gpu_hosts.py: agents[0].env: CUDA_VISIBLE_DEVICES is refused: set gpus",
    ),
    "a token in the environment": (
        {"agents": [agent(env={"WANDB_API_KEY": "secret-value"})]},
        "group_data/gpu_hosts.py: agents[0].env: WANDB_API_KEY looks like a secret, which"
        " compose.yaml and `docker inspect` would show; take it out: the Hugging Face token"
        " goes into secrets.hf_token_env, and other secrets do not belong in an agent",
    ),
    "a limit that does not exist": (
        {"agents": [agent(request_limits={"choises": 4})]},
        "group_data/gpu_hosts.py: unknown setting agents[0].request_limits.choises;"
        " did you mean 'choices'?",
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
    assert done.returncode == 1
    assert "inventory/nope.py is not a file" in done.stdout
