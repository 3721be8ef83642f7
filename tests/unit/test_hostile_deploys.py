"""A deploy to a host that answers anything: it fails with a sentence, or does what it does."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import given, settings

from tests.unit import hostile
from tests.unit.examples import examples
from tests.unit.recording import Recorder, Run, deploy_py

#: Until agents are healthy a deploy waits, as long as the settings say.
_WAITED_FOR = {"AgentStates"}
Place = tuple[tuple[str, Any], ...]


def places(value: Any, way: Place = ()) -> Iterator[Place]:
    """Where there is a text in an answer."""
    if isinstance(value, str):
        yield way
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from places(getattr(value, field.name), (*way, ("field", field.name)))
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from places(inner, (*way, ("key", key)))
    elif isinstance(value, list | tuple):
        for at, inner in enumerate(value):
            yield from places(inner, (*way, ("item", at)))


def put(value: Any, way: Place, text: str) -> Any:
    """The answer with another text there."""
    if not way:
        return text
    (kind, name), *further = way
    rest = tuple(further)
    if kind == "field":
        return dataclasses.replace(value, **{name: put(getattr(value, name), rest, text)})
    if kind == "key":
        return value | {name: put(value[name], rest, text)}
    found = list(value)
    found[name] = put(found[name], rest, text)
    return type(value)(found)


@settings(max_examples=examples(1), deadline=None)
@given(random=hostile.seeds)
def test_a_host_says_anything_to_a_deploy(deployed: tuple[Recorder, Run], random: Random) -> None:
    recorder = deployed[0]
    known = [
        (fact, way)
        for fact, value in recorder.host.facts.items()
        if fact not in _WAITED_FOR
        for way in places(value)
    ]
    with TemporaryDirectory() as folder:
        one = recorder.copied(Path(folder))
        for fact, way in random.sample(known, random.randint(1, 3)):
            said = hostile.ESCAPES if random.random() < 0.6 else hostile.word(random)
            one.host.facts[fact] = put(one.host.facts[fact], way, said)
        done = one.run(deploy_py)
    for line in (*done.said, *map(str, done.effects), *map(str, done.refused)):
        assert not hostile.evil(line), line
