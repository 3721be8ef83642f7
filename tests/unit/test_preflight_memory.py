"""The memory plan in preflight: what stops a host, and what is only said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.capacity_docs import MODELS, files
from tests.unit.projects import AGENT, SMI, Project
from tests.unit.samples import QWEN, settings
from vllm_hosts.capacity import ModelFiles, PlannedGpu
from vllm_hosts.capacity.hub_client import HubClient
from vllm_hosts.capacity.inputs import gpus_of, model_folders, models_of
from vllm_hosts.host.nvidia_smi import parse
from vllm_hosts.host.system import ModelFolder
from vllm_hosts.roles.preflight.memory import memory

CARD = {0: PlannedGpu(0, "NVIDIA GeForce RTX 4080", 16376 * 1024**2)}


def judged(model: str, **changes: Any) -> list[str]:
    host = settings(agents=[QWEN | changes])
    return memory(host, CARD, {"Qwen/Qwen3-8B": files(model)})


def test_what_formulas_have_against_an_agent_is_said_with_the_way_out() -> None:
    [said] = judged("Qwen2.5-14B-Instruct-AWQ")
    assert said.startswith("memory plan: agent 'qwen' probably does not fit on GPU 0")
    assert said.endswith("; set max_model_len to 18432 or lower")


def test_an_unknown_model_is_only_said() -> None:
    found = memory(settings(), CARD, {"Qwen/Qwen3-8B": "the hub has no model Qwen/Qwen3-8B"})
    assert found == ["memory plan: the hub has no model Qwen/Qwen3-8B"]


def test_what_fits_is_not_mentioned() -> None:
    assert judged("Qwen2.5-7B-Instruct-AWQ") == []


class NoHub(HubClient):
    """Fails the test if anybody is asked."""

    def __init__(self) -> None:
        super().__init__(lambda: None, seconds=1)

    def read(
        self, model: str, endpoint: str | None = None, revision: str | None = None
    ) -> ModelFiles | str:
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
    rest = "590.48.01, 9.0, Disabled, Enabled"
    lines = [f"0, NVIDIA H200, GPU-0, 143771, {rest}", f"1, NVIDIA GB10, GPU-1, [N/A], {rest}"]
    cards = parse([*lines, "exit 0"]).gpus
    assert gpus_of(cards) == {
        0: PlannedGpu(0, "NVIDIA H200", 143771 * 1024**2),
        1: PlannedGpu(1, "NVIDIA GB10", None),
    }
    assert gpus_of(cards, 100)[1].memory == 100 * 1024**3


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A project whose only role is preflight, and whose only host is this machine: drift shows what
    preflight would say, and changes nothing."""
    (tmp_path / "project").mkdir()
    project = Project(tmp_path / "project")
    (project.folder / "deploy.py").unlink()
    project.write("deploy.py", "from vllm_hosts.roles.preflight import preflight\n\npreflight()\n")
    project.write("inventory/prod.py", 'gpu_hosts = [("@local", {"ssh_hostname": "192.0.2.1"})]\n')
    project.write(
        "bin/nvidia-smi",
        f"#!/bin/sh\necho '{SMI}'\n",
    )
    (project.folder / "bin" / "nvidia-smi").chmod(0o755)
    project.environment = {
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "PATH": f"{project.folder / 'bin'}:/usr/sbin:/usr/bin:/sbin:/bin",
    }
    return project


def said(project: Project, model: str, preflight: str = "refuse") -> str:
    folder = project.folder / "models" / model
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text((MODELS / f"{model}.json").read_text())
    agents = [dict(AGENT, model=str(folder))]
    project.group(agents=agents, capacity={"preflight": preflight})
    done = project.run("pyinfra", "--dry", "inventory/prod.py", "deploy.py")
    assert "Traceback" not in done.stdout, done.stdout
    assert "internal error" not in done.stdout, done.stdout
    return done.stdout


def test_preflight_looks_at_cards_and_models_of_the_host(project: Project) -> None:
    words = "agent 'one' probably does not fit on GPU 0: needs"
    assert words in said(project, "Llama-3.1-70B-Instruct")
    assert words not in said(project, "Qwen2.5-7B-Instruct-AWQ")
    assert words not in said(project, "Llama-3.1-70B-Instruct", "off")


def test_without_a_driver_nothing_is_said_of_memory(project: Project) -> None:
    project.write("bin/nvidia-smi", "#!/bin/sh\necho 'no driver'\nexit 9\n")
    found = said(project, "Llama-3.1-70B-Instruct")
    assert "the GPU driver does not answer: no driver" in found
    assert "does not fit" not in found
    assert "asks for GPU" not in found
