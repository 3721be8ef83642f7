"""Archives that a host knew before: apt works after our run as it did before, however it ends."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.driver_hosts import DEBIAN_13
from vllm_hosts.errors import HostError
from vllm_hosts.facts.apt import AptKeyFingerprints, AptSourceFiles
from vllm_hosts.facts.tree import TreeFound, TreeState
from vllm_hosts.host.apt_entries import Edit, in_the_way, is_source, mentioned
from vllm_hosts.host.apt_sources import extended, offered, read
from vllm_hosts.host.archives import docker_archive
from vllm_hosts.host.files import NOTHING, Absent, Entry, File
from vllm_hosts.operations import apt
from vllm_hosts.operations.apt import archive_script
from vllm_hosts.roles.docker.plan import CE_STALE
from vllm_hosts.settings import Docker

FOLDER = "/etc/apt/sources.list.d/"
URL = "https://download.docker.com/linux/debian"
OURS = FOLDER + "docker.sources"
LINE = f"deb [arch=amd64 signed-by=/etc/apt/keyrings/other.gpg] {URL} trixie stable\n"
STANZA = f"Types: deb\nURIs: {URL}/\nSuites: trixie\nComponents: stable\n"
DEBIAN = "deb http://deb.debian.org/debian trixie main\n"
DEBIAN_STANZA = "Types: deb\nURIs: http://deb.debian.org/debian\nSuites: trixie\nComponents: main\n"
PRINT = "A" * 40
NON_FREE = ("contrib", "non-free", "non-free-firmware")


def found(files: dict[str, str], url: str = URL, suite: str = "trixie") -> list[Edit]:
    return in_the_way(files, url, suite, "amd64", but=OURS)


class TestByArchive:
    @pytest.mark.parametrize(
        ("name", "text"),
        [
            # Ansible's apt_repository, add-apt-repository, Docker's script, Puppet, a person.
            ("download_docker_com_linux_debian.list", f"deb {URL} trixie stable\n"),
            ("archive_uri-https_download_docker_com_linux_debian-trixie.list", LINE),
            ("docker.list", LINE),
            ("docker-ce.list", f"deb {URL}/ trixie stable # docker\n"),
            ("00.list", f"# x\n\ndeb\t[ trusted=yes ]   {URL}   trixie   stable test\n"),
            ("src.list", f"deb-src {URL} trixie stable\n"),
            ("plain.list", f"deb {URL.replace('https', 'http')} trixie stable\n"),
            ("HOST.list", f"deb {URL.replace('download', 'Download')} trixie stable\n"),
            ("crlf.list", f"deb {URL} trixie stable\r\n"),
            ("download.docker.com.sources", STANZA),
            ("x.sources", f"{STANZA}Signed-By:\n -----BEGIN PGP\n .\n x\n"),
            ("case.sources", STANZA.replace("URIs", "uris").replace("Suites", "SUITES")),
            ("yes.sources", f"Enabled: yes\n{STANZA}"),
        ],
    )
    def test_whatever_the_file_is_called(self, name: str, text: str) -> None:
        assert found({FOLDER + name: text, "/etc/apt/sources.list": DEBIAN}) == [
            Edit(FOLDER + name, None)
        ]

    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("docker.list.save", LINE),
            ("docker.list.distUpgrade", LINE),
            ("docker.sources.bak", STANZA),
            ("docker.disabled", LINE),
            (".docker.list", LINE),
            ("docker ce.list", LINE),
            ("off.sources", f"{STANZA}Enabled: no\n"),
            ("commented.list", f"# {LINE}"),
            ("other-suite.list", LINE.replace("trixie", "bookworm")),
            ("mirror.list", LINE.replace("download.docker.com", "mirror.example.com")),
            ("docker.sources", STANZA),
        ],
    )
    def test_what_apt_does_not_read_or_is_another_archive_stays(self, name: str, text: str) -> None:
        assert found({FOLDER + name: text}) == []

    def test_a_flat_archive_under_all_its_ways_to_be_written(self) -> None:
        url = "https://nvidia.github.io/libnvidia-container/stable/deb/amd64"
        for entry in (
            f"deb [signed-by=/k.gpg] {url.replace('amd64', '$(ARCH)')} /",
            f"deb {url}/ /",
            f"deb {url} ./",
            f"deb {url.removesuffix('/amd64')} $(ARCH)/",
        ):
            assert found({FOLDER + "nv.list": entry}, url, "/"), entry
        assert not found({FOLDER + "nv.list": f"deb {url.replace('amd64', 'arm64')} /"}, url, "/")

    def test_others_of_the_same_file_stay(self) -> None:
        files = {
            "/etc/apt/sources.list": DEBIAN + LINE,
            FOLDER + "all.sources": f"{STANZA}\n{STANZA.replace('trixie', 'forky')}",
            FOLDER + "two.sources": f"{STANZA}Enabled: true\n\n{STANZA.replace('docker', 'x')}",
        }
        assert found(files) == [
            Edit("/etc/apt/sources.list", ("2s/^/# /",)),
            Edit(FOLDER + "all.sources", ("1i Enabled: no",)),
            Edit(FOLDER + "two.sources", ("5s/^/# /", "1i Enabled: no")),
        ]
        assert found({"/etc/apt/sources.list": LINE}) == [
            Edit("/etc/apt/sources.list", ("1s/^/# /",))
        ], "apt's own file is never moved away"

    @pytest.mark.parametrize(
        "text",
        [
            STANZA.replace("trixie", "trixie bookworm"),
            STANZA.replace(f"{URL}/", f"{URL} https://mirror.example.com/docker"),
        ],
    )
    def test_one_entry_for_several_archives_is_named_before_anything_is_written(
        self, text: str
    ) -> None:
        with pytest.raises(HostError, match=r"all\.sources, line 3: one entry names .* own, or"):
            found({FOLDER + "all.sources": f"# a\n\n{text}"})

    def test_a_key_that_others_use_stays(self) -> None:
        key, path = "/etc/apt/keyrings/docker.gpg", FOLDER + "other.list"
        other = f"deb [signed-by={key}] {URL} bookworm stable\n"
        assert mentioned(key, {path: other}, [OURS])
        assert not mentioned(key, {path: other}, [path])
        assert not mentioned(key, {f"{path}.save": other}, [])


class TestAsAptReads:
    def test_only_files_with_apts_names(self) -> None:
        assert is_source("/etc/apt/sources.list")
        files = {
            FOLDER + "debian.list": DEBIAN,
            **{
                FOLDER + name: DEBIAN.replace("deb.debian.org", "old.example.com")
                for name in ("debian.list.save", "x.disabled", "x.list.distUpgrade", "x.list.bak")
            },
        }
        [source] = read(files, but="ours")
        assert source.uris == "http://deb.debian.org/debian"

    @pytest.mark.parametrize(
        "word", ["no", "No", "false", "FALSE", "0", "off", "without", "disable"]
    )
    def test_a_stanza_that_is_off(self, word: str) -> None:
        text = "Types: deb\nURIs: http://x/debian\nSuites: trixie\nComponents: main\nEnabled: "
        assert read({FOLDER + "x.sources": f"{text}{word}\n"}, but="ours") == []
        assert read({FOLDER + "x.sources": f"{text}yes\n"}, but="ours") != []

    @pytest.mark.parametrize("blank", ["  ", "\t", " \r"])
    def test_a_line_of_blanks_does_not_end_a_stanza(self, blank: str) -> None:
        """apt takes what is on both sides for one stanza, and of two fields the last one."""
        text = f"{DEBIAN_STANZA}{blank}\n{STANZA}"
        [source] = read({FOLDER + "x.sources": text}, but="ours")
        assert source.uris == f"{URL}/"
        assert found({FOLDER + "x.sources": text}) == [Edit(FOLDER + "x.sources", None)]
        assert found({FOLDER + "x.sources": f"{STANZA}{blank}\n{DEBIAN_STANZA}"}) == []
        assert len(read({FOLDER + "x.sources": f"{blank}\n{text}"}, but="ours")) == 1

    def test_a_file_that_apt_cannot_read_is_named(self) -> None:
        with pytest.raises(HostError, match=r"x\.sources, line 2"):
            read({FOLDER + "x.sources": "\n Types: deb\n"}, but="ours")

    def test_a_disc_is_no_archive_with_a_name(self) -> None:
        text = f"deb cdrom:[Debian GNU/Linux 13 _Trixie_]/ trixie main\n{DEBIAN}"
        assert [source.suites for source in read({FOLDER + "x.list": text}, but="o")] == [
            ("trixie",), ("trixie",)
        ]  # fmt: skip


class TestAliases:
    @pytest.mark.parametrize(
        ("alias", "release"),
        [("stable", "trixie"), ("oldstable", "bookworm"), ("stable-security", "trixie")],
    )
    def test_an_alias_counts_as_its_release(self, alias: str, release: str) -> None:
        line = f"deb http://deb.debian.org/debian {alias} main\n"
        sources = read({"/etc/apt/sources.list": line}, but="ours")
        assert offered(sources, release)
        assert text(extended(sources, release, NON_FREE, "ours")) == (
            f"deb http://deb.debian.org/debian {alias} contrib non-free non-free-firmware\n"
        )

    def test_in_stanzas_too_and_for_its_release_only(self) -> None:
        stanza = (
            "Types: deb\nURIs: http://d/debian\nSuites: stable stable-updates\nComponents: main\n"
        )
        sources = read({FOLDER + "d.sources": stanza}, but="ours")
        assert "Suites: stable stable-updates" in text(extended(sources, "trixie", NON_FREE, "o"))
        assert not offered(sources, "bookworm")
        assert text(extended(sources, "bookworm", NON_FREE, "o")) == ""


def text(entries: list[Entry]) -> str:
    return "".join(
        "" if isinstance(entry, Absent) else entry.content.decode()
        for entry in entries
        if isinstance(entry, File | Absent)
    )


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
        assert now[FOLDER + "both.sources"].startswith("Enabled: no\nTypes: deb")
        assert [source.uris for source in read(now, but="docker")] == [
            "https://download.x.com/linux/debian/", "http://deb.debian.org/debian",
        ]  # fmt: skip
        assert (root / f"previous{root}{FOLDER}third.list").read_text() == f"{DEBIAN}{LINE}"

    @pytest.mark.parametrize("fault", ["exit 100", "kill -TERM $PPID; sleep 2"])
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
        ("mkdir", 2), ("cp", 1), ("cp", 4), ("rm", 1), ("sed", 1), ("install", 2), ("mv", 1),
        ("mv", 2), ("apt-get", 1), ("apt-get", 2),
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
        monkeypatch.setattr(apt, "watched", lambda label, script: script)
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
