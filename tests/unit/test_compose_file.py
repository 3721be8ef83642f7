"""The compose file: as text in golden files, and as Compose's own rules read it."""

from __future__ import annotations

import re
from ipaddress import IPv4Network, ip_address
from typing import Any

import pytest
import yaml

from tests.golden import check_golden
from tests.unit.samples import CODER, QWEN, settings
from vllm_hosts.host.files import Folder
from vllm_hosts.host.services import compose_entry, compose_file
from vllm_hosts.roles.vllm.plan import folders as agents_folders

#: Bytes of a host.
MEMORY = 125 << 30
#: An agent that asks the hub itself.
USERS = {"user": "1234:5678", "fetch_user": "1235:5678"}
ONLINE = {"env": {"HF_HUB_OFFLINE": "0"}, "egress": {"networks": ["192.0.2.0/24"]}}


def services(**values: Any) -> dict[str, Any]:
    found = yaml.safe_load(compose_file(settings(**values), MEMORY))["services"]
    assert isinstance(found, dict)
    return found


def test_golden_one_agent() -> None:
    check_golden("vllm/one-agent.yaml", compose_file(settings(), MEMORY))


def test_golden_two_agents() -> None:
    check_golden("vllm/two-agents.yaml", compose_file(settings(agents=[QWEN, CODER]), MEMORY))


def test_golden_without_gpu() -> None:
    agent = QWEN | {"gpus": [], "model": "/srv/models/tiny", "max_model_len": "auto"}
    check_golden("vllm/without-gpu.yaml", compose_file(settings(agents=[agent]), MEMORY))


def test_ports_are_published_on_loopback_only() -> None:
    for service in services(agents=[QWEN, CODER]).values():
        assert [port.rsplit(":", 2)[0] for port in service["ports"]] == ["127.0.0.1"]


def test_no_secret_and_no_key_flag_is_in_the_file() -> None:
    text = compose_file(settings(agents=[QWEN, CODER]), MEMORY)
    assert "api-key" not in text
    assert re.findall(r".*API_KEY.*", text) == [
        "      VLLM_API_KEY: ${VLLM_API_KEY_QWEN:?}",
        "      VLLM_API_KEY: ${VLLM_API_KEY_CODER:?}",
    ]
    assert "TOKEN" not in text


def test_the_hugging_face_token_is_only_named() -> None:
    agent = QWEN | ONLINE
    text = compose_file(settings(agents=[agent], secrets={"hf_token_env": "MY_TOKEN"}), MEMORY)
    assert re.findall(r".*TOKEN.*", text) == ["      HF_TOKEN: ${HF_TOKEN:?}"]


def test_an_agent_that_does_not_ask_the_hub_gets_no_token_for_it() -> None:
    given = services(
        agents=[QWEN, CODER],
        secrets={"hf_token_env": "MY_TOKEN"},
        hub={"endpoint": "https://mirror.example"},
    )
    for service in given.values():
        assert service["environment"]["HF_HUB_OFFLINE"] == "1"
        assert not {"HF_TOKEN", "HF_ENDPOINT"} & set(service["environment"])


def test_an_agent_that_may_ask_the_hub_asks_the_mirror() -> None:
    agent = QWEN | ONLINE
    environment = services(agents=[agent], hub={"endpoint": "https://mirror.example"})["qwen"][
        "environment"
    ]
    assert environment["HF_ENDPOINT"] == "https://mirror.example"
    assert environment["HF_HUB_OFFLINE"] == "0"


def test_containers_have_no_privileges() -> None:
    for service in services(agents=[QWEN, CODER]).values():
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert "privileged" not in service and "network_mode" not in service
        assert service["user"].split(":")[0] != "0"


def test_the_stop_is_longer_than_the_drain() -> None:
    service = services(vllm={"drain_timeout": 90})["qwen"]
    command = service["command"]
    drain = int(command[command.index("--shutdown-timeout") + 1])
    assert drain == 90
    assert int(service["stop_grace_period"].rstrip("s")) > drain


def test_dollar_signs_reach_vllm_as_they_were_written() -> None:
    words = services(agents=[CODER | {"extra_args": ["--x", "a$b ${HOME} 'q' \"d\""]}])["coder"]
    assert words["command"][-1] == "a$$b $${HOME} 'q' \"d\""


