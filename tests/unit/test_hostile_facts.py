"""Every fact, fed with a hostile host's answers: a value, or a sentence that is safe to show."""

from __future__ import annotations

import time
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings

from tests.unit import hostile
from tests.unit.examples import examples
from tests.unit.test_odd_answers import FACTS as SOME
from tests.unit.test_odd_facts import FACTS as OTHERS
from vllm_hosts.errors import HostError
from vllm_hosts.facts.base import END, HostFact

FACTS = [*SOME, *OTHERS]
IDS = [type(fact).__name__ for fact, _ in FACTS]


@pytest.mark.parametrize(("fact", "lines"), FACTS, ids=IDS)
@settings(max_examples=examples(4), deadline=None)
@given(random=hostile.seeds)
def test_a_hostile_answer_is_a_value_or_a_sentence(
    fact: HostFact[Any], lines: list[str], random: Random
) -> None:
    sent = hostile.answer(random, lines)
    began = time.process_time()
    try:
        fact.process([*sent, END])
    except HostError as error:
        assert not hostile.evil(str(error))  # noqa: PT017
    assert time.process_time() - began < 2
