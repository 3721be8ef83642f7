"""Models that lie: their files are read within bounds, and refused in one sentence."""

from __future__ import annotations

import json
import os
import struct
import time
from pathlib import Path
from typing import Any

import pytest

import vllm_hosts
from tests.unit.samples import settings
from vllm_hosts.bounded import BoundError, parse_json, read_file
from vllm_hosts.capacity import Verdict, plan_host
from vllm_hosts.capacity.fields import UnplannableError
from vllm_hosts.capacity.inputs import supposed_gpus
from vllm_hosts.capacity.model_folder import parse_config, read_folder, total_size
from vllm_hosts.capacity.model_shape import ModelFiles

MODELS = Path(__file__).parent / "models"
OWN_PROCESSES = ("all_scans", "neighbours", "scan", "shapes", "syn_packets", "tls_grades")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[" * 101 + "]" * 101, "nested more than 100 levels"),
        ("[" * 10_000_000, "nested more than 100 levels"),
        ('{"a":' * 1_000_000, "nested more than 100 levels"),
        ('{"x": NaN}', "NaN"),
        ('{"x": -Infinity}', "-Infinity"),
        ('{"x": 1e999}', "1e999"),
        ('{"x": 1' + "0" * 5000 + "}", "5001 digits"),
        ('{"x": 0.' + "1" * 5000 + "}", "too large"),
        (" " * (16 << 20) + "1", "larger than 16 MB"),
    ],
)
def test_json_within_bounds(text: str, words: str) -> None:
    began = time.monotonic()
    with pytest.raises(BoundError, match=words):
        parse_json(text)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    "text", ["{", '"' * 1_000_001, '"\\' * 500_000, "\\", "", "\ud800", "[1,]"]
)
def test_what_is_no_json(text: str) -> None:
    began = time.monotonic()
    with pytest.raises(ValueError):
        parse_json(text)
    assert time.monotonic() - began < 5


def test_json_as_everybody_writes_it() -> None:
    value = {"a": [1, -2.5, 1e9, True, None, ']]]}}\\"', {"b": "[" * 500}]}
    assert parse_json(json.dumps(value)) == value
    assert parse_json(json.dumps(value).encode()) == value


def test_only_regular_files_of_a_bounded_size_are_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 10)
    assert read_file(tmp_path / "file", 10) == b"x" * 10
    os.mkfifo(tmp_path / "fifo")
    for name, words in (("file", "larger"), ("fifo", "regular"), (".", "regular")):
        with pytest.raises(BoundError, match=words):
            read_file(tmp_path / name, 9)


QWEN: dict[str, Any] = json.loads((MODELS / "Qwen3-8B.json").read_text())
DEEPSEEK = json.loads((MODELS / "DeepSeek-V3.json").read_text())
GEMMA = json.loads((MODELS / "gemma-3-4b-it.json").read_text())


def verdict(config: dict[str, Any], weights: int | None = None) -> tuple[Verdict, str]:
    host = settings()
    files: ModelFiles | str
    try:
        files = ModelFiles(parse_config("Qwen/Qwen3-8B", json.dumps(config)), weights)
    except UnplannableError as error:
        files = str(error)
    [plan] = plan_host(host, supposed_gpus(host, 80), {"Qwen/Qwen3-8B": files}).agents
    return plan.verdict, " ".join((*plan.warnings, *plan.problems))


def quantised(**config: Any) -> dict[str, Any]:
    return QWEN | {"quantization_config": config}


HOSTILE = {
    "layers": (QWEN | {"num_hidden_layers": 10**7}, "num_hidden_layers = 10000000"),
    "experts": (DEEPSEEK | {"n_routed_experts": 10**12}, "n_routed_experts"),
    "a giant": (QWEN | {"hidden_size": 10**90}, "hidden_size"),
    "length": (QWEN | {"max_position_embeddings": 10**80}, "max_position_embeddings"),
    "no number": (QWEN | {"vocab_size": "many"}, "vocab_size"),
    "infinity": (QWEN | {"hidden_size": float("inf")}, "Infinity"),
    "list of layers": (
        DEEPSEEK | {"architectures": ["Qwen3MoeForCausalLM"], "num_experts": 2,
                    "mlp_only_layers": list(range(10**5))},
        "mlp_only_layers",
    ),
    "rope": (QWEN | {"rope_scaling": {"type": "linear", "factor": 1e300}}, "factor"),
    "bits": (quantised(quant_method="awq", bits=10**60, group_size=128), "from 1 to 64"),
    "block": (quantised(quant_method="fp8", weight_block_size=[0, 0]), "from 1 to"),
    "cache bits": (
        quantised(quant_method="compressed-tensors", kv_cache_scheme={"num_bits": -8}),
        "from 1 to 64",
    ),
    "expression for ever": (
        quantised(quant_method="compressed-tensors", config_groups={
            "a": {"weights": {"num_bits": 8}}}, ignore=["re:((a|b|.)*)*$x"]),
        "does not evaluate",
    ),
    "too many names": (
        quantised(quant_method="fp8", ignored_layers=["x"] * 60_000), "more modules"
    ),
    "names that are none": (quantised(quant_method="fp8", ignored_layers=7), "not be understood"),
    "heads": (QWEN | {"num_attention_heads": 10**9}, "num_attention_heads"),
    "escape": (QWEN | {"architectures": ["\x1b]0;owned\x07Evil\u202e"]}, "architecture Evil of"),
    "nothing": ({}, "names no architectures"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_config_is_one_sentence(case: str) -> None:
    config, words = HOSTILE[case]
    began = time.monotonic()
    found, said = verdict(config)
    assert found is Verdict.UNKNOWN
    assert words in said, said
    assert said.isprintable() and len(said) < 700
    assert time.monotonic() - began < 10


def test_the_largest_that_is_planned_takes_no_time() -> None:
    began = time.monotonic()
    names = [f"model.layers.{n}.mlp.gate" for n in range(50_000 - 3)] + ["re:.*a.*b.*c"] * 3
    config = DEEPSEEK | {"num_hidden_layers": 2000}
    config["quantization_config"] = {"quant_method": "fp8", "ignored_layers": names}
    verdict(config)
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("size", [10**18, 10**400])
def test_weights_that_no_model_has(size: int) -> None:
    assert verdict(QWEN, size)[0] is Verdict.UNKNOWN
    with pytest.raises(UnplannableError):
        total_size("x", json.dumps({"metadata": {"total_size": size}}))


def test_a_folder_with_traps(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(QWEN))
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", 2**63) + b"x" * 100)
    with pytest.raises(UnplannableError, match="header does not fit"):
        read_folder("x", tmp_path)
    (tmp_path / "model.safetensors").unlink()
    os.mkfifo(tmp_path / "model.safetensors")
    assert read_folder("x", tmp_path).weight_bytes is None
    (tmp_path / "config.json").unlink()
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(UnplannableError, match="not a regular file"):
        read_folder("x", tmp_path)


def test_nothing_else_reads_json_of_others() -> None:
    """``json.loads`` has no bounds. Those here read what we sent ourselves, or run on a neighbour
    without this package."""
    ours = {
        "bounded.py",
        "facts/asked.py",
        "rehearsal/rehearse.py",
        *(f"verify/outside/{name}.py" for name in OWN_PROCESSES),
    }
    root = Path(vllm_hosts.__file__).parent
    found = {
        str(path.relative_to(root))
        for path in root.rglob("*.py")
        if "json.loads(" in path.read_text() or "json.load(" in path.read_text()
    }
    assert found == ours
