"""The memory plan beside what the real engine says."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from lab import hosts as lab_hosts
from lab import layout
from lab.settings import AGENTS
from tests.lab.conftest import Deployed
from tests.lab.deploys import INVENTORY, command

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
    tiny = planned("--no-rehearse")["tiny"]
    a_token = tiny["cache_of_one_sequence"] / tiny["max_model_len"]
    assert int(logged[-1].replace(",", "")) == pytest.approx(CACHE / a_token, rel=0.05)


def test_weights_are_those_that_the_engine_loads(deployed: Deployed) -> None:
    """The bytes of tensors as its Python reads them, and its own figure where it logs one."""
    tiny = planned("--no-rehearse")["tiny"]
    assert tiny["weights_exact"] is False
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


def test_the_plan_says_what_the_engine_refuses_in_its_own_words(deployed: Deployed) -> None:
    before = containers("gpu1")
    agents = [dict(AGENTS[0], max_model_len=65536)]
    [problem] = planned(code=3, agents=agents)["tiny"]["problems"]
    assert "agent 'tiny': vLLM 0.32.0 would not start with this: User-specified" in problem
    assert problem.endswith("; change max_model_len")
    assert containers("gpu1") == before


def test_without_the_engine_it_is_an_estimate(deployed: Deployed) -> None:
    agents = [dict(AGENTS[0], max_model_len=65536)]
    tiny = planned("--no-rehearse", code=3, agents=agents)["tiny"]
    assert (tiny["verdict"], tiny["problems"]) == ("probably not", [])
    [warning] = tiny["warnings"]
    assert warning.endswith("seems to set it, 32768; set max_model_len to 32768 or lower")
