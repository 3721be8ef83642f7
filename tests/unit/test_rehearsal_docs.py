"""The tables of docs/rehearsal.md, and how far off what vLLM says of published models is."""

from __future__ import annotations

import pytest

from tests.rehearsal import docs, record

#: Models whose logs on cards differ by more: kernels there fill up the experts' widths, which the
#: CPU build's class does not (docs/rehearsal.md).
PADDED = ("gpt-oss-20b", "gpt-oss-120b")


def test_the_document_has_what_was_recorded() -> None:
    text = docs.DOCUMENT.read_text()
    assert docs.document(text) == text, "run python -m tests.rehearsal.docs"


def test_enough_architectures_are_rehearsed() -> None:
    assert len(docs.architectures()) >= 60
    multimodal = {row.answer.architecture for row in docs.rehearsed() if row.kind == "multimodal"}
    assert len(multimodal) >= 10


@pytest.mark.parametrize("row", docs.rehearsed(), ids=lambda row: row.name)
def test_weights_are_as_large_as_published_files(row: docs.Row) -> None:
    if row.error is not None:
        assert abs(row.error) < (0.03 if row.answer.quantization else 0.01)


@pytest.mark.parametrize("one", list(docs.logged()), ids=lambda one: f"{one.model} {one.figure}")
def test_figures_are_those_that_cards_logged(one: docs.Logged) -> None:
    assert abs(one.error) < (0.08 if one.model in PADDED and "weights" in one.figure else 0.03)


def test_every_model_of_the_table_was_asked() -> None:
    missing = {name for name in record.published() if record.safe(name) not in docs.answers()}
    assert not missing
