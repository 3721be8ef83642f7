"""What is kept of a run for the next one, to the letter: what is read is not believed."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest

from vllm_hosts.bounded import SIZE
from vllm_hosts.facts import asked
from vllm_hosts.facts.asked import Question, read, write

OS, PACKAGES = Question("OsRelease"), Question("AptPackages", '{"names":["nginx","libc6"]}')
LISTS: asked.Lists = {"deploy.py": {"gpu1": (OS, PACKAGES, OS), "gpu2": (PACKAGES,)}}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "asked.json"


def put(file: Path, content: object) -> None:
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    file.write_bytes(text)
    file.chmod(0o600)


def whole(*numbers: object, **changes: Any) -> dict[str, Any]:
    table = [["OsRelease", {}], ["AptPackages", {"names": ["nginx", "libc6"]}]]
    return {"version": 1, "asked": table, "hosts": {"deploy.py": {"gpu1": numbers}}} | changes


class TestQuestion:
    @pytest.mark.parametrize(
        "value",
        [None, True, 7, "nginx", "/etc/a_b.c:d@e%f+g,h=i~j-k", ["a", ["b", 1]], "x" * 999, []],
    )
    def test_plain_words_are_kept(self, value: Any) -> None:
        found = Question.of("AptPackages", {"names": value, "a": 1})
        assert found is not None
        assert found.given() == {"names": value, "a": 1}

    @pytest.mark.parametrize(
        "value",
        ["", "-x", "~x", "a b", "a$", "x" * 1000, 1.5, {"a": "b"}, {1}, ["a", ["b c"]], b"a"],
    )
    def test_nothing_else_is(self, value: Any) -> None:
        assert Question.of("AptPackages", {"names": value, "a": 1}) is None

    def test_the_order_of_arguments_is_nothing(self) -> None:
        found = Question.of("AptPackages", {"b": ("x", 1), "a": 2})
        assert found == Question("AptPackages", '{"a":2,"b":["x",1]}')
        assert Question.of("OsRelease", {}) == OS
        with pytest.raises(FrozenInstanceError):
            OS.fact = "x"  # type: ignore[misc]


class TestFile:
    def test_it_comes_back_as_it_was(self, file: Path) -> None:
        write(file, LISTS)
        assert read(file) == LISTS
        assert json.loads(file.read_bytes()) == {
            "version": 1,
            "asked": [["OsRelease", {}], ["AptPackages", {"names": ["nginx", "libc6"]}]],
            "hosts": {"deploy.py": {"gpu1": [0, 1, 0], "gpu2": [1]}},
        }
        assert file.read_bytes().endswith(b"}\n")

    def test_where_there_is_none(self, file: Path) -> None:
        assert read(file) == {}

    def test_one_that_cannot_be_kept_costs_the_next_run_time(self, tmp_path: Path) -> None:
        write(tmp_path / "none/asked.json", LISTS)
        (tmp_path / "asked.json").mkdir()
        write(tmp_path / "asked.json", LISTS)
        assert not (tmp_path / "none").exists()

    def test_numbers_that_lead_nowhere_are_left_out(self, file: Path) -> None:
        put(file, whole(1, 2, -1, 0, 99))
        assert read(file) == {"deploy.py": {"gpu1": (PACKAGES, OS)}}

    def test_what_no_fact_is_called_is_left_out(self, file: Path) -> None:
        table = [[7, {}], ["AptPackages", {"names": ["a b"]}], ["OsRelease", {}]]
        put(file, whole(0, 1, 2, asked=table))
        assert read(file) == {"deploy.py": {"gpu1": (OS,)}}

    def test_a_host_is_not_asked_for_ever(self, file: Path) -> None:
        put(file, whole(*[0] * 1001))
        assert read(file) == {"deploy.py": {"gpu1": (OS,) * 1000}}
        write(file, {"deploy.py": {"gpu1": (OS,) * 1001}})
        assert len(json.loads(file.read_bytes())["hosts"]["deploy.py"]["gpu1"]) == 1000

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"{",
            b"[]",
            b"7",
            {"version": 2},
            whole(0, version=2),
            whole(0, asked=7),
            whole(0, asked=[["OsRelease"]]),
            whole(0, asked=[["OsRelease", 7]]),
            whole(0, hosts=7),
            whole("x"),
            {"version": 1},
            json.dumps(whole(0)).encode() + b" " * SIZE,
        ],
    )
    def test_one_that_is_damaged_or_another_version_s_is_none(
        self, file: Path, content: object
    ) -> None:
        put(file, content)
        assert read(file) == {}


class TestOthers:
    @pytest.mark.parametrize("mode", [0o620, 0o602])
    def test_what_others_can_write_is_refused(self, file: Path, mode: int) -> None:
        write(file, LISTS)
        file.chmod(mode)
        with pytest.raises(PermissionError, match=r"asked\.json"):
            read(file)

    @pytest.mark.parametrize("mode", [0o720, 0o702])
    def test_a_folder_that_others_can_write_is_refused(self, file: Path, mode: int) -> None:
        write(file, LISTS)
        file.parent.chmod(mode)
        with pytest.raises(PermissionError):
            read(file)
        # Who only reads it learns nothing, and changes nothing.
        file.parent.chmod(0o755)
        file.chmod(0o644)
        assert read(file) == LISTS

    @pytest.mark.parametrize("whose", ["file", "folder"])
    def test_what_is_somebody_else_s_is_refused(
        self, file: Path, monkeypatch: pytest.MonkeyPatch, whose: str
    ) -> None:
        write(file, LISTS)
        fstat, real = os.fstat, os.stat

        def theirs(found: os.stat_result) -> os.stat_result:
            changed = list(found)
            changed[stat.ST_UID] = os.geteuid() + 1
            return os.stat_result(changed)

        if whose == "file":
            monkeypatch.setattr(os, "fstat", lambda one: theirs(fstat(one)))
        else:
            monkeypatch.setattr(Path, "stat", lambda self, **_: theirs(real(self)))
        with pytest.raises(PermissionError):
            read(file)

    def test_a_link_leads_nowhere(self, file: Path) -> None:
        write(file.with_name("other.json"), LISTS)
        file.symlink_to(file.with_name("other.json"))
        assert read(file) == {}

    def test_a_fifo_holds_nobody_and_a_device_is_not_read(self, file: Path) -> None:
        os.mkfifo(file, 0o600)
        assert read(file) == {}
        file.unlink()
        file.mkdir(mode=0o700)
        assert read(file) == {}
