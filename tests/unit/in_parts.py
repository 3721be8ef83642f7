"""The unit tests in several processes: ``python -m tests.unit.in_parts [programs]``.

One process imports what all need and forks. Each fork is a pytest that takes the next file that
nobody has, reads it, and runs its tests; what nobody has to wait for is read by one only.

pytest-xdist does not do: its workers wait for a thread that began before gevent, which pyinfra
brings, put its own locks in the place of Python's, and neither ever hears of the other.
"""

from __future__ import annotations

# First: gevent replaces the socket module, before anybody uses ssl.
import pyinfra_cli  # isort: skip # noqa: F401

import gc
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from typing import Any, NamedTuple

import pytest
from _pytest.runner import collect_one_node

from tests.together import together
from tests.unit import forking, started

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
#: In which programs of hosts judge what we write: nginx, HAProxy, keepalived, sshd's clients and
#: shells. They take as long as all others together. And tests of what only we use: of the lab, of
#: measurements and of the tests themselves.
PROGRAMS, TOOLS = HERE / "programs", HERE / "tools"
#: By the first word of the command: folders.
FOLDERS = {"": [HERE], "programs": [PROGRAMS, TOOLS]}
#: For each processor: tests wait for programs about as long as they calculate.
FOR_EACH = 2
#: What takes longest begins first, so that nobody waits for one of these at the end: from the most
#: to the least, as measured, and into how many parts a file's tests are dealt.
LONG = {
    "edge_pulse": 1, "edge_whole_way": 1, "reach": 3, "suite_shapes": 1, "agents_cli": 2,
    "apt_script": 2, "model_copy": 2, "top_cli": 1, "hub_fetch": 1, "keys_cli": 1,
    "ownership_runs": 1, "doctor_look": 1, "drift": 1, "reach_shapes": 1, "ahead_deploy": 1,
    "model_scanner": 1, "affinity_scanner": 1, "edge_by_model": 1, "ahead_ssh": 1,
    "rehearsal_here": 1, "mutants": 1, "inventories_md": 1, "run_ending": 1, "hold_script": 1,
    "outside": 1, "agents_edited": 1, "doors": 1,
}  # fmt: skip
#: Memory in the place of a disk, whose writes tests wait for; and how much there has to be.
_MEMORY, _ENOUGH = Path("/dev/shm"), 2 << 30
#: pytest's options: one line for all files, and only what is not as it should be. Plugins are
#: imported already, and asserts of theirs are not the tests'.
_OPTIONS = (
    *("-q", "-o", "console_output_style=classic", "-p", "no:cacheprovider"),
    "-Wignore::pytest.PytestAssertRewriteWarning",
)


#: What it says is this machine's, and asked for once.
_APT_MARK = """#!/bin/sh
case "$1" in show*) ;; *) exec {there} "$@" ;; esac
said={programs}/$(printf '%s ' "$@" | cksum | tr ' ' -)
[ -e "$said" ] || {{ {there} "$@" >"$said.$$" && mv "$said.$$" "$said"; }} || exit
cat "$said"
"""


class Part(NamedTuple):
    """Of a file's tests each ``of``-th, from the one with this number on."""

    file: Path
    number: int
    of: int


def parts(folders: Sequence[Path]) -> list[Part]:
    """All tests of some folders, those first that take longest."""
    files = [path for folder in folders for path in folder.glob("test_*.py")]
    there = {path.stem.removeprefix("test_"): path for path in files}
    assert len(there) == len(files), "two files have one name"
    order = [*(name for name in LONG if name in there), *sorted(there.keys() - {*LONG})]
    return [
        Part(there[name], number, LONG.get(name, 1))
        for name in order
        for number in range(LONG.get(name, 1))
    ]


