"""Archives that a host knew before: apt works after our run as it did before, however it ends."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.driver_hosts import DEBIAN_13
from tests.unit.test_apt_entries import DEBIAN, FOLDER, LINE, OURS, STANZA, URL
from vllm_hosts.facts.apt import AptKeyFingerprints, AptSourceFiles
from vllm_hosts.facts.tree import TreeFound, TreeState
from vllm_hosts.host.apt_entries import Edit, in_the_way
from vllm_hosts.host.apt_sources import read
from vllm_hosts.host.archives import docker_archive
from vllm_hosts.host.files import NOTHING
from vllm_hosts.host.paths import MANIFEST
from vllm_hosts.operations import apt
from vllm_hosts.operations.apt import archive_script
from vllm_hosts.roles.docker.plan import CE_STALE
from vllm_hosts.settings import Docker

PRINT = "A" * 40


@pytest.mark.skipif(not shutil.which("apt-get"), reason="needs apt")
class TestTheScript:
    """It runs for real, with this machine's apt, below a folder of its own."""

    @pytest.fixture
    def root(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        for folder in ("etc/apt/sources.list.d", "etc/apt/keyrings", "bin", "tmp", "state/lists"):
            (tmp_path / folder).mkdir(parents=True)
        (tmp_path / "apt.conf").write_text(
            f'Dir::Etc "{tmp_path}/etc/apt"; Dir::State "{tmp_path}/state";'
            f' Dir::Cache "{tmp_path}/state"; Dir::Etc::Parts "/dev/null";\n'
        )
        monkeypatch.setattr(apt, "PREVIOUS", f"{tmp_path}/previous")
        self.program(tmp_path, "helper", 'echo a key >"$3"')
        self.program(tmp_path, "gpg", f"echo pub:x; echo fpr:::::::::{PRINT}:")
        self.program(
            tmp_path, "apt-get",
            f"""case $* in *update*) exec {tmp_path}/bin/update;; esac
            exec /usr/bin/apt-get "$@" """,
        )  # fmt: skip
        self.program(tmp_path, "update", "exit 0")
        return tmp_path

    def program(self, root: Path, name: str, script: str) -> None:
        path = root / "bin" / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def sources(self, root: Path) -> dict[str, str]:
        """As the fact reads them: paths are those of a host."""
        folder = root / "etc/apt"
        found = {f"/{path.relative_to(root)}": path.read_text() for path in folder.rglob("*.*")
                 if path.is_file() and path.suffix in (".list", ".sources")}  # fmt: skip
        return dict(sorted(found.items()))

    def run(self, root: Path) -> subprocess.CompletedProcess[str]:
        docker = Docker(key_fingerprint=PRINT)
        added = docker_archive(docker, DEBIAN_13)
        edits = in_the_way(self.sources(root), added.url, added.suite, "amd64", but=OURS)
        script = archive_script(added, edits)
        script = script.replace("/etc/apt/", f"{root}/etc/apt/")
        script = script.replace("/usr/lib/apt/apt-helper", f"{root}/bin/helper")
        script = script.replace(MANIFEST, f"{root}/manifest")
        script = script.replace("/etc/ssl/certs/ca-certificates.crt", "/bin/sh")
        return subprocess.run(
            ["sh", "-c", script],
            env={"PATH": f"{root}/bin:/usr/bin:/bin", "APT_CONFIG": f"{root}/apt.conf",
                 "TMPDIR": f"{root}/tmp"},
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    def readable(self, root: Path) -> bool:
        """Whether apt itself can read all sources."""
        done = subprocess.run(
            ["/usr/bin/apt-get", "indextargets"], check=False, capture_output=True,
            env={"PATH": "/usr/bin:/bin", "APT_CONFIG": f"{root}/apt.conf"},
        )  # fmt: skip
        return done.returncode == 0

    BEFORE = (
        ("download_docker_com_linux_debian.list", f"deb {URL} trixie stable\n"),
        ("third.list", f"{DEBIAN}{LINE}"),
        ("both.sources", f"{STANZA}Enabled: yes\n\n{STANZA.replace('docker', 'x')}"),
        ("other.sources", STANZA.replace("trixie", "bookworm")),
    )

    def test_apt_itself_stops_at_two_keys_for_one_archive(self, root: Path) -> None:
        """What all of this is for."""
        (root / f"etc{FOLDER[4:]}a.list").write_text(LINE)
        (root / f"etc{FOLDER[4:]}b.list").write_text(f"deb {URL} trixie stable\n")
        assert not self.readable(root)

    def test_entries_give_way_and_apt_works(self, root: Path) -> None:
        for name, said in self.BEFORE[:1] + self.BEFORE[3:]:
            (root / f"etc{FOLDER[4:]}{name}").write_text(said)
        assert self.readable(root)
        done = self.run(root)
        assert done.returncode == 0, done.stdout + done.stderr
        assert self.readable(root)
        now = self.sources(root)
        assert set(now) == {OURS, FOLDER + "other.sources"}
        kept = root / f"previous{root}{FOLDER}{self.BEFORE[0][0]}"
        assert kept.read_text() == self.BEFORE[0][1]
        assert (root / "manifest").read_text().splitlines() == [
            f"gave-way - {root}{FOLDER}{self.BEFORE[0][0]}",
            f"source {root}/etc/apt/keyrings/docker.asc",
            f"source {root}{OURS}",
        ]
        assert in_the_way(now, URL, "trixie", "amd64", but=OURS) == []
        assert list((root / "tmp").iterdir()) == []

    def test_entries_beside_others_are_switched_off(self, root: Path) -> None:
        for name, said in self.BEFORE[1:3]:
            (root / f"etc{FOLDER[4:]}{name}").write_text(said)
        done = self.run(root)
        assert done.returncode == 0, done.stdout + done.stderr
        assert self.readable(root)
        now = self.sources(root)
        assert now[FOLDER + "third.list"] == f"{DEBIAN}# {LINE}"
        there = hashlib.sha256(now[FOLDER + "third.list"].encode()).hexdigest()
        noted = (root / "manifest").read_text().splitlines()
        assert f"gave-way {there} {root}{FOLDER}third.list" in noted
        assert now[FOLDER + "both.sources"].startswith("Enabled: no\nTypes: deb")
        assert [source.uris for source in read(now, but="docker")] == [
            "https://download.x.com/linux/debian/", "http://deb.debian.org/debian",
        ]  # fmt: skip
        assert (root / f"previous{root}{FOLDER}third.list").read_text() == f"{DEBIAN}{LINE}"

    @pytest.mark.parametrize("fault", ["exit 100", "kill -TERM $PPID; sleep 0.5"])
    def test_after_any_end_all_is_there_or_all_is_as_it_was(self, root: Path, fault: str) -> None:
        for name, said in (self.BEFORE[0], self.BEFORE[3]):
            (root / f"etc{FOLDER[4:]}{name}").write_text(said)
        (root / "etc/apt/keyrings/docker.asc").write_text("their own key")
        before = self.sources(root)
        self.program(root, "update", fault)
        done = self.run(root)
        assert done.returncode != 0
        assert self.sources(root) == before
        assert (root / "etc/apt/keyrings/docker.asc").read_text() == "their own key"
        assert self.readable(root)
        assert "the sources of apt are what they were before" in done.stdout
        assert list((root / "tmp").iterdir()) == []

    #: A program of the script's, and which call of it the run is killed at: before and behind
    #: each change to what apt reads.
    KILLED = (
        ("mkdir", 2), ("cp", 1), ("cp", 4), ("rm", 1), ("sed", 2), ("install", 2), ("mv", 1),
        ("mv", 2), ("mv", 4), ("mv", 5), ("apt-get", 1), ("apt-get", 2),
    )  # fmt: skip

    @pytest.mark.parametrize("when", ["before", "behind"])
    @pytest.mark.parametrize(("name", "call"), KILLED)
    def test_a_run_that_is_killed_leaves_apt_working_and_the_next_one_ends_it(
        self, root: Path, name: str, call: int, when: str
    ) -> None:
        for file, said in (self.BEFORE[0], self.BEFORE[1], self.BEFORE[3]):
            (root / f"etc{FOLDER[4:]}{file}").write_text(said)
        assert self.readable(root)
        real = root / "bin" / name if name == "apt-get" else Path("/usr/bin", name)
        if name == "apt-get":
            real = real.rename(root / "bin/real-apt-get")
        do, kill = f'{real} "$@"', f"[ $(wc -c <{root}/calls) != {call} ] || kill -KILL $PPID"
        first, second = (kill, do) if when == "before" else (do, kill)
        self.program(root, name, f"printf x >>{root}/calls\n{first} || exit\n{second}")
        assert self.run(root).returncode == -signal.SIGKILL
        # What was started goes on for a moment.
        time.sleep(0.1)
        assert self.readable(root)
        (root / "bin" / name).unlink()
        if name == "apt-get":
            real.rename(root / "bin/apt-get")
        done = self.run(root)
        assert done.returncode == 0, done.stdout + done.stderr
        assert self.readable(root)
        assert set(self.sources(root)) == {OURS, FOLDER + "third.list", FOLDER + "other.sources"}
        kept = root / f"previous{root}{FOLDER}"
        assert (kept / self.BEFORE[0][0]).read_text() == self.BEFORE[0][1]
        assert (kept / self.BEFORE[1][0]).read_text() == self.BEFORE[1][1]

    def test_sources_that_apt_refuses_are_put_back(self, root: Path) -> None:
        """An entry that is not seen to be the same, and is for apt."""
        path = root / f"etc{FOLDER[4:]}x.list"
        path.write_text(LINE)
        before = path.read_text()
        edits: list[Edit] = []
        script = archive_script(docker_archive(Docker(key_fingerprint=PRINT), DEBIAN_13), edits)
        script = script.replace("/etc/apt/", f"{root}/etc/apt/")
        script = script.replace("/usr/lib/apt/apt-helper", f"{root}/bin/helper")
        script = script.replace(MANIFEST, f"{root}/manifest")
        done = subprocess.run(
            ["sh", "-c", script.replace("/etc/ssl/certs/ca-certificates.crt", "/bin/sh")],
            env={**os.environ, "PATH": f"{root}/bin:/usr/bin:/bin",
                 "APT_CONFIG": f"{root}/apt.conf", "TMPDIR": f"{root}/tmp"},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode != 0
        assert "Conflicting values set for option Signed-By" in done.stderr
        assert path.read_text() == before
        assert not (root / f"etc{FOLDER[4:]}docker.sources").exists()
        assert self.readable(root)


class TestTheOperation:
    """What is looked at, and what gives way, without a host."""

    def edits(
        self, monkeypatch: pytest.MonkeyPatch, sources: dict[str, str], there: list[str]
    ) -> list[Edit]:
        found: list[Edit] = []
        added = docker_archive(Docker(), DEBIAN_13)
        paths = {
            path: replace(NOTHING, kind="f" if path in there else "-")
            for path in [added.source.path, *CE_STALE]
        }
        answers = {
            TreeState: TreeFound(paths, ""),
            AptSourceFiles: sources,
            AptKeyFingerprints: (added.key_fingerprint,),
        }
        monkeypatch.setattr(apt, "look", lambda fact, **_: answers[fact])
        monkeypatch.setattr(apt, "differs", lambda what, how: None)
        monkeypatch.setattr(apt, "entries_differ", lambda entries, paths: None)
        monkeypatch.setattr(apt, "archive_script", lambda archive, edits: found.extend(edits))
        monkeypatch.setattr(apt, "watched", lambda label, script, **_: script)
        list(apt.archive_added(added, stale=CE_STALE))
        return found

    KEY = "/etc/apt/keyrings/docker.gpg"

    def test_an_older_instruction_s_list_goes_with_its_key(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Both in one run, so that the next one finds nothing to do."""
        path = FOLDER + "docker.list"
        sources = {path: f"deb [signed-by={self.KEY}] {URL} bookworm stable\n"}
        assert self.edits(monkeypatch, sources, [path, self.KEY]) == [
            Edit(path, None), Edit(self.KEY, None)
        ]  # fmt: skip

    def test_the_key_of_an_archive_that_stays_stays(self, monkeypatch: pytest.MonkeyPatch) -> None:
        sources = {FOLDER + "mine.list": f"deb [signed-by={self.KEY}] {URL} bookworm stable\n"}
        assert self.edits(monkeypatch, sources, [self.KEY]) == []

    def test_a_stale_file_with_other_archives_keeps_them(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = FOLDER + "docker.list"
        assert self.edits(monkeypatch, {path: DEBIAN + LINE}, [path]) == [Edit(path, ("2s/^/# /",))]
