"""The edge's scanners against Python's parser, for as long as a night has. Needs no host."""

from __future__ import annotations

import random

import pytest

from tests.unit.programs.test_model_scanner import fuzzed
from tests.unit.scanning import Body, python_says, scanners


@pytest.mark.nightly
def test_no_wrong_model_in_many_bodies() -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    random_ = random.Random(seed)
    with scanners() as lua:
        for _ in range(100):
            pieces = [1, 2, 3, 7, 64, 4096]
            bodies = [Body(fuzzed(random_), random_.choice(pieces)) for _ in range(4000)]
            found = [one.model for one in lua.scan(bodies)]
            expected = [python_says(body.content) for body in bodies]
            wrong = [one for one in zip(bodies, expected, found, strict=True) if one[1] != one[2]]
            assert wrong[:3] == [], f"with random.Random({seed})"
