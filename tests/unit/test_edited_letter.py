"""Whether what agents are started from is what was deployed, to the letter."""

from __future__ import annotations

import hashlib
from dataclasses import FrozenInstanceError
from typing import Any

import pytest

from tests.unit.samples import settings
from vllm_hosts.agents import edited as module
from vllm_hosts.agents.edited import Edited, edited
from vllm_hosts.facts.tree import FileTexts, TreeState
from vllm_hosts.host.changes import NOT_TEXT
from vllm_hosts.host.files import NOTHING, Found
from vllm_hosts.host.paths import COPIES, compose_overrides

HOST = settings(vllm={"directory": "/opt/v"})
COMPOSE, ENV = "/opt/v/compose.yaml", "/opt/v/.env"
COPY = f"{COPIES}{COMPOSE}"
CHANGED = "/opt/v/compose.yaml is not what was deployed"


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def file(text: str, *deployed: str) -> Found:
    return Found("f", sha256=digest(text), deployed=tuple(map(digest, deployed)) or None)


class There:
    """A host's files, and what it is asked about them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.files = {
            COMPOSE: file("old", "old"),
            COPY: file("old"),
            ENV: file("keys", "keys"),
        }
        self.texts: dict[str, str | None] = {COPY: "a: 1\n", COMPOSE: "a: 2\n"}
        self.asked: list[tuple[type, dict[str, Any]]] = []
        monkeypatch.setattr(module, "ask_host", self._ask)

    def _ask(self, fact: type, **given: Any) -> Any:
        self.asked.append((fact, given))
        if fact is FileTexts:
            return self.texts
        found = {path: self.files.get(path, NOTHING) for path in given["paths"]}
        return type("State", (), {"paths": found})


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch) -> There:
    return There(monkeypatch)


def test_as_it_was_left(there: There) -> None:
    assert edited(HOST) == []
    others = compose_overrides(HOST)
    assert others
    assert there.asked == [(TreeState, {"paths": [COMPOSE, COPY, ENV, *others]})]
    # Two digests: a run was cut off, and left the one or the other.
    there.files[COMPOSE] = file("old", "new", "old")
    assert edited(HOST) == []


def test_an_edit_with_its_lines(there: There) -> None:
    there.files[COMPOSE] = file("mine", "old")
    assert edited(HOST) == [Edited(CHANGED, ("@@ -1 +1 @@", "-a: 1", "+a: 2"))]
    asked = {"paths": [COPY, COMPOSE], "directory": "/opt/v"}
    assert there.asked[1:] == [(FileTexts, asked)]


@pytest.mark.parametrize("path", [COMPOSE, COPY])
def test_an_edit_that_is_no_text(there: There, path: str) -> None:
    there.files[COMPOSE] = file("mine", "old")
    there.texts[path] = None
    assert edited(HOST) == [Edited(CHANGED, (NOT_TEXT,))]


@pytest.mark.parametrize("copy", [NOTHING, file("another"), Found("l", sha256=digest("old"))])
def test_an_edit_of_what_is_not_known_any_more(there: There, copy: Found) -> None:
    there.files |= {COMPOSE: file("mine", "old"), COPY: copy}
    line = f"what was deployed cannot be shown: {COPY} does not match the record"
    assert edited(HOST) == [Edited(CHANGED, (line,))]
    assert len(there.asked) == 1


@pytest.mark.parametrize("deployed", [digest("old"), ""])
def test_something_else_in_its_place(there: There, deployed: str) -> None:
    """Also where nothing was left there, of which the record has an empty digest."""
    there.files[COMPOSE] = Found("l", sha256=digest("old"), deployed=(deployed,))
    [found] = edited(HOST)
    assert found.sentence == CHANGED and found.stops


def test_one_that_is_gone(there: There) -> None:
    there.files[COMPOSE] = Found("-", deployed=(digest("old"),))
    assert edited(HOST) == [Edited(f"{COMPOSE} no longer exists")]


@pytest.mark.parametrize("deployed", [None, ()])
@pytest.mark.parametrize("kind", ["f", "-"])
def test_a_host_without_a_record_is_only_worth_knowing(
    there: There, deployed: tuple[str, ...] | None, kind: str
) -> None:
    there.files |= {COMPOSE: Found(kind, sha256="", deployed=deployed), ENV: file("mine")}
    assert edited(HOST) == [
        Edited(
            f"has no record of what was deployed, so whether {COMPOSE} was edited since cannot be"
            " determined; the next deploy leaves one",
            stops=False,
        )
    ]


def test_keys_that_are_others_are_only_worth_knowing(there: There) -> None:
    said = [Edited(f"{ENV} is not what was deployed; agents get what it holds", stops=False)]
    for found in (file("mine", "keys"), Found("-", deployed=(digest("keys"),))):
        there.files[ENV] = found
        assert edited(HOST) == said


def test_what_compose_reads_besides(there: There) -> None:
    first, *_, last = compose_overrides(HOST)
    there.files |= {first: file("x"), last: Found("d"), COMPOSE: file("mine", "old")}
    assert [(one.sentence, one.stops) for one in edited(HOST)] == [
        (f"{first} exists, which no deploy wrote and Compose reads", True),
        (f"{last} exists, which no deploy wrote and Compose reads", True),
        (CHANGED, True),
    ]


def test_a_sentence_is_fixed() -> None:
    with pytest.raises(FrozenInstanceError):
        Edited("a").stops = False  # type: ignore[misc]
