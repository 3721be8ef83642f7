"""H14 as people meet it: `vllm-hosts check`, `vllm-hosts plan`, a deploy and its copy."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.capacity_docs import MODELS
from tests.unit.copied_models import Site
from tests.unit.model_files import POINTER, safetensors
from tests.unit.projects import AGENT, Project
from vllm_hosts.errors import SettingsError

PROD = "inventory/prod.py"
WHOLE = safetensors(1000)
#: What lies in the place of model.safetensors -> what is said of it, with the way out.
DAMAGE = {
    "pointer": (POINTER, "is a git-lfs pointer, not the file itself; run `git lfs pull`"),
    "empty": (b"", "is empty; fetch the model again"),
    "truncated": (WHOLE[:-1], f"was cut short: it has {len(WHOLE) - 1} of {len(WHOLE)} bytes;"),
}


def clone(folder: Path, weights: bytes) -> Path:
    """A model as it is after a clone."""
    folder.mkdir()
    config = (MODELS / "Qwen2.5-7B-Instruct-AWQ.json").read_text()
    (folder / "config.json").write_text(config)
    (folder / "model.safetensors").write_bytes(weights)
    return folder


def said(text: str) -> str:
    """On one line: pyinfra wraps what it prints."""
    return " ".join(text.split())


@pytest.mark.parametrize("kind", DAMAGE)
def test_check_and_deploy_refuse_to_copy_it(tmp_path: Path, kind: str) -> None:
    """Before anything connects: the host of this project is one that nobody can reach."""
    weights, words = DAMAGE[kind]
    (tmp_path / "project").mkdir()
    project = Project(tmp_path / "project")
    folder = clone(tmp_path / "model", weights)
    project.group(agents=[dict(AGENT, model="/srv/models/mine", copy_from=str(folder))])
    commands = [
        ("vllm-hosts", "check", PROD),
        ("pyinfra", "-y", PROD, "deploy.py"),
        ("vllm-hosts", "plan", PROD, "--no-connect", "--gpu-memory", "16"),
    ]
    for words_typed, done in zip(commands, project.run_at_once(*commands), strict=True):
        assert done.returncode == 1 + (words_typed[0] == "pyinfra"), done.stdout
        assert f"copy_from {folder} holds no weights: model.safetensors {words}" in said(
            done.stdout
        )
        assert "Traceback" not in done.stdout
        assert "--> Connecting" not in done.stdout
    clone(tmp_path / "whole", WHOLE)
    project.group(agents=[dict(AGENT, model="/srv/models/mine", copy_from=str(tmp_path / "whole"))])
    done = project.check()
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("kind", DAMAGE)
def test_plan_says_it_of_a_folder_that_is_named_to_it(tmp_path: Path, kind: str) -> None:
    weights, words = DAMAGE[kind]
    (tmp_path / "project").mkdir()
    project = Project(tmp_path / "project")
    folder = clone(tmp_path / "model", weights)
    asked = (PROD, "--no-connect", "--gpu-memory", "16", "--model-dir", f"one={folder}")
    done = project.run("vllm-hosts", "plan", "--json", *asked)
    assert done.returncode == 1, done.stdout
    [host] = json.loads(done.stdout[done.stdout.index("[\n") :])
    [agent] = host["agents"]
    assert agent["verdict"] == "unknown"
    [warning] = agent["warnings"]
    assert f"{folder} holds no weights: model.safetensors {words}" in warning


@pytest.mark.parametrize("kind", DAMAGE)
def test_what_is_damaged_after_the_check_is_not_copied(tmp_path: Path, kind: str) -> None:
    """The copy looks for itself, and what the host has stays."""
    weights, words = DAMAGE[kind]
    site = Site(tmp_path)
    (site.source / "sub/model.safetensors").write_bytes(weights)
    with pytest.raises(SettingsError, match="holds no weights: sub/model.safetensors") as refused:
        site.run()
    assert words in str(refused.value)
    assert not site.target.exists()
