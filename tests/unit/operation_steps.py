"""An operation as plain steps: what it yields and tells, with stand-ins for all that it calls."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from pyinfra.context import ctx_host, ctx_state


class _Host:
    """One of its own, as pyinfra's are."""

    def __init__(self, **has: Any) -> None:
        vars(self).update(has)


class Steps:
    """``told``: calls of what only tells or collects, in order, by name."""

    def __init__(
        self, module: ModuleType, monkeypatch: pytest.MonkeyPatch, facts: Mapping[str, Any]
    ) -> None:
        self.facts = dict(facts)
        self.told: list[tuple[object, ...]] = []
        self.executing = True
        #: What ``may_have_changed`` says, where a test puts that in its place.
        self.changed = False
        self.asked: list[tuple[str, dict[str, Any]]] = []
        monkeypatch.setattr(module, "look", self.look)
        told = ("differs", "entries_differ", "remember", "leads_to", "will_change")
        for name in (*told, "refuse_for_good"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, self.telling(name))
        self.host: Any = _Host(name="gpu1", log=lambda text, **_: self.told.append(("log", text)))

    def telling(self, name: str) -> Any:
        return lambda *given: self.told.append((name, *given))

    def look(self, fact: type, **given: Any) -> Any:
        self.asked.append((fact.__name__, given))
        return self.facts[fact.__name__]

    def may_have_changed(self, what: object) -> bool:
        self.asked.append(("changed", {"what": what}))
        return self.changed

    def run(self, operation: Any, *given: Any, **words: Any) -> list[Any]:
        """The commands; StringCommands as their text."""
        self.told.clear()
        self.asked.clear()
        state: Any = SimpleNamespace(is_executing=self.executing)
        with ctx_state.use(state), ctx_host.use(self.host):
            commands = list(operation._inner.__wrapped__(*given, **words))
        return [one if isinstance(one, tuple) else str(one) for one in commands]