def test_gpus_are_asked_for_by_index_and_only_where_wanted() -> None:
    found = services(agents=[QWEN | {"gpus": []}, CODER])
    assert "deploy" not in found["qwen"]
    [device] = found["coder"]["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "device_ids": ["1", "2"], "capabilities": ["gpu"]}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"max_model_len": 4096}, ["--max-model-len", "4096"]),
        ({"gpu_memory_utilization": 0.5}, ["--gpu-memory-utilization", "0.5"]),
        ({"tool_call_parser": "hermes"}, ["--enable-auto-tool-choice", "--tool-call-parser"]),
        ({"prefix_caching": False}, ["--no-enable-prefix-caching"]),
        ({"quantization": "awq"}, ["--quantization", "awq"]),
        ({"gpus": [0, 1]}, ["--tensor-parallel-size", "2"]),
        ({"served_model_name": "q"}, ["--served-model-name", "q"]),
        ({"revision": "v2"}, ["Qwen/Qwen3-8B", "--served-model-name", "qwen", "--revision", "v2"]),
    ],
)
def test_each_setting_becomes_its_flag(change: dict[str, Any], words: list[str]) -> None:
    command = services(agents=[QWEN | change])["qwen"]["command"]
    assert any(command[at : at + len(words)] == words for at in range(len(command)))


def test_a_local_model_is_mounted_read_only() -> None:
    service = services(agents=[CODER])["coder"]
    mounts = {volume["target"]: volume for volume in service["volumes"]}
    assert mounts["/srv/models/coder"]["read_only"] is True


def test_an_agent_owns_its_own_folder_and_nothing_above_it() -> None:
    host = settings(agents=[QWEN, CODER], vllm=USERS)
    entries = [*agents_folders(host), compose_entry(host, MEMORY)]
    folders = {
        entry.path: (entry.owner, entry.group, entry.mode)
        for entry in entries
        if isinstance(entry, Folder)
    }
    assert folders == {
        "/opt/vllm": ("root", "root", 0o755),
        "/var/lib/vllm": ("root", "root", 0o755),
        "/var/lib/vllm/agents": ("root", "root", 0o755),
        "/var/lib/vllm/agents/qwen": ("1234", "5678", 0o700),
        "/var/lib/vllm/agents/coder": ("1234", "5678", 0o700),
    }


def test_an_agent_writes_in_its_own_folder_only() -> None:
    for name, service in services(agents=[QWEN, CODER]).items():
        writable = [mount["source"] for mount in service["volumes"] if not mount["read_only"]]
        assert writable == [f"/var/lib/vllm/agents/{name}"]
        assert service["read_only"] is True
        assert service["environment"]["PYTHONNOUSERSITE"] == "1"


def test_every_agent_has_a_network_of_its_own() -> None:
    found = yaml.safe_load(compose_file(settings(agents=[QWEN, CODER]), MEMORY))
    addresses = set()
    for name, service in found["services"].items():
        [(network, place)] = service["networks"].items()
        assert network == name
        assert service["dns"] == ["127.0.0.1"]
        [pool] = found["networks"][name]["ipam"]["config"]
        subnet = IPv4Network(pool["subnet"])
        assert ip_address(place["ipv4_address"]) in subnet
        assert subnet.subnet_of(IPv4Network("198.18.0.0/16"))
        addresses.add(subnet)
    assert len(addresses) == 2
    bridges = [
        network["driver_opts"]["com.docker.network.bridge.name"]
        for network in found["networks"].values()
    ]
    assert bridges == ["vllm-8001", "vllm-8002"]


def test_names_are_resolved_only_where_egress_says_so() -> None:
    egress = {"networks": ["192.0.2.0/24"], "names": True}
    assert "dns" not in services(agents=[QWEN | {"egress": egress}])["qwen"]


@pytest.mark.parametrize(("gib", "limit"), [(1, 1), (16, 14), (125, 112), (2000, 1800)])
def test_memory_is_bounded_by_the_host_s(gib: int, limit: int) -> None:
    service = yaml.safe_load(compose_file(settings(), gib << 30))["services"]["qwen"]
    assert service["mem_limit"] == service["memswap_limit"] == limit << 30
    assert service["pids_limit"] == 8192


def test_bounds_are_settings() -> None:
    service = services(agents=[QWEN | {"memory": "24g", "pids": 512}])["qwen"]
    assert (service["mem_limit"], service["pids_limit"]) == (24 << 30, 512)
