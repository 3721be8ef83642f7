"""docs/troubleshooting.md and the lab's faults have every diagnosis, and no others."""

from __future__ import annotations

import re

from tests.doctor_docs import DOCUMENT, HEADINGS, with_tables
from tests.lab.doctor_faults import FAULTS, OF_FLEET, RECORDED
from vllm_hosts.doctor.diagnoses import texts
from vllm_hosts.doctor.doctors_words import SAYINGS


def test_the_document_is_made_from_the_data() -> None:
    text = DOCUMENT.read_text()
    assert text == with_tables(text), "out of date; run: python -m tests.doctor_docs"


def test_the_document_has_every_diagnosis_once_and_no_other() -> None:
    named = re.findall(r"\| `([a-z-]+)` \|$", DOCUMENT.read_text(), re.M)
    assert sorted(named) == sorted(texts())


def test_every_diagnosis_shows_somewhere() -> None:
    assert {text.where for text in texts().values()} == set(HEADINGS)


def test_every_diagnosis_is_made_in_the_lab() -> None:
    made = {fault.first for fault in FAULTS}
    # One sentence of a program is all that these need: tests/unit/doctor_lines.json has them.
    others = {*RECORDED, *SAYINGS, *OF_FLEET}
    assert made | others == set(texts())
    assert not made & others


def test_some_faults_are_made_in_every_run() -> None:
    assert 4 <= len([fault for fault in FAULTS if fault.usual]) <= 8
