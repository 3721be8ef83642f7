"""vLLM of the lab's image still says what was recorded of models that see. Needs no host."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.rehearsal import record


@pytest.mark.nightly
def test_models_that_see_are_rehearsed_as_recorded(tmp_path: Path) -> None:
    recorded = json.loads(record.ANSWERS.read_text())
    names = [
        record.safe(name)
        for name, entry in record.published().items()
        if entry["kind"] == "multimodal"
    ]
    record.prepare(tmp_path)
    cases = tmp_path / "cases"
    wanted = {f"model-{name}" for name in names}
    lines = [line for line in cases.read_text().splitlines() if json.loads(line)["name"] in wanted]
    cases.write_text("".join(f"{line}\n" for line in lines))
    record.answer(tmp_path)
    said = {
        name: json.loads((tmp_path / "answers" / f"model-{name}.json").read_text())
        for name in names
    }
    # What the script says besides, since it was recorded, is no matter here.
    same = {name: {key: said[name].get(key) for key in recorded[name]} for name in names}
    assert same == {name: recorded[name] for name in names}
    assert sum("weights" in answer for answer in said.values()) >= 10
