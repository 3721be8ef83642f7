"""An installation with lists that the run has read before: an archive may have moved on."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest

from vllm_hosts.operations import apt, apt_lists

OLDER, NEWER = "1.0", "1.1"
DONE = "trap 'echo left' EXIT; "


def publish(root: Path, version: str) -> None:
    """An archive of one package, which has no other version any more."""
    tree, archive = root / "tree", root / "archive"
    for folder in (tree, archive):
        shutil.rmtree(folder, ignore_errors=True)
    (tree / "DEBIAN").mkdir(parents=True)
    archive.mkdir()
    about = f"Package: tiny\nVersion: {version}\nArchitecture: all\nMaintainer: x <x@x.example>\n"
    (tree / "DEBIAN/control").write_text(f"{about}Description: x\n")
    name = f"tiny_{version}_all.deb"
    subprocess.run(["dpkg-deb", "-b", tree, archive / name], check=True, capture_output=True)
    whole = (archive / name).read_bytes()
    (archive / "Packages").write_text(
        f"{about}Filename: ./{name}\nSize: {len(whole)}\n"
        f"SHA256: {hashlib.sha256(whole).hexdigest()}\nDescription: x\n"
    )


@pytest.mark.skipif(not shutil.which("apt-get"), reason="needs apt")
class TestAptItself:
    """This machine's, with an archive and lists of its own."""

    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        for folder in (
            "etc/apt.conf.d",
            "etc/preferences.d",
            "state/lists/partial",
            "cache",
            "got",
        ):
            (tmp_path / folder).mkdir(parents=True)
        (tmp_path / "state/status").touch()
        (tmp_path / "etc/sources.list").write_text(
            f"deb [trusted=yes] copy:{tmp_path}/archive ./\n"
        )
        (tmp_path / "apt.conf").write_text(
            f'Dir::Etc "{tmp_path}/etc"; Dir::State "{tmp_path}/state"; APT::Sandbox::User "root";'
            f' Dir::Cache "{tmp_path}/cache"; Dir::State::status "{tmp_path}/state/status";\n'
        )
        publish(tmp_path, OLDER)
        assert self.run(tmp_path, "apt-get update").returncode == 0
        return tmp_path

    def run(self, root: Path, script: str) -> subprocess.CompletedProcess[str]:
        script = script.replace(apt._LISTS, f"{root}/state/lists/lock")
        return subprocess.run(
            ["sh", "-c", script], cwd=root / "got", capture_output=True, text=True, check=False,
            env={"PATH": "/usr/bin:/bin", "APT_CONFIG": f"{root}/apt.conf", "LC_ALL": "C"},
        )  # fmt: skip

    def test_the_lists_of_one_archive_are_read_alone(self, root: Path) -> None:
        """As when an archive is added: it can be used then, and all others as before."""
        shutil.copytree(root / "archive", root / "another")
        packages = root / "another/Packages"
        packages.write_text(packages.read_text().replace(": tiny", ": other"))
        source = root / "etc/sources.list.d/another.sources"
        source.parent.mkdir()
        source.write_text(f"Types: deb\nURIs: copy:{root}/another\nSuites: ./\nTrusted: yes\n")
        # A list that is read would change by that, and one that is gone would be an error.
        (root / "archive/Packages").unlink()
        done = self.run(root, apt._read_alone(str(source)))
        assert done.returncode == 0 and "W:" not in done.stderr, done.stderr
        known = self.run(root, "apt-cache madison tiny other").stdout
        assert [line.split()[0] for line in known.splitlines()] == ["tiny", "other"]
        assert self.run(root, "apt-get update").returncode != 0
        packages.unlink()
        assert self.run(root, apt._read_alone(str(source))).returncode != 0

    def got(self, root: Path) -> list[str]:
        return [path.name.split("_")[1] for path in (root / "got").iterdir()]

    def fetched(
        self, root: Path, monkeypatch: pytest.MonkeyPatch, *, recent: bool, name: str = "tiny"
    ) -> subprocess.CompletedProcess[str]:
        monkeypatch.setattr(apt_lists, "recent", lambda: recent)
        # As an installation, which this machine is not meant to have.
        command = apt._finished(f"{apt._APT_GET} download {name}")
        return self.run(root, f"set -e; {DONE}{apt._with_lists(f'echo first; {command}')}")

    def test_lists_that_were_just_read_are_enough(
        self, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # It would be missed if the lists were read.
        (root / "archive/Packages").unlink()
        done = self.fetched(root, monkeypatch, recent=True)
        assert (done.returncode, self.got(root)) == (0, [OLDER]), done.stdout + done.stderr
        assert "once more" not in done.stdout

    @pytest.mark.parametrize("name", ["tiny", f"tiny={NEWER}"])
    def test_of_an_archive_that_has_moved_on_they_are_read_again(
        self, root: Path, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        publish(root, NEWER)
        done = self.fetched(root, monkeypatch, recent=True, name=name)
        assert (done.returncode, self.got(root)) == (0, [NEWER]), done.stdout + done.stderr
        assert done.stdout.count("once more, with new lists") == 1
        assert done.stdout.count("first\n") == 2 and done.stdout.count("left\n") == 1

    def test_others_are_read_at_once(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        publish(root, NEWER)
        done = self.fetched(root, monkeypatch, recent=False)
        assert (done.returncode, self.got(root)) == (0, [NEWER]), done.stdout + done.stderr
        assert done.stdout.count("first\n") == 1

    def test_what_no_list_has_fails_as_ever(
        self, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        done = self.fetched(root, monkeypatch, recent=True, name="none")
        assert done.returncode == 1 and self.got(root) == []
        assert done.stderr.count("none") >= 2 and done.stdout.endswith("left\n")


@pytest.mark.parametrize("then", ["false; echo went on", "(exit 7); echo went on"])
def test_an_error_before_the_installation_is_one(
    monkeypatch: pytest.MonkeyPatch, then: str
) -> None:
    """As in a script that ends at the first one, which is not so before ``||``."""
    monkeypatch.setattr(apt_lists, "recent", lambda: True)
    monkeypatch.setattr(apt, "_read_lists", lambda: "echo read")
    script = f"set -e; {apt._with_lists(then)}; echo done"
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert done.stdout == "once more, with new lists\nread\n"
