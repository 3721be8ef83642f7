"""`vllm-hosts plan`, as people and scripts use it: with copies of models, and asking a host."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.capacity_docs import MODELS, files
from tests.unit.hub_server import serving
from tests.unit.projects import AGENT, SMI, Project

PROD = "inventory/prod.py"
SMALL, LARGE = "Qwen2.5-7B-Instruct-AWQ", "Llama-3.1-70B-Instruct"


@pytest.fixture
def project(tmp_path: Path) -> Project:
    (tmp_path / "project").mkdir()
    project = Project(tmp_path / "project")
    kept = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "HF_HOME": str(tmp_path / "hf")}
    project.environment = kept
    return project


def copy(project: Project, name: str, folder: str | None = None) -> str:
    """A model's folder in the project, without its weights."""
    path = project.folder / (folder or name)
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text((MODELS / f"{name}.json").read_text())
    index = {"metadata": {"total_size": files(name).weight_bytes}, "weight_map": {}}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    return str(path)


def plan(project: Project, *words: str, code: int = 0) -> str:
    done = project.run("vllm-hosts", "plan", PROD, *words)
    assert "Traceback" not in done.stdout, done.stdout
    assert done.returncode == code, done.stdout
    return done.stdout


def planned(project: Project, *words: str, code: int = 0) -> list[dict[str, Any]]:
    said = plan(project, "--json", *words, code=code)
    [found] = json.loads(said[said.index("[\n") :])
    agents: list[dict[str, Any]] = found["agents"]
    return agents


SUPPOSED = ("--no-connect", "--gpu-memory", "16")


def test_a_model_that_fits_is_exit_code_0(project: Project) -> None:
    said = plan(project, *SUPPOSED, "--model-dir", f"one={copy(project, SMALL)}")
    assert "GPU 0  supposed, 15.6 GiB for programs" in said
    assert "32768     ~4.3  fits" in said
    assert "1 of 1 agents fit" in said


def test_a_model_that_does_not_is_exit_code_3(project: Project) -> None:
    said = plan(project, *SUPPOSED, "--model-dir", f"one={copy(project, LARGE)}", code=3)
    assert "agent 'one' probably does not fit on GPU 0: needs" in " ".join(said.split())


def test_an_unknown_one_is_exit_code_1(project: Project) -> None:
    folder = copy(project, SMALL)
    config = json.loads(Path(folder, "config.json").read_text())
    config["architectures"] = ["BrandNewForCausalLM"]
    Path(folder, "config.json").write_text(json.dumps(config))
    [agent] = planned(project, *SUPPOSED, "--model-dir", f"one={folder}", code=1)
    assert agent["verdict"] == "unknown"
    assert agent["largest_max_model_len"] is None
    assert "BrandNewForCausalLM" in agent["warnings"][0]


def test_what_could_not_be_planned_outweighs_what_does_not_fit(project: Project) -> None:
    """As in drift: 3 is for answers that are complete."""
    project.group(agents=[AGENT, dict(AGENT, name="two", port=8002, gpus=[1], model="/srv/two")])
    said = plan(project, *SUPPOSED, "--model-dir", f"one={copy(project, LARGE)}", code=1)
    assert "does not fit" in said


def test_without_a_card_there_is_no_plan(project: Project) -> None:
    said = plan(project, "--no-connect", code=1)
    assert "the host was not queried for its GPUs (--no-connect); give --gpu-memory, or set" in said
    project.group(capacity={"gpu_memory": 16})
    said = plan(project, "--no-connect", "--model-dir", f"one={copy(project, SMALL)}")
    assert "1 of 1 agents fit" in said


def test_weights_beside_the_configuration_are_counted(project: Project) -> None:
    folder = Path(copy(project, SMALL))
    (folder / "model.safetensors.index.json").unlink()
    header = b'{"__metadata__": {}}'
    content = len(header).to_bytes(8, "little") + header
    (folder / "model-1.safetensors").write_bytes(content + b"\0" * 1000)
    (folder / "model-2.safetensors").write_bytes(content + b"\0" * 234)
    (folder / "consolidated.safetensors").write_bytes(content + b"\0" * 1234)
    [agent] = planned(project, *SUPPOSED, "--model-dir", f"one={folder}")
    # Only vLLM knows what it makes of them.
    assert (agent["weights"], agent["weights_exact"]) == (1234, False)
    (folder / "model.safetensors.index.json").write_text('{"metadata": {"total_size": 77}}')
    [agent] = planned(project, *SUPPOSED, "--model-dir", f"one={folder}")
    assert agent["weights"] == 77


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--model-dir", "one"), "does not name an agent and a folder; write AGENT=FOLDER"),
        (("--model-dir", "three=."), "--model-dir names three; there is one"),
        (("--host", "gpu9"), "has no host gpu9; it has 192.0.2.1"),
        (("--gpu-memory", "0"), "--gpu-memory"),
    ],
)
def test_misuse_is_exit_code_2_and_says_so(
    project: Project, words: tuple[str, ...], sentence: str
) -> None:
    assert sentence in plan(project, "--no-connect", *words, code=2)


