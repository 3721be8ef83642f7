"""The tests of one module, once for each change: ``python -m tests.mutants.session WORK.json``.

``quick.py`` comes first, and leaves the changes that it cannot make or that nobody noticed there.

pytest starts once, and imports what the tests need until it comes to the module. There it forks for
every change; each fork goes on with a module that has it, and ends at the first test that fails.
What the tests import beside it is loaded before, once.
"""

from __future__ import annotations

import ast
import gc
import importlib
import importlib.abc
import importlib.machinery
import json
import os
import resource
import select
import signal
import sys
import sysconfig
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from tests import architecture
from tests.mutants.alone import keep_to
from tests.mutants.changes import changes
from tests.mutants.order import Order

# Before gevent, which pyinfra brings, puts others in their places.
_poll, _pidfd_open, _waitpid, _now = select.poll, os.pidfd_open, os.waitpid, time.monotonic
#: Seconds that any tests may take, and how many times longer than without a change.
_AT_LEAST, _LONGER = 30, 10
#: Where Python's and other people's modules are.
_OTHERS = [sysconfig.get_path(name) for name in ("stdlib", "platlib", "purelib")]
NOTICED, NOT_NOTICED, TOO_LONG = "noticed", "not noticed", "took too long"


@dataclass
class _Running:
    number: int
    pid: int
    since: float


class Forks(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds one module before others do, and forks where it is imported."""

    def __init__(
        self, module: str, path: Path, folder: Path, numbers: Sequence[int] | None = None
    ) -> None:
        self.module, self.path, self.folder = module, path, folder
        self.source = path.read_text()
        self.changes = changes(self.source)
        self.outcomes: dict[int, str] = {}
        self.order = Order(path, folder / "order")
        self._tree = ast.parse(self.source)
        #: Of the changes that are tried; and in a fork, of its own.
        self.numbers = range(len(self.changes)) if numbers is None else numbers
        self.number = -1

    @staticmethod
    def now() -> float:
        return _now()

    @staticmethod
    def limit(took: float) -> float:
        """Seconds for tests that take so long without a change."""
        return _AT_LEAST + _LONGER * took

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != self.module:
            return None
        spec = importlib.machinery.ModuleSpec(name, self, origin=str(self.path))
        spec.has_location = True
        if self.path.name == "__init__.py":
            spec.submodule_search_locations = [str(self.path.parent)]
        return spec

    def exec_module(self, module: ModuleType) -> None:
        tree = self._fork()
        exec(compile(tree, str(self.path), "exec"), module.__dict__)

    def _fork(self) -> ast.Module:
        """The module that a fork goes on with. In the process that forks it never returns."""
        began = _now()
        # Without a change first: it says how long the tests take.
        if (tree := self._run([-1], at_most=600)) is not None:
            return tree
        took = _now() - began
        if self.outcomes[-1] != NOT_NOTICED:
            said = Path(self.folder, "-1").read_text(errors="replace")
            self._end({"broken": f"{self.outcomes[-1]}\n{said}"})
        self._load_others()
        if (tree := self._run(list(self.numbers), at_most=self.limit(took))) is not None:
            return tree
        del self.outcomes[-1]
        self._end({"outcomes": self.outcomes, "seconds": took})
        raise AssertionError

    def _load_others(self) -> None:
        """What each fork would load for itself, and takes most of its time: other people's modules,
        and ours that do not import the changed one."""
        loaded = json.loads(Path(self.folder, "order").read_text())["loaded"]
        for name, file in loaded.items():
            if name not in sys.modules and file is not None and self._alone(name, Path(file)):
                with suppress(Exception):
                    importlib.import_module(name)

    def _alone(self, name: str, file: Path) -> bool:
        if any(file.is_relative_to(place) for place in _OTHERS):
            return True
        own = architecture.modules()
        parts = name.split(".")
        around = [".".join(parts[:number]) for number in range(1, len(parts) + 1)]
        return all(
            one in own and self.module not in (one, *architecture.reached(own[one]))
            for one in around
        )

    def _end(self, result: object) -> None:
        Path(self.folder, "result").write_text(json.dumps(result))
        os._exit(0)

    def _run(self, numbers: list[int], *, at_most: float) -> ast.Module | None:
        """In a fork its module; in the process that forks None, with ``outcomes``."""
        from gevent.os import fork_gevent

        # pytest needs it for a test that fails, and every fork would import it.
        importlib.import_module("hypothesis")
        # Forks share what nobody writes to, and a collector writes to everything.
        gc.freeze()
        left, running, any_ended = list(reversed(numbers)), dict[int, _Running](), _poll()
        while left or running:
            while left and len(running) < len(os.sched_getaffinity(0)):
                number = left.pop()
                pid = fork_gevent()
                if not pid:
                    return self._become(number)
                handle = _pidfd_open(pid)
                any_ended.register(handle, select.POLLIN)
                running[handle] = _Running(number, pid, _now())
            ended = {handle for handle, _ in any_ended.poll(200)}
            for handle, one in list(running.items()):
                late = handle not in ended and _now() - one.since > at_most
                if handle in ended or late:
                    self._over(one, late)
                    any_ended.unregister(handle)
                    os.close(handle)
                    del running[handle]
        return None

    def _over(self, one: _Running, late: bool) -> None:
        # Whatever it started ends with it.
        with suppress(ProcessLookupError):
            os.killpg(one.pid, signal.SIGKILL)
        _, status = _waitpid(one.pid, 0)
        how = NOTICED if status else NOT_NOTICED
        self.outcomes[one.number] = TOO_LONG if late else how

    def _become(self, number: int) -> ast.Module:
        os.setsid()
        # Ignored under nohup, which tests of scripts that are ended would inherit.
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        output = os.open(Path(self.folder, str(number)), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        null = os.open(os.devnull, os.O_RDONLY)
        for here, there in ((null, 0), (output, 1), (output, 2)):
            os.dup2(here, there)
        scratch = Path(self.folder, "scratch")
        keep_to(scratch)
        os.environ["TMPDIR"] = tempfile.tempdir = str(scratch)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if number < 0:
            return self._tree
        self.number, self.order.changed = number, self.changes[number].within
        return self.changes[number].made(self._tree)


def _quick(module: str, path: Path, folder: Path) -> Forks:
    from tests.mutants.quick import Quick

    return Quick(module, path, folder)


def main() -> int:
    work = json.loads(Path(sys.argv[1]).read_text())
    folder = Path(sys.argv[1]).parent
    (folder / "scratch").mkdir()
    about = work["module"], Path(work["path"]), folder
    forks = Forks(*about, work["numbers"]) if "numbers" in work else _quick(*about)
    sys.meta_path.insert(0, forks)
    import pytest

    options = ["-x", "-q", "-s", "-p", "no:cacheprovider", "--tb=short"]
    code = pytest.main([*options, *work["tests"]], plugins=[forks.order, forks])
    if not forks.outcomes and not (folder / "-1").exists():
        result = {"broken": f"none of its tests imports {work['module']}"}
        (folder / "result").write_text(json.dumps(result))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
