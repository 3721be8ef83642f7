"""The script in vLLM's CUDA build on an H200: it says of models what it says on a CPU."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.rehearsal.record import ANSWERS, ARCHITECTURES

#: vLLM 0.26.0, torch 2.11.0+cu130, driver 580.159.04, models with the configurations of the table.
H200: dict[str, dict[str, Any]] = json.loads((ARCHITECTURES / "h200.json").read_text())
CPU: dict[str, dict[str, Any]] = json.loads(ANSWERS.read_text())
#: Bytes that this model keeps for each token of a step, in seven buffers of its width. vLLM takes
#: 8192 tokens on this card and 2048 on a CPU.
_VISION = {"Qwen3-VL-8B-Instruct": 7 * 4096 * 2}


def test_there_are_enough_of_them() -> None:
    assert len(H200) > 100
    assert {H200[name]["batched_tokens"] for name in _VISION} == {8192}


@pytest.mark.parametrize("name", sorted(H200))
def test_weights_are_the_same_on_a_gpu(name: str) -> None:
    more = _VISION.get(name, 0) * (H200[name]["batched_tokens"] - CPU[name]["batched_tokens"])
    assert H200[name]["weights"] - more == pytest.approx(CPU[name]["weights"], rel=0.015)
    assert H200[name]["max_model_len"] == CPU[name]["max_model_len"]