class Share:
    """pytest's loop over tests, of the parts that nobody else has taken."""

    def __init__(self, folders: Sequence[Path], taken: Path) -> None:
        self._folders, self._taken = folders, taken
        self._files: dict[Path, Any] = {}

    def pytest_collection(self, session: pytest.Session) -> bool:
        """The files, but none is read before it is taken."""
        session.perform_collect([*map(str, self._folders)], genitems=False)
        return True

    def pytest_collection_modifyitems(self, items: list[pytest.Item | pytest.Collector]) -> None:
        """First the folders come here. Behind this conftest.py would be forgotten."""
        if not self._files:
            folders = [folder for folder in items if isinstance(folder, pytest.Collector)]
            assert len(folders) == len(items) == len(self._folders)
            #: What stays between two files: what is around both of them.
            self._around = folders[0] if len(folders) == 1 else folders[0].parent
            for folder in folders:
                self._files |= {node.path: node for node in collect_one_node(folder).result}

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        found = 0
        for items in self._taken_items(session):
            # What the next one needs too is kept. After a file's last one that is the folder's, and
            # what the file has put in the place of ours is back before another file is read.
            for item, following in zip(items, [*items, self._around][1:], strict=True):
                item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
                if session.shouldstop:
                    raise session.Interrupted(session.shouldstop)
            found += len(items)
        session.testscollected = found
        return True

    def _taken_items(self, session: pytest.Session) -> Iterator[list[pytest.Item]]:
        for part in parts(self._folders):
            try:
                Path(self._taken, f"{part.file.name}-{part.number}").touch(exist_ok=False)
            except FileExistsError:
                continue
            items = list(session.genitems(self._files[part.file]))
            hook = session.config.hook
            hook.pytest_collection_modifyitems(session=session, config=session.config, items=items)
            yield items[part.number :: part.of]


def main(words: list[str]) -> int:
    named = words[0] if words[:1] and words[0] in FOLDERS else ""
    folders, options = FOLDERS[named], words[1:] if named else words
    workers = range(FOR_EACH * len(os.sched_getaffinity(0)))
    # What one Python has compiled, hundreds of others reuse.
    sys.dont_write_bytecode = False
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    # Before another process imports the same: in a fresh checkout both would compile it.
    _import_all()
    with _quick_folder() as folder, started.shared(folder / "starter"):
        (folder / "taken").mkdir()
        _ask_once(folder / "programs")
        outputs = [folder / f"output-{number}" for number in workers]
        pids = [_fork(options, folders, folder, output) for output in outputs]
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
        texts = [output.read_text() for output in outputs]
    print(*texts, sep="\n")
    print(together([text.splitlines()[-1] for text in texts]))
    # Where there are fewer files than pytests, one of them has nothing to do.
    return max(abs(code) for code in codes if code != pytest.ExitCode.NO_TESTS_COLLECTED)


@contextmanager
def _quick_folder() -> Iterator[Path]:
    """For all files of the tests."""
    free = os.statvfs(_MEMORY) if _MEMORY.is_dir() else None
    quick = free is not None and free.f_bavail * free.f_frsize > _ENOUGH
    usable = quick and free is not None and not free.f_flag & os.ST_NOEXEC
    folder = Path(tempfile.mkdtemp(dir=_MEMORY if usable else None))
    # Some tests look as another user.
    folder.chmod(0o711)
    (folder / "files").mkdir(mode=0o1777)
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder / "files")
    try:
        yield folder
    finally:
        # TemporaryDirectory would remove it at the end of each fork, too.
        shutil.rmtree(folder, ignore_errors=True)


def _ask_once(programs: Path) -> None:
    """apt-mark reads all lists of packages for each of its answers, which stay the same here."""
    if (there := shutil.which("apt-mark")) is None:
        return
    programs.mkdir(mode=0o1777)
    programs.chmod(0o1777)
    (programs / "apt-mark").write_text(_APT_MARK.format(there=there, programs=programs))
    (programs / "apt-mark").chmod(0o755)
    os.environ["PATH"] = f"{programs}:{os.environ['PATH']}"


def _import_all() -> None:
    """What each would import for itself. What pytest has to rewrite before is left to it."""
    for name in ("hypothesis", "tests.unit.projects", "paramiko", "yaml", "jinja2", "pygments"):
        import_module(name)
    package = import_module("vllm_hosts")
    for found in walk_packages(package.__path__, "vllm_hosts."):
        if not found.name.startswith(("vllm_hosts.suite", "vllm_hosts.steps")):
            import_module(found.name)
    # As every run does. Which connectors are installed is known to all forks then.
    import_module("vllm_hosts.connect.pyinfra_speed").install()
    import_module("pyinfra.api.connectors").get_all_connectors()
    gc.collect()
    gc.freeze()


def _fork(options: list[str], folders: Sequence[Path], folder: Path, output: Path) -> int:
    if pid := os.fork():
        return pid
    code = 1
    try:
        to = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for descriptor in (1, 2):
            os.dup2(to, descriptor)
        random.seed()
        share = Share(folders, folder / "taken")
        code = pytest.main([*_OPTIONS, *options, *map(str, folders)], plugins=[share])
    finally:
        forking.end(code)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
