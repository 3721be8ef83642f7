"""Changes within functions, the quick way: a fork has its tests collected, and one function other.

pytest collects once, and tests that never call a function are left out. What is not noticed here
may be noticed by what happens while modules are imported, so ``session.py`` tries it again.
"""

from __future__ import annotations

import gc
import inspect
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FunctionType, ModuleType

import pytest

from tests.mutants.session import NOT_NOTICED, Forks


class Quick(Forks):
    """Imports the module as it is, and forks where the tests would run."""

    def exec_module(self, module: ModuleType) -> None:
        self._code = compile(self._tree, str(self.path), "exec")
        exec(self._code, module.__dict__)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> None:
        if not hasattr(self, "_code"):
            return
        functions: dict[int, list[FunctionType]] = {}
        # What is frozen is not listed, and the tests freeze what they have collected.
        gc.unfreeze()
        for one in gc.get_objects():
            if isinstance(one, FunctionType):
                functions.setdefault(id(one.__code__), []).append(one)
        began = self.now()
        if self._run([-1], at_most=600) is not None:
            return
        took = self.now() - began
        if self.outcomes[-1] != NOT_NOTICED:
            said = Path(self.folder, "-1").read_text(errors="replace")
            self._end({"broken": f"{self.outcomes[-1]}\n{said}"})
        swaps = {}
        for number, change in enumerate(self.changes):
            new = compile(change.made(self._tree), str(self.path), "exec")
            differing = list(_differing(self._code, new))
            if len(differing) == 1 and (swap := differing[0]) is not None:
                swaps[number] = functions.get(id(swap[0]), []), swap[1]
        if self._run(list(swaps), at_most=self.limit(took)) is not None:
            changed, code = swaps[self.number]
            for function in changed:
                function.__code__ = code
            session.items[:] = self.order.calling(session.items)
            return
        del self.outcomes[-1]
        self._end({"outcomes": self.outcomes, "seconds": took})


def _differing(old: CodeType, new: CodeType) -> Iterator[tuple[CodeType, CodeType] | None]:
    """Functions whose code differs; None: something differs that is in no function."""
    if old.co_flags & inspect.CO_OPTIMIZED:
        if old != new:
            yield (old, new) if old.co_freevars == new.co_freevars else None
        return
    if _own(old) != _own(new):
        yield None
        return
    for one, other in zip(_inner(old), _inner(new), strict=True):
        yield from _differing(one, other)


def _inner(code: CodeType) -> list[CodeType]:
    return [one for one in code.co_consts if isinstance(one, CodeType)]


def _own(code: CodeType) -> tuple[object, ...]:
    plain = [repr(one) for one in code.co_consts if not isinstance(one, CodeType)]
    return code.co_code, plain, code.co_names, code.co_varnames, len(_inner(code))
