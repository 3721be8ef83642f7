"""The memory plan in preflight: what stops a host, and what is only said."""

from __future__ import annotations

from typing import Any

from roles.preflight.memory import Memory, memory
from tests.capacity_docs import files
from tests.unit.samples import QWEN, settings
from vllm_hosts.capacity import Gpu
from vllm_hosts.capacity.hub import Hub
from vllm_hosts.capacity.sources import gpus_of, model_folders, models_of
from vllm_hosts.facts.system import ModelFolder

CARD = {0: Gpu(0, "NVIDIA GeForce RTX 4080", 16376 * 1024**2)}


def judged(model: str, mode: str = "refuse", **changes: Any) -> Memory:
    host = settings(agents=[QWEN | changes], capacity={"preflight": mode})
    return memory(host, CARD, {"Qwen/Qwen3-8B": files(model)})


def test_an_agent_that_cannot_fit_stops_its_host_and_names_the_way_out() -> None:
    found = judged("Qwen2.5-14B-Instruct-AWQ")
    [problem] = found.problems
    assert "agent 'qwen' does not fit on GPU 0" in problem
    assert "; set max_model_len to 18432 or lower (to deploy all the same:" in problem
    assert problem.endswith("capacity.preflight = 'warn')")
    assert found.warnings == []


def test_where_only_estimates_are_against_it_the_deploy_goes_on() -> None:
    found = judged("Qwen2.5-14B-Instruct-AWQ", max_model_len=20000)
    assert found.problems == []
    assert "memory plan: agent 'qwen' probably does not fit" in found.warnings[0]


def test_with_warn_nothing_stops_a_host() -> None:
    found = judged("Qwen2.5-14B-Instruct-AWQ", "warn")
    assert found.problems == []
    assert "does not fit" in found.warnings[0]


def test_an_unknown_model_is_only_said() -> None:
    found = memory(settings(), CARD, {"Qwen/Qwen3-8B": "the hub has no model Qwen/Qwen3-8B"})
    assert found == Memory([], ["memory plan: the hub has no model Qwen/Qwen3-8B"])


def test_what_fits_is_not_mentioned() -> None:
    assert judged("Qwen2.5-7B-Instruct-AWQ") == Memory([], [])


class NoHub(Hub):
    """Fails the test if anybody is asked."""

    def __init__(self) -> None:
        super().__init__(lambda: None, seconds=1)

    def read(self, model: str, endpoint: str | None = None) -> str:
        raise AssertionError(f"asked about {model}")


def test_the_hub_is_not_asked_for_what_the_host_has() -> None:
    host = settings()
    [folder] = model_folders(host)
    assert folder == "/var/lib/vllm/huggingface/hub/models--Qwen--Qwen3-8B"
    there = {folder: ModelFolder(b'{"architectures": ["Qwen3ForCausalLM"]}', 77)}
    found = models_of(host, there, NoHub())["Qwen/Qwen3-8B"]
    assert not isinstance(found, str)
    assert found.weight_bytes == 77


def test_agents_without_gpus_are_not_looked_up() -> None:
    host = settings(agents=[QWEN | {"gpus": []}])
    assert model_folders(host) == []
    assert models_of(host, {}, NoHub()) == {}


def test_a_damaged_config_on_the_host_is_a_sentence() -> None:
    host = settings(agents=[QWEN | {"model": "/srv/m"}])
    found = models_of(host, {"/srv/m": ModelFolder(b"{", None)}, NoHub())["/srv/m"]
    assert "the config.json of /srv/m is not JSON" in str(found)
    assert "was not read on the host" in str(models_of(host, {}, NoHub())["/srv/m"])


def test_cards_say_their_memory_and_some_do_not() -> None:
    lines = ["0, NVIDIA H200, 143771 MiB", "1, NVIDIA GB10, [N/A]"]
    assert gpus_of(lines) == {
        0: Gpu(0, "NVIDIA H200", 143771 * 1024**2),
        1: Gpu(1, "NVIDIA GB10", None),
    }
    assert gpus_of(lines, 100)[1].memory == 100 * 1024**3
