"""What the rehearsal's script does with a vLLM that is made otherwise than the lab's."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from vllm_hosts.rehearsal.container import script


@pytest.fixture
def rehearse() -> dict[str, Any]:
    """The script's functions."""
    found: dict[str, Any] = {"__name__": "rehearse"}
    exec(compile(script(), "rehearse.py", "exec"), found)
    return found


@pytest.mark.parametrize(
    ("modules", "quantised", "decide"),
    [([], True, False), ([], False, True), ([], None, True), (["a.up_proj"], False, False)]
    + [(None, False, False)],
)
def test_layers_that_only_files_tell_are_not_weighed(
    rehearse: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    modules: list[str] | None,
    quantised: bool | None,
    decide: bool,
) -> None:
    """vLLM 0.26 on an H200 counted 27.5 GiB for a GPTQ model of 9.3, having no files of it."""
    utils = ModuleType("gptq_utils")
    if quantised is not None:
        utils.is_layer_gptq_quantized = lambda prefix, layers: quantised  # type: ignore[attr-defined]
    place = "vllm.model_executor.layers.quantization.utils.gptq_utils"
    monkeypatch.setitem(sys.modules, place, utils)
    monkeypatch.setattr(rehearse["importlib"], "import_module", sys.modules.__getitem__)
    quant = SimpleNamespace(modules_in_block_to_quantize=modules)
    assert rehearse["files_decide"](SimpleNamespace(quant_config=quant)) is decide
    assert rehearse["files_decide"](SimpleNamespace(quant_config=None)) is False


@pytest.mark.parametrize("asks", [True, False])
def test_an_engine_is_asked_for_layouts_where_it_has_any(
    rehearse: dict[str, Any], monkeypatch: pytest.MonkeyPatch, asks: bool
) -> None:
    """vLLM 0.26 has none."""

    class WorkerBase:
        if asks:

            @staticmethod
            def get_supported_kv_cache_layouts(worker: Any) -> list[Any]:
                return [worker.vllm_config, "NHD"]

    vllm = SimpleNamespace(EngineCore=None, WorkerBase=WorkerBase)
    monkeypatch.setattr(rehearse["importlib"], "import_module", lambda name: vllm)
    executor = rehearse["Engine"]("config", [{}, {}]).executor
    layouts = ["config", "NHD"] if asks else []
    assert executor.get_supported_kv_cache_layouts() == [layouts, layouts]
