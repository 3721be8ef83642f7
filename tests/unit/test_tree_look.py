"""The look at files, run here: what is there, what is noted of it, and what stands in it."""

from __future__ import annotations

import base64
import hashlib
import os
import subprocess
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from vllm_hosts.errors import HostError
from vllm_hosts.facts import tree
from vllm_hosts.facts.base import END, HostFact, T
from vllm_hosts.facts.tree import FileTexts, TreeFound, TreeState
from vllm_hosts.host.files import NOTHING, READ_AT_MOST

A, B = "a" * 64, "b" * 64


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "stamps").mkdir()
    monkeypatch.setattr(tree, "STAMPS", f"{tmp_path}/stamps")
    monkeypatch.setattr(tree, "DEPLOYED", f"{tmp_path}/deployed")
    return tmp_path


def ran(fact: HostFact[T], script: str) -> T:
    done = subprocess.run(
        ["sh", "-c", script], capture_output=True, text=True, check=False, timeout=20
    )
    assert done.stderr == ""
    return fact.process(done.stdout.splitlines())


def look(*paths: Path, stamp: str | None = None) -> TreeFound:
    fact = TreeState()
    return ran(fact, fact.command([str(path) for path in paths], stamp))


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


class TestState:
    def test_what_is_long_may_be_left_unread(self, here: Path) -> None:
        log, link = here / "log", here / "link"
        log.write_text("a line\n")
        log.chmod(0o640)
        link.symlink_to(log)
        fact = TreeState()
        paths = [str(log), str(link), f"{here}/none"]
        script = fact.command(paths, content=False)
        found = ran(fact, script).paths
        assert [(found[path].kind, found[path].sha256) for path in paths] == [
            ("f", ""), ("l", ""), ("-", ""),
        ]  # fmt: skip
        assert found[str(log)].mode == 0o640
        assert look(log).paths[str(log)].sha256 == sha256("a line\n")

    def test_each_path_that_is_asked_for_has_its_answer(self, here: Path) -> None:
        file, folder, link, none = (here / name for name in ("a b", "folder", "link", "none"))
        file.write_text("one")
        file.chmod(0o640)
        folder.mkdir()
        link.symlink_to(file)
        pipe = here / "pipe"
        os.mkfifo(pipe)
        found = look(file, folder, link, pipe, none).paths
        assert {Path(path).name: one.kind for path, one in found.items()} == {
            "a b": "f",
            "folder": "d",
            "link": "l",
            "pipe": "o",
            "none": "-",
        }
        assert (found[str(file)].mode, found[str(file)].sha256) == (0o640, sha256("one"))
        assert {one.sha256 for path, one in found.items() if path != str(file)} == {""}
        assert found[str(none)] == NOTHING
        # A host without a record of ours: it is not known what a deploy has left.
        assert found[str(file)].deployed is None

    def test_the_stamp_that_is_asked_for(self, here: Path) -> None:
        (here / "stamps/nginx").write_text("cafe")
        (here / "stamps/other").write_text("beef")
        assert look(here / "x", stamp="nginx").stamp == "cafe"
        assert look(here / "x", stamp="docker").stamp == ""
        assert look(here / "x").stamp == ""

    def test_what_deploys_have_left_there(self, here: Path) -> None:
        one, other, gone = here / "one", here / "other", here / "gone"
        one.write_text("1")
        other.write_text("2")
        lines = [f"{A}  {one}", f"{B}  {one}", f"-  {gone}", f"{A}  {here}/not-asked"]
        (here / "deployed").write_text("".join(f"{line}\n" for line in lines))
        found = look(one, other, gone).paths
        assert found[str(one)].deployed == (A, B)
        assert found[str(other)].deployed == ()
        assert (found[str(gone)].kind, found[str(gone)].deployed) == ("-", ("",))
        (here / "deployed").write_text("")
        assert look(one).paths[str(one)].deployed == ()

    def test_a_record_that_is_none_of_ours_is_named(self, here: Path) -> None:
        line = f"z  /x {'y' * 300}"
        lines = ["== stat", "== sha256", "== stamp", "== deployed", "noted", line, "== asked"]
        with pytest.raises(HostError) as found:
            TreeState().process([*lines, "/x", END])
        assert str(found.value) == (
            f"the state of files could not be understood: ValueError({line[:200]!r})"
        )

    def test_it_is_true_until_somebody_changes_something(self) -> None:
        assert TreeState.steady is True
        with pytest.raises(FrozenInstanceError):
            TreeFound({}, "").stamp = "cafe"  # type: ignore[misc]


class TestTexts:
    def texts(self, here: Path, *paths: Path) -> dict[str, str | None]:
        (here / "etc").mkdir(exist_ok=True)
        fact = FileTexts()
        names = [str(path) for path in paths]
        return ran(fact, fact.command(names, str(here), str(here / "etc")))

    def test_keys_of_the_host_are_masked_in_them(self, here: Path) -> None:
        (here / ".env").write_text("VLLM_API_KEY_A=sesame-1\n")
        (here / "etc").mkdir()
        (here / "etc/clients.map").write_text('"Bearer sesame-2" default;\n')
        one, two = here / "a b.conf", here / "two.conf"
        one.write_text("x\nkey sesame-1, sesame-2\n")
        two.write_text("no end")
        assert self.texts(here, one, two) == {
            str(one): "x\nkey *MASKED*, *MASKED*\n",
            str(two): "no end\n",
        }

    def test_an_empty_file_has_no_text_and_is_there(self, here: Path) -> None:
        (here / "empty").touch()
        assert self.texts(here, here / "empty") == {str(here / "empty"): ""}

    def test_what_is_no_text(self, here: Path) -> None:
        file, link, folder = here / "file", here / "link", here / "folder"
        file.write_bytes(b"a\0b\n")
        link.symlink_to(here / "text")
        (here / "text").write_text("text\n")
        folder.mkdir()
        pipe, latin, none = here / "pipe", here / "latin", here / "none"
        os.mkfifo(pipe)
        latin.write_bytes(b"\xe4\n")
        paths = (file, link, folder, pipe, latin, none)
        assert self.texts(here, *paths) == dict.fromkeys(map(str, paths))

    def test_what_is_too_large(self, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tree, "READ_AT_MOST", 5)
        fits, large = here / "fits", here / "large"
        fits.write_text("12345")
        large.write_text("123456")
        assert self.texts(here, fits, large) == {str(fits): "12345\n", str(large): None}

    @pytest.mark.parametrize(("more", "kept"), [(0, True), (1, True), (2, False)])
    def test_a_host_that_lies_about_sizes(self, more: int, kept: bool) -> None:
        text = "x" * (READ_AT_MOST + more)
        said = base64.b64encode(text.encode()).decode()
        found = FileTexts().process(["== /a", "text", said, END])
        assert found == {"/a": text if kept else None}

    def test_what_is_not_packed_is_not_guessed(self) -> None:
        with pytest.raises(HostError, match="the content of files could not be understood"):
            FileTexts().process(["== /a", "text", "!!!!", END])

    def test_a_look_that_fails_midway_is_none(self, here: Path) -> None:
        fact = FileTexts()
        (here / "a").write_text("a\n")
        script = fact.command([str(here / "a")], str(here), str(here / "etc"))
        script = f"base64() {{ cat >/dev/null; return 1; }}\n{script}"
        with pytest.raises(HostError, match="cut short"):
            ran(fact, script)
