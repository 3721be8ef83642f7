"""When files are written and a service is told, run after run, on this machine as the host."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pyinfra.context import ctx_host, ctx_state

from tests.unit.test_tree_operation import apply
from vllm_hosts.facts import tree as facts
from vllm_hosts.facts.tree import TreeState
from vllm_hosts.host.files import Absent, Entry, File, Folder
from vllm_hosts.operations import differences, foreseen
from vllm_hosts.operations import tree as operation
from vllm_hosts.operations.differences import Difference, listening, remembered

Entries = Sequence[Entry] | Callable[[], Sequence[Entry]]


class Service:
    """A service of this machine that reads its files when it is told to, and not before."""

    def __init__(self, folder: Path) -> None:
        self.conf, self.watched = folder / "conf", folder / "watched"
        self._log = folder / "log"
        self.stamps = folder / "state/stamps"
        self.activate = (
            f"cat {self.conf} {self.watched} 2>/dev/null >>{self._log}; echo >>{self._log}"
        )
        self.accepts = True

    def run(self, entries: Entries, **options: Any) -> list[str]:
        """A run of the operation. What the service has taken up in it."""
        before = self.taken_up()
        options = {"activate": self.activate, "stamp": "service", **options}
        for command in operation.tree_synced._inner(entries, **options):  # type: ignore[attr-defined]
            done = apply(command)
            assert done.returncode == (0 if self.accepts else 1), done.stderr
        return self.taken_up()[len(before) :]

    def taken_up(self) -> list[str]:
        return self._log.read_text().splitlines() if self._log.exists() else []

    def file(self, content: str) -> File:
        return File(str(self.conf), content.encode())


def _look(fact: type[TreeState], **asked: Any) -> Any:
    found = fact()
    done = subprocess.run(["sh", "-c", found.command(**asked)], capture_output=True, text=True)
    return found.process(done.stdout.splitlines())


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    for module in (operation, facts):
        for name in ("DEPLOYED", "COPIES", "STAMPS", "PREVIOUS"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, f"{tmp_path}/state/{name.lower()}")
    monkeypatch.setattr(operation, "look", _look)
    monkeypatch.setattr(differences, "_wanted", {})
    host: Any = SimpleNamespace(name="gpu1", current_op_hash="this operation")
    state: Any = SimpleNamespace(is_executing=False)
    with ctx_state.use(state), ctx_host.use(host):
        yield Service(tmp_path)


def test_a_second_run_does_nothing(service: Service) -> None:
    assert service.run([service.file("one")]) == ["one"]
    assert service.run([service.file("one")]) == []
    assert service.run(lambda: [service.file("one")]) == []
    assert service.run([service.file("two")]) == ["two"]


def test_a_run_that_was_cut_off_is_finished_by_the_next(service: Service) -> None:
    # The file is there, and nobody knows whether the service took it up.
    service.conf.write_text("one")
    with listening() as told:
        assert service.run([Absent(f"{service.conf}.old"), service.file("one")]) == ["one"]
    said = [(one.what, one.how) for one in told["gpu1"]]
    assert said == [(f"{service.conf}.old", "has not been loaded by its service")]
    assert service.run([Absent(f"{service.conf}.old"), service.file("one")]) == []


def test_a_service_that_remembers_nothing_is_told_of_changes_only(service: Service) -> None:
    service.conf.write_text("one")
    assert service.run([service.file("one")], stamp=None) == []
    assert service.run([service.file("two")], stamp=None) == ["two"]
    assert not service.stamps.exists()


def test_a_change_that_fails_is_tried_again(service: Service) -> None:
    service.run([service.file("good")])
    service.accepts = False
    service.run([service.file("bad")], validate="false")
    assert service.conf.read_text() == "good"
    service.accepts = True
    assert service.run([service.file("bad")]) == ["bad"]


def test_what_is_written_elsewhere_is_taken_up_as_well(service: Service) -> None:
    service.watched.write_text("1")
    watch = [str(service.watched)]
    assert service.run([service.file("one")], watch=watch) == ["one1"]
    service.watched.write_text("2")
    assert service.run([service.file("one")], watch=watch) == ["one2"]
    service.watched.unlink()
    assert service.run([service.file("one")], watch=watch) == ["one"]
    assert service.run([service.file("one")], watch=watch) == []


def test_what_an_operation_before_will_have_written_is_reckoned_with(service: Service) -> None:
    """While a run is prepared, the host is as it was."""
    service.watched.write_text("1")
    watch = [str(service.watched)]
    service.run([service.file("one")], watch=watch)
    outlook = foreseen.begin(dry=False)
    try:
        for content, again in ((b"1", []), (b"2", ["one1"])):
            outlook.hosts.clear()
            before = [File(str(service.watched), content)]
            list(operation.tree_synced._inner(before))  # type: ignore[attr-defined]
            assert service.run([service.file("one")], watch=watch) == again
            here = outlook.hosts.get("gpu1", foreseen.Foreseen())
            assert here.changed == ({str(service.watched)} if again else set())
            assert here.conditional == ({"this operation"} if again else set())
    finally:
        foreseen.end()


def test_people_are_told_what_it_leads_to_where_there_is_something_to_lose(
    service: Service,
) -> None:
    def told(content: str, stamp: str | None) -> list[str]:
        outlook = foreseen.begin(dry=False)
        service.run([service.file(content)], stamp=stamp, effect="it restarts")
        foreseen.end()
        return outlook.hosts.get("gpu1", foreseen.Foreseen()).effects

    # A fresh host: nobody has the service yet.
    assert told("one", "service") == []
    assert told("one", "service") == []
    assert told("two", "service") == ["it restarts"]
    assert told("three", None) == ["it restarts"]
    outlook = foreseen.begin(dry=False)
    service.run([service.file("four")])
    foreseen.end()
    assert outlook.hosts["gpu1"].effects == []


def test_what_differs_is_told_and_what_is_kept_is_remembered(service: Service) -> None:
    service.run([service.file("one")])
    wanted: list[Entry] = [service.file("two"), Absent(f"{service.conf}.old")]
    with listening() as told:
        service.run(wanted)
    [difference] = told["gpu1"]
    assert isinstance(difference, Difference)
    assert (difference.what, difference.how) == (str(service.conf), "has different content")
    assert remembered() == wanted


def test_the_note_is_what_sha256sum_and_sort_make_of_the_files(service: Service) -> None:
    """A script on the host makes the same one: where the two differ, a deploy never ends."""
    service.watched.write_text("watched")
    entries = [
        File(f"{service.conf}.{name}", name.encode(), mode=0o600, secret=name == "a")
        for name in ("b", "a", "C")
    ]
    service.run([Folder(str(service.conf.parent)), *entries], watch=[str(service.watched)])
    paths = " ".join([*(entry.path for entry in entries), str(service.watched)])
    script = (
        f"for path in {paths}; do echo $path $(sha256sum <$path | cut -c -64); done"
        " | LC_ALL=C sort | sha256sum | cut -c -64"
    )
    expected = subprocess.check_output(["sh", "-c", script], text=True).strip()
    assert (service.stamps / "service").read_text() == expected
    # In whatever order the files are named.
    assert service.run(entries[::-1], watch=[str(service.watched)]) == []
    assert os.listdir(service.stamps) == ["service"]
