"""The folder of a site: what is found there and what is written, to the letter."""

from __future__ import annotations

import getpass
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vllm_hosts.connect.lock import Purpose
from vllm_hosts.errors import SettingsError
from vllm_hosts.project import new_site, site
from vllm_hosts.project.new_site import GENERATED, make, site_above, upgrade
from vllm_hosts.project.site import belongs_to, commit_of, from_site, held_for, import_from
from vllm_hosts.settings.generated import fresh


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home/.ssh").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


class TestFound:
    @pytest.fixture
    def inventory(self, home: Path) -> Path:
        path = home / "mine/inventory/prod.py"
        path.parent.mkdir(parents=True)
        path.touch()
        (home / "mine/deploy.py").touch()
        commit_of.cache_clear()
        return path

    def test_what_an_inventory_imports(
        self, inventory: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sys, "path", ["first"])
        for _ in range(2):
            assert import_from(inventory) == f"{inventory.parents[1]}"
        # Once, and behind what is there: a site's own json.py is not Python's.
        assert sys.path == ["first", f"{inventory.parents[1]}"]

    def test_a_loaded_inventory_knows_its_site(self, inventory: Path, home: Path) -> None:
        loaded: Any = SimpleNamespace()
        assert site.site(loaded) == home
        belongs_to(loaded, inventory)
        assert site.site(loaded) == inventory.parents[1]

    def test_its_commit(self, inventory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        ran: list[tuple[list[str], dict[str, Any]]] = []

        def run(words: list[str], **how: Any) -> Any:
            ran.append((words, how))
            return SimpleNamespace(stdout=b" 0123456789ab-dirty \x1b[2J\xff\n" + b"x" * 80)

        monkeypatch.setattr(subprocess, "run", run)
        said = commit_of(inventory)
        assert said.startswith("0123456789ab-dirty ") and len(said) <= 64
        assert "\x1b" not in said
        [(words, how)] = ran
        assert words == [
            *("git", "-C", str(inventory.parents[1]), "describe", "--always", "--dirty"),
            *("--abbrev=12", "--exclude=*"),
        ]
        assert how == {"capture_output": True, "timeout": 10, "check": True}
        # git is asked once.
        assert held_for("drift", inventory) == Purpose("drift of prod.py", said)
        assert len(ran) == 1

    @pytest.mark.parametrize(
        "error",
        [
            FileNotFoundError("git"),
            subprocess.CalledProcessError(128, "git"),
            subprocess.TimeoutExpired("git", 10),
        ],
    )
    def test_without_git_there_is_none(
        self, inventory: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
    ) -> None:
        def run(*_: Any, **__: Any) -> Any:
            raise error

        monkeypatch.setattr(subprocess, "run", run)
        assert commit_of(inventory) == ""


class TestPaths:
    THERE = Path("/the/site")

    def test_start_from_the_site(self) -> None:
        given = {
            "tls": {"mode": "files", "certificate": "a.pem", "key": "/abs/key", "ca_file": "~/ca"},
            "agents": [
                {"name": "one", "copy_from": "models/a", "model": "models/a"},
                {"name": "two", "copy_from": ""},
                {"name": "three", "copy_from": None},
                "odd",
            ],
            "vllm": {"directory": "rel"},
        }
        before = repr(given)
        assert from_site(given, self.THERE) == {
            "tls": {
                "mode": "files",
                "certificate": "/the/site/a.pem",
                "key": "/abs/key",
                "ca_file": "~/ca",
            },
            "agents": [
                {"name": "one", "copy_from": "/the/site/models/a", "model": "models/a"},
                {"name": "two", "copy_from": ""},
                {"name": "three", "copy_from": None},
                "odd",
            ],
            "vllm": {"directory": "rel"},
        }
        assert repr(given) == before

    @pytest.mark.parametrize("odd", [None, "x", 7])
    def test_what_is_no_section_is_left_to_who_refuses_it(self, odd: object) -> None:
        assert from_site({"tls": odd, "agents": odd}, self.THERE) == {"tls": odd, "agents": odd}
        assert from_site({}, self.THERE) == {}

    def test_agents_may_be_a_tuple(self) -> None:
        found = from_site({"agents": ({"copy_from": "a"},)}, self.THERE)
        assert found == {"agents": [{"copy_from": "/the/site/a"}]}

    def test_in_the_site_they_are_as_they_were_typed(self) -> None:
        given = {"tls": {"key": "a"}}
        assert from_site(given, Path.cwd()) is given


FILES = [
    *(".gitignore", "README.md", "config.py", "deploy.py", "group_data/all.py"),
    *("group_data/gpu_hosts.py", "inventory/prod.py", "keys.py", "remove.py", "rollback.py"),
]


class TestMade:
    def test_all_its_files(self, home: Path) -> None:
        folder = home / "new/deep"
        assert make(folder) == FILES
        there = sorted(path for path in folder.rglob("*") if path.is_file())
        assert [str(path.relative_to(folder)) for path in there] == FILES
        assert (folder / GENERATED).read_text() == fresh()
        inventory = (folder / "inventory/prod.py").read_text()
        assert f'"ssh_user": "{getpass.getuser()}"' in inventory
        assert '# "ssh_key": ' in inventory
        assert "vllm/vllm-openai" in (folder / "group_data/gpu_hosts.py").read_text()

    def test_the_first_key_that_ssh_tries(self, home: Path) -> None:
        for number, name in enumerate(("id_rsa", "id_ecdsa", "id_ed25519")):
            (home / f"home/.ssh/{name}").touch()
            make(home / str(number))
            assert f"~/.ssh/{name}" in (home / f"{number}/inventory/prod.py").read_text()

    def test_where_something_is(self, home: Path) -> None:
        (home / "there").mkdir()
        for name in ("b", "a"):
            (home / "there" / name).touch()
        with pytest.raises(SettingsError) as error:
            make(home / "there")
        assert error.value.problems == [
            f"{home}/there is not empty (it has a); name a folder that is not there yet, or an"
            " empty one. A site that is there: vllm-hosts init --upgrade"
        ]
        (home / "there/a").unlink()
        (home / "there/b").unlink()
        assert make(home / "there") == FILES

    def test_where_nothing_can_be_written(
        self, home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with pytest.raises(SettingsError) as error:
            make(Path("/proc/none"))
        assert error.value.problems == [
            "/proc/none: No such file or directory; name a folder that you may write"
        ]

        whole, written = Path.write_text, []

        def full(path: Path, text: str) -> None:
            written.append(path)
            if len(written) > 4:
                raise OSError(28, "No space left on device")
            whole(path, text)

        monkeypatch.setattr(Path, "write_text", full)
        (home / "empty").mkdir()
        for folder in (home / "new", home / "a/b", home / "empty"):
            written.clear()
            with pytest.raises(SettingsError) as error:
                make(folder)
            assert error.value.problems == [f"{folder}: No space left on device; make room"]
        # Nothing of it is left, and what was there is.
        assert sorted(path.name for path in home.iterdir()) == ["empty", "home"]
        assert list((home / "empty").iterdir()) == []

    def test_a_user_without_name_and_home(
        self, home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def none(*_: object) -> None:
            raise KeyError("uid not found")

        def homeless(*_: object) -> None:
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.setattr(getpass, "getuser", none)
        monkeypatch.setattr(Path, "home", homeless)
        make(home / "new")
        text = (home / "new/inventory/prod.py").read_text()
        assert "root" in text
        assert str(home) not in text


class TestAbove:
    def test_the_nearest_that_is_one(self, home: Path) -> None:
        make(home / "a")
        make(home / "a/b/c")
        assert site_above(home / "a/b/c/inventory") == home / "a/b/c"
        (home / "a/b/c/deploy.py").unlink()
        assert site_above(home / "a/b/c/inventory") == home / "a"
        (home / "a/group_data").rename(home / "a/other")
        with pytest.raises(SettingsError) as error:
            site_above(Path("a/b"))
        assert error.value.problems == [
            "a/b is in no site (which has deploy.py and group_data); name the folder of one"
        ]


class TestUpgrade:
    @pytest.fixture
    def there(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        make(home / "mine")
        monkeypatch.setattr(new_site, "upgraded", lambda before: f"{before}new\n")
        path = home / "mine" / GENERATED
        path.write_text("old\n")
        return path

    LINES = (
        "--- group_data/all.py (as it is)",
        "+++ group_data/all.py (as this version writes it)",
        "@@ -1 +1,2 @@",
        " old",
        "+new",
    )

    def test_it_is_shown_and_written_only_if_told(self, there: Path) -> None:
        there.chmod(0o640)
        assert upgrade(there.parents[1], write=False) == [*self.LINES]
        assert there.read_text() == "old\n"
        assert upgrade(there.parents[1], write=True) == [*self.LINES]
        assert there.read_text() == "old\nnew\n"
        assert there.stat().st_mode & 0o777 == 0o640
        names = {path.name for path in there.parent.iterdir()}
        assert not {name for name in names if name.startswith("all.py.")}

    def test_a_disk_that_is_full_leaves_everything(
        self, there: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = sorted(there.parent.iterdir())

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(shutil, "copymode", full)
        with pytest.raises(SettingsError, match="No space left on device"):
            upgrade(there.parents[1], write=True)
        assert sorted(there.parent.iterdir()) == before
        assert there.read_text() == "old\n"

    def test_a_name_that_somebody_took_is_left_alone(self, there: Path) -> None:
        victim = there.with_name("victim")
        victim.write_text("mine")
        there.with_name("all.py.new").symlink_to(victim)
        upgrade(there.parents[1], write=True)
        assert (victim.read_text(), there.read_text()) == ("mine", "old\nnew\n")
        assert not there.is_symlink()

    def test_a_link_stays_one(self, there: Path) -> None:
        real = there.rename(there.parents[2] / "real.py")
        there.symlink_to(real)
        upgrade(there.parents[1], write=True)
        assert there.is_symlink() and real.read_text() == "old\nnew\n"

    def test_where_there_is_none_yet(self, there: Path) -> None:
        there.unlink()
        lines = upgrade(there.parents[1], write=True)
        assert there.stat().st_mode & 0o777 == 0o644
        assert lines[2:] == ["@@ -0,0 +1 @@", "+new"]
        assert there.read_text() == "new\n"

    def test_nothing_is_written_where_nothing_differs(
        self, there: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(new_site, "upgraded", lambda before: before)
        before = there.stat()
        assert upgrade(there.parents[1], write=True) == []
        assert there.stat().st_ino == before.st_ino

    def test_what_cannot_be_read(self, there: Path) -> None:
        there.write_bytes(b"\xff")
        with pytest.raises(SettingsError) as error:
            upgrade(there.parents[1], write=False)
        [problem] = error.value.problems
        assert problem.startswith(f"{there} cannot be read or written: 'utf-8' codec")
        assert problem.endswith("; correct that")