def test_settings_that_cannot_be_deployed(project: Project) -> None:
    project.group(capacity={"gpu_memory": -1, "preflight": "ask"})
    said = plan(project, *SUPPOSED, code=1)
    assert "capacity.gpu_memory must be more than 0, not -1" in said
    assert "capacity.preflight must be 'refuse', 'warn' or 'off', not 'ask'" in said


def test_a_hub_id_is_asked_for_at_the_hub(project: Project) -> None:
    with serving() as hub:
        index = json.dumps({"metadata": {"total_size": files(SMALL).weight_bytes}}).encode()
        config = json.loads((MODELS / f"{SMALL}.json").read_text())
        hub.add("org/model", config, **{"model__safetensors__index__json": index})
        project.environment["HF_ENDPOINT"] = hub.url
        assert planned(project, *SUPPOSED)[0]["verdict"] == "fits"
        asked = len(hub.requests)
        assert asked > 0
        assert planned(project, *SUPPOSED, "--offline")[0]["verdict"] == "fits"
        assert len(hub.requests) == asked


class TestAskingTheHost:
    """The host is this machine, through pyinfra's own connector, with a card that it has not."""

    @pytest.fixture
    def local(self, project: Project) -> Project:
        project.write(PROD, 'gpu_hosts = [("@local", {"ssh_hostname": "192.0.2.1"})]\n')
        return project

    def card(self, project: Project, script: str) -> None:
        program = project.folder / "bin" / "nvidia-smi"
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        path = f"{program.parent}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        project.environment["PATH"] = path

    def test_cards_and_models_are_the_host_s_own(self, local: Project) -> None:
        folder = copy(local, SMALL, "models/small")
        Path(folder, "model.safetensors.index.json").write_text(
            '{\n  "metadata": {\n    "total_size": 5574000000\n  },\n  "weight_map": {}\n}'
        )
        local.group(agents=[dict(AGENT, model=folder)])
        self.card(
            local,
            f'echo "{SMI}"',
        )
        [agent] = planned(local)
        assert (agent["weights"], agent["weights_exact"]) == (5574000000, False)
        assert agent["largest_max_model_len"] == 32768
        assert "NVIDIA GeForce RTX 4080, 15.5 GiB for programs" in plan(local)

    def test_a_download_in_the_host_s_cache_is_read(self, local: Project) -> None:
        cache = local.folder / "cache-of-the-host"
        at = "huggingface/hub/models--org--model"
        copy(local, SMALL, f"{cache}/{at}/snapshots/abc")
        (cache / at / "refs").mkdir()
        (cache / at / "refs" / "main").write_text("abc")
        local.group(vllm={"cache_directory": str(cache)})
        self.card(
            local,
            f'echo "{SMI}"',
        )
        assert planned(local, "--offline")[0]["verdict"] == "fits"

    def test_gpus_that_are_not_there(self, local: Project) -> None:
        local.group(agents=[dict(AGENT, gpus=[3], model=copy(local, SMALL))])
        self.card(
            local,
            f'echo "{SMI}"',
        )
        [agent] = planned(local, code=3)
        [problem] = agent["problems"]
        assert problem.startswith("agent 'one' asks for GPU 3, and this host has 0; correct")

    def test_a_driver_that_does_not_answer_leaves_the_card_to_the_user(
        self, local: Project
    ) -> None:
        local.group(agents=[dict(AGENT, model=copy(local, SMALL))])
        self.card(local, "echo 'Driver/library version mismatch'; exit 18")
        said = plan(local, code=1)
        assert "the GPU driver does not answer: Driver/library version mismatch" in said
        assert planned(local, "--gpu-memory", "16")[0]["verdict"] == "fits"

    def test_a_host_that_cannot_be_reached_is_planned_with_the_given_card(
        self, project: Project
    ) -> None:
        project.write(PROD, 'gpu_hosts = [("127.0.0.1", {"ssh_port": 9, "ssh_user": "nobody"})]\n')
        assert "could not be planned: cannot be reached" in plan(project, code=1)
        words = ("--gpu-memory", "16", "--model-dir", f"one={copy(project, SMALL)}")
        assert planned(project, *words)[0]["verdict"] == "fits"
        assert "planned with 16 GiB for each GPU" in plan(project, *words)


def test_a_memory_that_is_no_size_is_misuse(project: Project) -> None:
    said = plan(project, "--no-connect", "--gpu-memory", "nan", code=2)
    assert "'nan' is not a size; write one such as 24" in said


def test_a_copy_without_a_folder_is_misuse(project: Project) -> None:
    """Such as an empty variable, and not the folder that somebody happens to be in."""
    said = plan(project, *SUPPOSED, "--model-dir", "one=", code=2)
    assert "write AGENT=FOLDER" in said
