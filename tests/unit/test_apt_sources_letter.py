"""Components that are added to a distribution's own archives, to the letter."""

from __future__ import annotations

from vllm_hosts.host.apt_sources import Source, extended, offered, read
from vllm_hosts.host.files import Absent, Entry, File

FOLDER = "/etc/apt/sources.list.d"
URL = "http://deb.debian.org/debian"
SECURITY = "http://security.debian.org/debian-security"
STANZA = f"""Types: deb deb-src
URIs: {URL}
  http://mirror.example/debian
Suites: trixie trixie-updates
Components: main contrib
Enabled: yes
Signed-By: /usr/share/keyrings/debian.gpg
Architectures: amd64
"""


def added(files: dict[str, str], *components: str) -> list[Entry]:
    return extended(read(files, but="ours"), "trixie", components, "ours")


def test_lines_each_with_what_its_archive_lacks() -> None:
    lines = (
        f"deb [signed-by=/k.gpg] {URL} trixie main\n"
        f"deb {URL} trixie-updates main contrib\n"
        f"deb {URL} trixie contrib\n"
        f"deb {SECURITY} trixie-security main\n"
        f"deb {URL} bookworm main\n"
    )
    assert added({"/etc/apt/sources.list": lines}, "contrib", "non-free") == [
        File(
            f"{FOLDER}/ours.list",
            (
                f"deb [signed-by=/k.gpg] {URL} trixie non-free\n"
                f"deb {URL} trixie-updates non-free\n"
                f"deb {SECURITY} trixie-security contrib non-free\n"
            ).encode(),
        ),
        Absent(f"{FOLDER}/ours.sources"),
    ]


def test_stanzas_with_all_their_other_fields() -> None:
    another = f"Types: deb\nURIs: {SECURITY}\nSuites: trixie-security\nComponents: main\n"
    files = {f"{FOLDER}/debian.sources": f"{STANZA}\n{another}"}
    assert added(files, "non-free") == [
        Absent(f"{FOLDER}/ours.list"),
        File(
            f"{FOLDER}/ours.sources",
            (
                f"Types: deb\nURIs: {URL} http://mirror.example/debian\n"
                "Suites: trixie trixie-updates\nComponents: non-free\n"
                "Signed-By: /usr/share/keyrings/debian.gpg\nArchitectures: amd64\n\n"
                f"Types: deb\nURIs: {SECURITY}\nSuites: trixie-security\nComponents: non-free\n"
            ).encode(),
        ),
    ]


def test_what_stands_in_an_entry_is_written_as_it_was() -> None:
    """Also where it is no text."""
    line = f"deb [signed-by=/k\udcff.gpg] {URL} trixie main\n"
    [file, _] = added({"/etc/apt/sources.list": line}, "contrib")
    assert isinstance(file, File)
    assert file.content == f"deb [signed-by=/k§.gpg] {URL} trixie contrib\n".encode().replace(
        "§".encode(), b"\xff"
    )


def test_nothing_is_added_where_nothing_is_missing() -> None:
    gone = [Absent(f"{FOLDER}/ours.list"), Absent(f"{FOLDER}/ours.sources")]
    line = f"deb {URL} trixie main contrib\n"
    assert added({"/etc/apt/sources.list": line}, "contrib") == gone
    assert added({"/etc/apt/sources.list": f"deb {URL} trixie contrib\n"}, "non-free") == gone
    assert added({"/etc/apt/sources.list": line, f"{FOLDER}/ours.list": line}, "contrib") == gone
    # Ours are left out: without the archive's own there is nothing to extend.
    assert added({f"{FOLDER}/ours.list": f"deb {URL} trixie main\n"}, "contrib") == gone


def test_a_stanza_says_what_it_is() -> None:
    path = f"{FOLDER}/debian.sources"
    [source] = read({path: STANZA}, but="ours")
    assert source == Source(
        f"{URL} http://mirror.example/debian",
        ("trixie", "trixie-updates"),
        ("main", "contrib"),
        "Signed-By: /usr/share/keyrings/debian.gpg\nArchitectures: amd64",
        True,
    )
    # A flat archive has no components, and an odd one no suites.
    [flat] = read({path: f"Types: deb\nURIs: {URL}\nSuites: ./\n"}, but="ours")
    assert flat == Source(URL, ("./",), (), "", True)
    assert read({path: STANZA.replace("deb deb-src", "deb-src")}, but="ours") == []
    assert read({path: STANZA.replace("Enabled: yes", "Enabled: no")}, but="ours") == []
    assert not offered([flat], "trixie") and offered([source], "trixie")
