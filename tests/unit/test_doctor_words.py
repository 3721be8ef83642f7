"""Lines that programs print when an agent does not start: each gets a diagnosis of its own."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.unit import doctor_words as said
from tests.unit.doctor_cases import crashed, refused
from tests.unit.doctor_hosts import agent, healthy
from tests.unit.samples import settings
from vllm_hosts.data import DATA
from vllm_hosts.doctor import examine  # noqa: F401  registers all diagnoses
from vllm_hosts.doctor.diagnoses import Diagnosis, diagnose, texts
from vllm_hosts.doctor.doctors_words import SAYINGS
from vllm_hosts.doctor.messages import last_error, shortened

LINES: list[dict[str, Any]] = json.loads((Path(__file__).parent / "doctor_lines.json").read_text())
#: They only say that it does not run.
GENERAL = {"agent-crash-loop", "agent-stopped", "agent-unhealthy"}


def found(case: dict[str, Any]) -> list[Diagnosis]:
    text = "\n".join(case["lines"])
    made = refused(text) if case["from"] == "start error" else crashed(text)
    return diagnose(settings(), made(healthy()))


@pytest.mark.parametrize("case", LINES, ids=lambda case: f"{case['id']}-{case['lines'][-1][:40]}")
def test_a_line_gets_its_diagnosis(case: dict[str, Any]) -> None:
    first, *others = found(case)
    assert first.identifier == case["id"], [first, *others]
    assert "{" not in first.what + first.remedy.replace('{"', "")
    for one in (first, *others):
        assert "nothing is wrong" not in one.remedy


def test_every_saying_has_a_line() -> None:
    assert set(SAYINGS) <= {case["id"] for case in LINES}


def test_a_reason_at_the_end_of_docker_s_sentence_is_shown() -> None:
    before = "failed to create task for container: " + "OCI runtime create failed: " * 60
    seen = refused(before + "the reason itself: unknown")(healthy())
    first = diagnose(settings(), seen)[0]
    assert first.evidence.endswith("the reason itself: unknown")
    assert "never started" in first.remedy


def test_text_in_the_middle_is_left_out() -> None:
    short = shortened("begin " + "x" * 5000 + " end", 100)
    assert len(short) == 100
    assert short.startswith("begin")
    assert short.endswith("end")


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        (
            "(APIServer pid=1) pydantic_core._pydantic_core.ValidationError: 1 validation error for"
            " ModelConfig\n(APIServer pid=1)   Value error, The reason, whole. [type=value_error,"
            " input_value=ArgsKwargs((), {'model': 'x'}), input_type=ArgsKwargs]\n(APIServer pid=1)"
            "     For further information visit https://errors.pydantic.dev/2.12/v/value_error",
            "The reason, whole.",
        ),
        (
            "pydantic_core._pydantic_core.ValidationError: 1 validation error for X\n"
            "  Input should be a valid integer [type=int_parsing, input_value='a', input_type=str]",
            "Input should be a valid integer",
        ),
        ("Exception: something odd\nTraceback ends", "Exception: something odd"),
        ("starting\nSegmentation fault (core dumped)", "Segmentation fault (core dumped)"),
        (
            "KeyError: 'x'\nRuntimeError: Engine core initialization failed. See root cause above.",
            "KeyError: 'x'",
        ),
        ("ValueError: " + "long " * 100 + "reason", "ValueError: " + "long " * 100 + "reason"),
    ],
)
def test_the_last_error_s_own_reason(log: str, reason: str) -> None:
    assert last_error(tuple(log.splitlines())) == reason


@pytest.mark.parametrize("code", [1, 2, 126, 127, 128, 134, 139])
def test_what_ended_by_itself_is_not_called_right(code: int) -> None:
    seen = agent(healthy(), state="exited", health=None, exit_code=code, log=("Some words",))
    first = diagnose(settings(), seen)[0]
    assert "nothing is wrong" not in first.remedy
    assert first.evidence == "Some words"


def test_what_was_never_started_is_not_called_right() -> None:
    seen = agent(healthy(), state="created", health=None, exit_code=0)
    assert "nothing is wrong" not in diagnose(settings(), seen)[0].remedy


def test_what_somebody_stopped_may_be_right() -> None:
    seen = agent(healthy(), state="exited", health=None, exit_code=0)
    assert "nothing is wrong" in diagnose(settings(), seen)[0].remedy


def test_a_hub_that_refuses_comes_before_what_is_missing_then() -> None:
    lines = "OSError: Can't load tokenizer for 'org/model'.\n"
    for words, first in ((said.UNREACHABLE, "hub-unreachable"), (said.GATED, "model-gated")):
        assert diagnose(settings(), crashed(words + lines)(healthy()))[0].identifier == first


def test_no_diagnosis_stands_twice_in_its_file() -> None:
    """YAML itself would take the later text at the earlier place."""
    text = (DATA / "diagnoses.yaml").read_text()
    names = re.findall(r"^([a-z0-9-]+):$", text, re.MULTILINE)
    assert len(names) == len(set(names)) == len(texts())
