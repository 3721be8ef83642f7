"""The compose file: as text in golden files, and as Compose's own rules read it."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from roles.vllm.plan import compose_entries, compose_file
from tests.golden import check_golden
from tests.unit.samples import CODER, QWEN, settings
from vllm_hosts.tree import Folder


def services(**values: Any) -> dict[str, Any]:
    found = yaml.safe_load(compose_file(settings(**values)))["services"]
    assert isinstance(found, dict)
    return found


def test_golden_one_agent() -> None:
    check_golden("vllm/one-agent.yaml", compose_file(settings()))


def test_golden_two_agents() -> None:
    check_golden("vllm/two-agents.yaml", compose_file(settings(agents=[QWEN, CODER])))


def test_golden_without_gpu() -> None:
    agent = QWEN | {"gpus": [], "model": "/srv/models/tiny", "max_model_len": "auto"}
    check_golden("vllm/without-gpu.yaml", compose_file(settings(agents=[agent])))


def test_ports_are_published_on_loopback_only() -> None:
    for service in services(agents=[QWEN, CODER]).values():
        assert [port.rsplit(":", 2)[0] for port in service["ports"]] == ["127.0.0.1"]


def test_no_secret_and_no_key_flag_is_in_the_file() -> None:
    text = compose_file(settings(agents=[QWEN, CODER]))
    assert "api-key" not in text
    assert re.findall(r".*API_KEY.*", text) == ["      VLLM_API_KEY: ${VLLM_API_KEY:?}"] * 2
    assert "TOKEN" not in text


def test_the_hugging_face_token_is_only_named() -> None:
    agent = QWEN | {"env": {"HF_HUB_OFFLINE": "0"}}
    text = compose_file(settings(agents=[agent], secrets={"hf_token_env": "MY_TOKEN"}))
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
    agent = QWEN | {"env": {"HF_HUB_OFFLINE": "0"}}
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


def test_the_cache_belongs_to_the_container_s_user() -> None:
    entries = compose_entries(settings(vllm={"user": "1234:5678"}))
    [cache] = [e for e in entries if isinstance(e, Folder) and e.path == "/var/lib/vllm"]
    assert (cache.owner, cache.group, cache.mode) == ("1234", "5678", 0o750)
