"""Old images: what is noted, named and removed, to the letter."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.unit.fakes import docker
from vllm_hosts.agents import prune
from vllm_hosts.agents.images import Row, State
from vllm_hosts.errors import HostError
from vllm_hosts.facts.docker import ImageFound, ImageVersion
from vllm_hosts.facts.vllm_images import (
    Image,
    ImageRoom,
    ImagesFound,
    ImagesThere,
    ImagesUsed,
    ImageUse,
    Used,
)
from vllm_hosts.host.files import File
from vllm_hosts.host.paths import IMAGES_RECORD

A, B = f"sha256:{'a' * 64}", f"sha256:{'b' * 64}"
NEW, OLD = Used(A, "vllm:v2"), Used(B, "vllm:v1")


def image(identifier: str, *names: str) -> Image:
    return Image(identifier, names, (), 9_800_000_000)


class TestNoted:
    @pytest.fixture(autouse=True)
    def ready(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.drift = False
        self.wanted: list[File] = []
        self.use, self.found = ImageUse((), (OLD,)), ImageFound(A, None)

        def look(fact: type, **given: Any) -> Any:
            if fact is ImagesUsed:
                return self.use
            assert (fact, given) == (ImageVersion, {"image": "vllm:v2"})
            return self.found

        def change(entries: list[File]) -> str:
            self.wanted += entries
            return "changed"

        monkeypatch.setattr(prune, "look", look)
        monkeypatch.setattr(prune, "change", change)
        monkeypatch.setattr(prune, "asked_for", lambda: self.drift)

    def commands(self) -> list[object]:
        return list(prune.images_noted._inner.__wrapped__("vllm:v2"))  # type: ignore[attr-defined]

    def test_the_one_from_now_on_comes_last(self) -> None:
        assert self.commands() == ["changed"]
        assert self.wanted == [
            File(IMAGES_RECORD, f"{B} vllm:v1\n{A} vllm:v2\n".encode(), mode=0o600)
        ]

    def test_a_record_that_is_right_stays(self) -> None:
        self.use = ImageUse((), (OLD, NEW))
        assert self.commands() == []

    def test_what_is_not_there_yet_is_not_noted(self) -> None:
        self.found = ImageFound("", None)
        assert self.commands() == []

    def test_whoever_asks_what_differs_writes_nothing(self) -> None:
        self.drift = True
        assert (self.commands(), self.wanted) == ([], [])


class TestNamed:
    def said(
        self, monkeypatch: pytest.MonkeyPatch, found: ImagesFound | HostError, *, executing: bool
    ) -> list[str]:
        said: list[str] = []
        asked = self.asked = list[type[object]]()

        def look(fact: type[object], **_: str) -> object:
            if isinstance(found, HostError):
                raise found
            if fact is ImagesThere:
                asked.append(fact)
            return {
                ImagesThere: found,
                ImagesUsed: ImageUse((), found.record),
                ImageVersion: ImageFound(f"sha256:4{'0' * 63}", None),
            }[fact]

        monkeypatch.setattr(prune, "look", look)
        state, host = SimpleNamespace(is_executing=executing), SimpleNamespace(log=said.append)
        monkeypatch.setattr(prune, "ctx_state", SimpleNamespace(get=lambda: state))
        monkeypatch.setattr(prune, "ctx_host", SimpleNamespace(get=lambda: host))
        named = prune.old_images_named._inner.__wrapped__  # type: ignore[attr-defined]
        assert list(named("vllm:v4", "inventory/prod.py")) == []
        return said

    def test_all_but_the_last_one_are_old(self, monkeypatch: pytest.MonkeyPatch) -> None:
        there = [image(f"sha256:{n}" + "0" * 63, f"vllm:v{n}") for n in (1, 2, 3)]
        record = tuple(Used(one.id, one.names[0]) for one in there)
        found = ImagesFound(tuple(there), (), record, frozenset())
        assert self.said(monkeypatch, found, executing=True) == [
            "    images that no agent uses any more: vllm:v2 (9.8 GB), vllm:v1 (9.8 GB);"
            " `vllm-hosts images inventory/prod.py prune` removes them"
        ]
        assert self.said(monkeypatch, found, executing=False) == []
        one = ImagesFound(tuple(there[:1]), (), record, frozenset())
        assert self.said(monkeypatch, one, executing=True) == []

    @pytest.mark.parametrize(("record", "asked"), [("14", 0), ("1", 0), ("12", 1), ("4142", 1)])
    def test_docker_is_asked_where_more_than_one_was_used_before(
        self, monkeypatch: pytest.MonkeyPatch, record: str, asked: int
    ) -> None:
        used = tuple(Used(f"sha256:{n}" + "0" * 63, f"vllm:v{n}") for n in record)
        assert self.said(monkeypatch, ImagesFound((), (), used), executing=True) == []
        assert len(self.asked) == asked

    def test_a_look_that_fails_is_no_reason_to_fail(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert self.said(monkeypatch, HostError("x"), executing=True) == []


@pytest.mark.parametrize(("after", "free"), [(700, 300), (1200, 0), (1000, 0), (999, 1)])
def test_bytes_that_are_free_since(monkeypatch: pytest.MonkeyPatch, after: int, free: int) -> None:
    rooms, ran = [1000, after], list[str]()

    def ask(fact: type) -> int:
        assert fact is ImageRoom
        return -rooms.pop(0)

    monkeypatch.setattr(prune, "ask_host", ask)
    monkeypatch.setattr(prune, "carry_out", lambda commands: ran.extend(map(str, commands)))
    row = Row(image(A, "vllm:v1"), State.OLD, (), ())
    assert prune.remove(row) == free
    assert ran == [prune.remove_script(row)]


class TestRemoval:
    def run(self, folder: Path, row: Row, answers: str) -> tuple[int, list[str], str]:
        record = folder / "record"
        record.write_text(f"{A} vllm:v1\n{B} vllm:v2\n{A} other:v1\n")
        script = prune.remove_script(row).replace(IMAGES_RECORD, str(record))
        environment = docker(folder, f'echo out; echo "$*" >>{folder}/asked; {answers}')
        done = subprocess.run(
            ["sh", "-c", script], env=environment, capture_output=True, text=True, check=False
        )
        assert done.stdout == ""
        assert not (folder / "record.new").exists()
        return done.returncode, (folder / "asked").read_text().splitlines(), record.read_text()

    def test_names_then_the_image_then_its_lines(self, tmp_path: Path) -> None:
        row = Row(image(A, "vllm:v1", "it's:v1"), State.OLD, (), ())
        assert self.run(tmp_path, row, "exit 0") == (
            0,
            ["image rm vllm:v1 it's:v1", f"image inspect {A}", f"image rm {A}"],
            f"{B} vllm:v2\n",
        )
        assert (tmp_path / "record").stat().st_mode & 0o777 == 0o600

    def test_an_image_that_went_with_its_last_name(self, tmp_path: Path) -> None:
        row = Row(image(A, "vllm:v1"), State.OLD, (), ())
        code, asked, record = self.run(tmp_path, row, "[ $2 != inspect ]")
        assert (code, asked[1:], record) == (0, [f"image inspect {A}"], f"{B} vllm:v2\n")

    def test_one_without_a_name(self, tmp_path: Path) -> None:
        row = Row(image(A), State.OLD, (), ())
        assert self.run(tmp_path, row, "exit 0")[1] == [f"image inspect {A}", f"image rm {A}"]

    @pytest.mark.parametrize("refuses", ["vllm:v1", A])
    def test_one_that_docker_keeps_stays_in_the_record(self, tmp_path: Path, refuses: str) -> None:
        row = Row(image(A, "vllm:v1"), State.OLD, (), ())
        code, _, record = self.run(tmp_path, row, f'[ "$*" != "image rm {refuses}" ]')
        assert code != 0
        assert record.count("\n") == 3
