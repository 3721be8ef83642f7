"""The memory plan beside what the real engine says, and a deploy that it stops."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from lab import hosts as lab_hosts
from lab import layout
from lab.settings import AGENTS
from tests.lab.conftest import Deployed
from tests.lab.deploys import INVENTORY, command, deploy
from tests.lab.test_5_bad_hosts import assert_only_gpu2_failed

#: What VLLM_CPU_KVCACHE_SPACE gives the agents' cache (lab/settings.py).
CACHE = int(AGENTS[0]["env"]["VLLM_CPU_KVCACHE_SPACE"]) * 1024**3


def planned(*words: str, code: int = 0, **settings: Any) -> dict[str, dict[str, Any]]:
    """The plan of gpu1, by agent."""
    words = ("vllm-hosts", "plan", INVENTORY, "--host", "gpu1", "--json", *words)
    run = command(*words, settings=settings or None)
    assert run.code == code, run.output
    [host] = json.loads(run.output[run.output.index("[\n") :])
    return {agent["agent"]: agent for agent in host["agents"]}


def containers(host: str) -> str:
    return lab_hosts.run(host, "docker ps --no-trunc --format '{{.Names}} {{.ID}}' | sort").stdout


def test_agents_of_the_lab_fit(deployed: Deployed) -> None:
    found = planned()
    assert {agent["verdict"] for agent in found.values()} == {"fits"}
    assert [warning for agent in found.values() for warning in agent["warnings"]] == []


def test_the_engine_s_cache_has_as_many_tokens_as_planned(deployed: Deployed) -> None:
    log = lab_hosts.run("gpu1", "docker logs tiny 2>&1").stdout
    logged = re.findall(r"KV cache size: ([\d,]+) tokens", log)
    assert logged, log[-4000:]
    tiny = planned()["tiny"]
    a_token = tiny["cache_of_one_sequence"] / tiny["max_model_len"]
    assert int(logged[-1].replace(",", "")) == pytest.approx(CACHE / a_token, rel=0.05)


def test_weights_are_those_that_the_engine_loads(deployed: Deployed) -> None:
    """The bytes of tensors as its Python reads them, and its own figure where it logs one."""
    tiny = planned()["tiny"]
    assert tiny["weights_exact"] is True
    code = (
        f"import json; file = open('{layout.MODEL_FOLDER}/model.safetensors', 'rb');"
        " size = int.from_bytes(file.read(8), 'little'); header = json.loads(file.read(size));"
        " print(sum(b - a for name, item in header.items() if name != '__metadata__'"
        " for a, b in [item['data_offsets']]))"
    )
    counted = lab_hosts.run("gpu1", f'docker exec tiny python3 -c "{code}"').stdout
    assert int(counted) == tiny["weights"]
    log = lab_hosts.run("gpu1", "docker logs tiny 2>&1").stdout
    for gib, digits in re.findall(r"Model loading took (\d+\.(\d+)) Gi?B", log):
        assert float(gib) == pytest.approx(tiny["weights"] / 1024**3, abs=10 ** -len(digits))


def test_the_plan_knows_what_the_engine_would_refuse(deployed: Deployed) -> None:
    agents = [dict(AGENTS[0], max_model_len=65536)]
    tiny = planned(code=3, agents=agents)["tiny"]
    assert tiny["problems"] == [
        f"agent 'tiny': max_model_len 65536 exceeds {layout.MODEL_FOLDER}'s own limit, 32768;"
        " set max_model_len to 32768 or lower"
    ]


def test_a_deploy_that_cannot_fit_stops_before_anything_changes(deployed: Deployed) -> None:
    """A part of the card that is smaller than the cache of one sequence."""
    before = containers("gpu2")
    agents = [dict(AGENTS[0], max_model_len=32768, gpu_memory_utilization=0.00005)]
    run = deploy(settings={"hosts": {"gpu2": {"agents": agents}}})
    assert_only_gpu2_failed(
        run,
        "agent 'tiny' does not fit on GPU 0: needs",
        "KV cache of one sequence of 32768 tokens",
        "set gpu_memory_utilization to",
    )
    assert containers("gpu2") == before
    assert deploy().code == 0
