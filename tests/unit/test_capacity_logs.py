"""The plan beside what vLLM itself has logged, and beside a published guide."""

from __future__ import annotations

import pytest

from tests.capacity_docs import (
    DOCUMENT,
    GUIDE,
    LOGS,
    MODELS,
    Row,
    files,
    model,
    on_a_16_gb_card,
    rows,
    with_tables,
)
from vllm_hosts.capacity.estimates import GIB, USUAL_BATCH
from vllm_hosts.capacity.kv_cache import cache
from vllm_hosts.capacity.model_shape import describe
from vllm_hosts.capacity.sizes import weight_size

ROWS = list(rows())
TOLERANCE = 0.05

#: Field notes: layers, KV heads and head size; KiB of KV cache for each token; GiB of weights.
TABLE = {
    "Qwen2.5-7B-Instruct": ((28, 4, 128), 56, 14.18),
    "Qwen2.5-7B-Instruct-AWQ": ((28, 4, 128), 56, 5.19),
    "Qwen2.5-14B-Instruct": ((48, 8, 128), 192, 27.51),
    "Qwen2.5-14B-Instruct-AWQ": ((48, 8, 128), 192, 9.29),
    "Qwen2.5-32B-Instruct": ((64, 8, 128), 256, 61.03),
    "Qwen2.5-32B-Instruct-AWQ": ((64, 8, 128), 256, 18.00),
    "Qwen2.5-72B-Instruct": ((80, 8, 128), 320, 135.42),
    "Qwen2.5-72B-Instruct-AWQ": ((80, 8, 128), 320, 38.61),
    "Qwen3-8B": ((36, 8, 128), 144, 15.26),
    "Qwen3-8B-AWQ": ((36, 8, 128), 144, 5.68),
    "Qwen3-14B": ((40, 8, 128), 160, 27.51),
    "Qwen3-14B-AWQ": ((40, 8, 128), 160, 9.29),
    "Qwen3-32B": ((64, 8, 128), 256, 61.02),
    "Qwen3-32B-AWQ": ((64, 8, 128), 256, 18.00),
    "Llama-3.1-8B-Instruct": ((32, 8, 128), 128, 14.96),
    "Llama-3.1-8B-Instruct-AWQ": ((32, 8, 128), 128, 5.33),
    "Llama-3.1-70B-Instruct": ((80, 8, 128), 320, 131.41),
    "Llama-3.1-70B-Instruct-AWQ": ((80, 8, 128), 320, 37.03),
    "Mistral-7B-Instruct-v0.3": ((32, 8, 128), 128, 13.50),
    "Mistral-7B-Instruct-v0.3-AWQ": ((32, 8, 128), 128, 3.88),
}


def _id(row: Row) -> str:
    return f"{row.model}-{row.tp}-{row.figure}"


def test_at_least_a_dozen_logs_are_cited() -> None:
    assert len(LOGS) >= 12
    assert all(log["url"].startswith("https://") for log in LOGS)
    assert len({log["url"] for log in LOGS}) >= 12


@pytest.mark.parametrize("row", [row for row in ROWS if not row.outlier], ids=_id)
def test_the_plan_is_within_5_percent_of_what_vllm_logged(row: Row) -> None:
    assert abs(row.error) <= TOLERANCE, f"{row.ours} instead of {row.logged}: {row.url}"


@pytest.mark.parametrize("row", [row for row in ROWS if row.outlier], ids=_id)
def test_an_outlier_is_one_and_rare(row: Row) -> None:
    assert abs(row.error) > TOLERANCE, "no outlier any more: take the reason away"
    assert len([other for other in ROWS if other.outlier]) <= 2


@pytest.mark.parametrize("name", TABLE)
def test_the_table_of_the_field_notes(name: str) -> None:
    (layers, kv_heads, size), kib, gib = TABLE[name]
    known = model(name)
    assert (len(known.windows), known.kv_heads, known.head_size) == (layers, kv_heads, size)
    assert cache(known, 1, 16, 2048).sequence(1024) == kib * 1024 * 1024
    assert weight_size(known, 1).bytes / GIB == pytest.approx(gib, rel=0.005)


def test_32_thousand_tokens_of_a_32b_model_are_8_gib() -> None:
    """Field notes, from vLLM's own log: Qwen2.5-Coder-32B at 32768 tokens, 8.00 GiB."""
    assert cache(model("Qwen2.5-Coder-32B-Instruct"), 1, 16, 2048).sequence(32768) == 8 * GIB


@pytest.mark.parametrize(("name", "least", "most"), GUIDE)
def test_a_guide_s_safe_context_on_16_gb(name: str, least: int, most: int) -> None:
    """14B models: the longest that fits is in the guide's range. 7B: the model's own limit is its
    lower end, and memory is left for its upper one."""
    plan = on_a_16_gb_card(name)
    assert plan.largest_max_model_len is not None
    assert plan.cache is not None
    assert least <= plan.largest_max_model_len <= most
    if "7B" in name:
        assert plan.largest_max_model_len == plan.limit == 32768
        assert cache(model(name), 1, 16, USUAL_BATCH[0]).sequence(most) < plan.cache


def test_the_document_shows_these_figures() -> None:
    text = DOCUMENT.read_text()
    assert text == with_tables(text), "out of date; run: python -m tests.capacity_docs"


def test_every_configuration_is_planned() -> None:
    for path in MODELS.glob("*.json"):
        assert describe(path.stem, files(path.stem)).limit
