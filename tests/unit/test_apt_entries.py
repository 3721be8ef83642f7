"""Archives that a host knew before: which entries name them, read as apt reads them."""

from __future__ import annotations

import pytest

from vllm_hosts.errors import HostError
from vllm_hosts.host.apt_entries import Edit, in_the_way, is_key, is_source, mentioned
from vllm_hosts.host.apt_sources import extended, offered, read
from vllm_hosts.host.files import Absent, Entry, File

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
        for other in (url.replace("amd64", "arm64"), url.replace("deb/amd64", "debamd64")):
            assert not found({FOLDER + "nv.list": f"deb {other} /"}, url, "/")
        # Not a flat one: its suite is no folder.
        assert not found({FOLDER + "docker.list": f"deb {URL}/trixie /"})

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
        assert found({FOLDER + "third.list": DEBIAN + LINE}) == [
            Edit(FOLDER + "third.list", ("2s/^/# /",))
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
        with pytest.raises(
            HostError, match=r"all\.sources, line 3: .* names download\.d.* own, or"
        ):
            found({FOLDER + "all.sources": f"# a\n\n{text}"})

    def test_what_is_a_key(self) -> None:
        assert [is_key(f"/etc/apt/keyrings/docker{end}") for end in (".asc", ".gpg", ".list")] == [
            True, True, False,
        ]  # fmt: skip

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

    @pytest.mark.parametrize(("text", "line"), [("\n Types: deb\n", 2), (" Types: deb\n", 1)])
    def test_a_file_that_apt_cannot_read_is_named(self, text: str, line: int) -> None:
        with pytest.raises(HostError, match=rf"x\.sources, line {line}"):
            read({FOLDER + "x.sources": text}, but="ours")

    def test_lines_that_end_as_on_windows(self) -> None:
        text = f"{DEBIAN_STANZA}\n{STANZA}".replace("\n", "\r\n")
        assert len(read({FOLDER + "x.sources": text}, but="ours")) == 2
        assert found({FOLDER + "x.sources": text}) == [
            Edit(FOLDER + "x.sources", ("6i Enabled: no",))
        ]

    def test_a_key_inside_of_an_entry_is_read_as_it_stands(self) -> None:
        key = "Signed-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n mQ"
        [source] = read({FOLDER + "x.sources": f"{DEBIAN_STANZA}{key}\n"}, but="ours")
        assert source.options == key.replace(":\n", ": \n")

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
