"""Models as they are cloned and copied: pointers, empty and truncated files, odd indexes."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.unit.model_files import POINTER, safetensors
from tests.unit.samples import QWEN, settings
from tests.unit.test_facts import SYSTEM
from tests.unit.test_preflight import GOOD, GOOD_RELEASE
from vllm_hosts.capacity.fields import UnplannableError
from vllm_hosts.capacity.hub_client import HubClient
from vllm_hosts.capacity.inputs import models_of
from vllm_hosts.capacity.model_folder import INDEX, read_folder, total_size
from vllm_hosts.errors import SettingsError
from vllm_hosts.facts.base import END
from vllm_hosts.facts.system import SystemState, _models_script
from vllm_hosts.host.system import ModelFolder
from vllm_hosts.hub.local import local_model
from vllm_hosts.hub.weights import read_total
from vllm_hosts.roles.preflight.plan import own_folders, problems

WHOLE = safetensors(1000)
PAGE = b"<!doctype html><html><head><title>Sign in</title></head></html>" * 10
#: What a file is in the place of one with weights -> what is said of it.
DAMAGE = {
    "pointer": (POINTER, "is a git-lfs pointer, not the file itself; run `git lfs pull`"),
    "empty": (b"", "is empty"),
    "a few bytes": (WHOLE[:5], "its header does not fit in it"),
    "eight bytes": (WHOLE[:8], "its header does not fit in it"),
    "cut in the header": (WHOLE[:60], "its header does not fit in it"),
    "cut in the tensors": (WHOLE[:-1], f"was cut short: it has {len(WHOLE) - 1} of {len(WHOLE)}"),
    "only the header": (WHOLE[:-1000], "was cut short"),
    "a page": (PAGE, "its header does not fit in it"),
    "zeros": (bytes(4096), "it has no header"),
}


def folder(path: Path, files: dict[str, bytes]) -> Path:
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text("{}")
    for name, content in files.items():
        (path / name).write_bytes(content)
    return path


def index(names: list[str], **metadata: Any) -> bytes:
    weights = {f"model.layers.{n}.weight": name for n, name in enumerate(names)}
    return json.dumps({"metadata": metadata, "weight_map": weights}, indent=2).encode()


def on_the_host(*folders: Path) -> dict[str, ModelFolder]:
    """The script of the fact, run for real, and what is made of it."""
    done = subprocess.run(
        ["sh", "-c", _models_script(map(str, folders))], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    lines = [*SYSTEM, "0, NVIDIA H200, GPU-0, 143771, 590.48.01, 9.0, Disabled, Enabled", "exit 0"]
    return SystemState().process([*lines, *done.stdout.splitlines(), END]).models


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("name", ["model.safetensors", "model-00002-of-00002.safetensors"])
def test_what_holds_no_weights_is_said_everywhere(tmp_path: Path, kind: str, name: str) -> None:
    content, words = DAMAGE[kind]
    files = {"model-00001-of-00002.safetensors": WHOLE, name: content}
    root = folder(tmp_path / "model", files)
    # At check and when it is copied.
    with pytest.raises(SettingsError) as refused:
        local_model(str(root), allow_pickle=False)
    assert f"copy_from {root} holds no weights: {name}" in str(refused.value)
    assert words in str(refused.value)
    # In the plan.
    with pytest.raises(UnplannableError) as unplanned:
        read_folder("x", root)
    assert f"{root} holds no weights: {name}" in str(unplanned.value)
    assert words in str(unplanned.value)
    # On the host.
    damage = on_the_host(root)[str(root)].damage
    assert damage is not None
    assert damage.startswith(f"holds no weights: {name} ")
    assert words in damage or kind == "zeros"


def test_the_host_is_refused_before_anything_is_changed() -> None:
    asked = settings(agents=[QWEN | {"model": "/srv/models/mine"}])
    assert own_folders(asked) == ["/srv/models/mine"]
    damage = "holds no weights: model.safetensors is a git-lfs pointer"
    system = replace(
        GOOD,
        free=dict.fromkeys([*GOOD.free, "/srv/models/mine"], 10**15),
        present=frozenset({"/srv/models/mine"}),
        models={"/srv/models/mine": ModelFolder(b"{}", None, damage)},
    )
    assert problems(asked, GOOD_RELEASE, system) == [
        f"model /srv/models/mine on this host {damage}"
    ]
    found = models_of(asked, system.models, HubClient(lambda: None, seconds=0, offline=True))
    assert found["/srv/models/mine"] == f"/srv/models/mine on the host {damage}"


def test_a_whole_model_is_taken(tmp_path: Path) -> None:
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    root = folder(tmp_path / "model", dict.fromkeys(names, WHOLE))
    (root / "consolidated.safetensors").write_bytes(POINTER)
    (root / "tokenizer.json").write_text("{}")
    assert read_folder("x", root).weight_bytes == 2000
    assert on_the_host(root)[str(root)] == ModelFolder(b"{}", 2000)
    (root / INDEX).write_bytes(index(names, total_size=1990))
    assert read_folder("x", root).weight_bytes == 1990
    assert on_the_host(root)[str(root)] == ModelFolder(b"{}", 1990)
    (root / "consolidated.safetensors").unlink()
    assert len(local_model(str(root), allow_pickle=False).files) == 5


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({}, 1000),
        ({"total_size": None}, 1000),
        ({"total_size": "1990"}, 1990),
        ({"total_size": "many"}, 1000),
        ({"total_size": 1.99e3}, 1990),
        ({"total_size": [1990]}, 1000),
        ({"total_size": True}, 1000),
        ({"total_size": 0}, 1000),
        ({"total_size": -5}, 1000),
    ],
)
def test_an_index_without_a_size_leaves_the_headers(
    tmp_path: Path, metadata: dict[str, Any], expected: int
) -> None:
    # Beside what the index names, another precision of the same model.
    files = {"a.safetensors": WHOLE, "a.fp16.safetensors": safetensors(500)}
    root = folder(tmp_path / "model", {**files, INDEX: index(["a.safetensors"], **metadata)})
    assert read_folder("x", root).weight_bytes == expected
    assert on_the_host(root)[str(root)] == ModelFolder(b"{}", expected)


@pytest.mark.parametrize("text", ["[]", '{"metadata": null}', '{"metadata": []}', '"x"', "{}"])
def test_an_index_of_another_kind_is_unknown(tmp_path: Path, text: str) -> None:
    assert total_size("x", text) is None
    root = folder(tmp_path / "model", {INDEX: text.encode()})
    assert read_folder("x", root).weight_bytes is None
    assert on_the_host(root)[str(root)] == ModelFolder(b"{}", None)


def test_a_part_that_is_not_there(tmp_path: Path) -> None:
    names = ["a.safetensors", "b.safetensors"]
    root = folder(tmp_path / "model", {names[0]: WHOLE, INDEX: index(names * 99)})
    words = "names b.safetensors, which does not exist; fetch the model again"
    with pytest.raises(SettingsError, match=words):
        local_model(str(root), allow_pickle=False)
    assert words in (on_the_host(root)[str(root)].damage or "")
    # To plan, what is there says too little.
    assert read_folder("x", root).weight_bytes is None


def test_other_files_that_are_pointers(tmp_path: Path) -> None:
    root = folder(tmp_path / "model", {"model.safetensors": WHOLE, "tokenizer.json": POINTER})
    with pytest.raises(SettingsError, match="is not whole: tokenizer.json is a git-lfs pointer"):
        local_model(str(root), allow_pickle=False)
    (root / "tokenizer.json").unlink()
    (root / INDEX).write_bytes(POINTER)
    with pytest.raises(SettingsError, match="index.json is a git-lfs pointer"):
        local_model(str(root), allow_pickle=False)
    with pytest.raises(UnplannableError, match="index.json is a git-lfs pointer"):
        read_folder("x", root)
    assert "index.json is a git-lfs pointer" in (on_the_host(root)[str(root)].damage or "")
    (root / INDEX).unlink()
    (root / "config.json").write_bytes(POINTER)
    with pytest.raises(UnplannableError, match="config.json of x is a git-lfs pointer"):
        read_folder("x", root)


@pytest.mark.parametrize(("content", "words"), [(POINTER, "git-lfs pointer"), (b"", "is empty")])
def test_pickles_too(tmp_path: Path, content: bytes, words: str) -> None:
    root = folder(tmp_path / "model", {"pytorch_model.bin": content})
    with pytest.raises(SettingsError, match=f"holds no weights: pytorch_model.bin {words}|{words}"):
        local_model(str(root), allow_pickle=True)


def test_the_hub_s_cache_on_a_host_is_still_on_its_way(tmp_path: Path) -> None:
    """What is not whole there is fetched by the deploy; it stops nobody."""
    key = "/var/lib/vllm/huggingface/hub/models--Qwen--Qwen3-8B"
    asked = settings(agents=[QWEN])
    system = replace(GOOD, models={key: ModelFolder(b"{}", None, "holds no weights: x")})
    assert problems(asked, GOOD_RELEASE, system) == []


@pytest.mark.parametrize(
    ("value", "expected"),
    [("12", 12), ("1.5e3", 1500), ("-1", None), ("inf", None), ("9" * 400, None), ("", None),
     (float("nan"), None), (1 << 51, None), ("1e99", None), ({}, None), ("٣", None)],
)  # fmt: skip
def test_sizes_that_an_index_may_say(value: object, expected: int | None) -> None:
    assert read_total(value) == expected


def test_lines_that_nobody_expects_are_no_end_of_the_look() -> None:
    lines = [*SYSTEM, "0, NVIDIA H200, GPU-0, 143771, 590.48.01, 9.0, Disabled, Enabled", "exit 0"]
    for odd in ("file", "file x y", "file 0 ", "total ", "total null", "file 8 - 0 a", "what"):
        found = SystemState().process([*lines, "== model /srv/a", "config e30=", odd, END])
        assert found.models["/srv/a"].weight_bytes is None
