"""Finds entries of apt's source files by the archive that they name, whatever the file is called.

apt refuses to work at all while two entries name the same archive with different keys, so existing
entries have to be disabled before we add ours. Touches no host.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from vllm_hosts.errors import HostError

#: apt-pkg/contrib/fileutl.cc, GetListOfFilesInDir: files with other names are skipped.
_NAME = re.compile(r"[A-Za-z0-9_:-][A-Za-z0-9_.:-]*\.(list|sources)")
#: apt-pkg/contrib/strutl.cc, StringToBool.
_NO = frozenset({"no", "false", "without", "off", "disable", "0"})
#: sources.list(5): the type, options in brackets, the URI, the suite. A URI may contain brackets,
#: and blanks within them (``cdrom:[Debian GNU/Linux 13]/``).
_LINE = re.compile(
    r"(?P<type>deb|deb-src)\s+(?:\[(?P<options>[^\]]*)\]\s+)?"
    r"(?P<uri>(?:\[[^\]]*\]|[^\s\[])+)\s+(?P<suite>\S+)(?P<rest>(?:\s+\S+)*)"
)


@dataclass(frozen=True)
class Stanza:
    """One stanza of a deb822 file: values, names as written and lines, by lower-case name."""

    first: int
    fields: Mapping[str, str]
    names: Mapping[str, str]
    lines: Mapping[str, int]

    @property
    def enabled(self) -> bool:
        return self.fields.get("enabled", "yes").lower() not in _NO


@dataclass(frozen=True)
class Line:
    """One entry of a ``.list`` file."""

    number: int
    type: str
    options: str
    uri: str
    suite: str
    components: tuple[str, ...]


@dataclass(frozen=True)
class Edit:
    """How to disable a file's entries: by removing it if ``sed`` is None, else by sed commands."""

    path: str
    sed: tuple[str, ...] | None


def is_source(path: str) -> bool:
    """Whether apt reads this file, as it does not ``docker.list.save`` or ``x.sources.bak``."""
    return bool(_NAME.fullmatch(path.rpartition("/")[2]))


def stanzas(path: str, text: str) -> Iterator[Stanza]:
    """The stanzas of a ``.sources`` file. :raises HostError: apt itself cannot read it."""
    fields: dict[str, str] = {}
    names: dict[str, str] = {}
    lines: dict[str, int] = {}
    last = ""
    for number, line in enumerate([*text.split("\n"), ""], 1):
        line = line.rstrip("\r")
        # To apt, a line of blanks ends no stanza.
        if line.startswith("#") or line.isspace():
            continue
        if not line:
            if fields:
                yield Stanza(min(lines.values()), fields, names, lines)
            fields, names, lines, last = {}, {}, {}, ""
        elif line[0] in " \t" and last:
            fields[last] += f"\n{line}"
        else:
            name, colon, value = line.partition(":")
            if not colon or line[0] in " \t":
                raise HostError(
                    f"apt cannot read {path}, line {number}: it is not a field; correct it"
                )
            last = name.strip().lower()
            fields[last], names[last], lines[last] = value.strip(), name.strip(), number


def one_lines(text: str) -> Iterator[Line]:
    """The entries of a ``.list`` file."""
    for number, line in enumerate(text.split("\n"), 1):
        if found := _LINE.fullmatch(line.partition("#")[0].strip()):
            yield Line(
                number,
                found["type"],
                (found["options"] or "").strip(),
                found["uri"],
                found["suite"],
                tuple(found["rest"].split()),
            )


def in_the_way(
    files: Mapping[str, str], url: str, suite: str, architecture: str, *, but: str
) -> list[Edit]:
    """What to disable before a file of ours names the archive with this URL and suite.

    :param files: text by path.
    :param but: our own file.
    :raises HostError: one entry names it together with other archives.
    """
    ours = _archive(url, suite, architecture)
    found = []
    for path, text in sorted(files.items()):
        if path == but or not is_source(path):
            continue
        read = _of_stanzas if path.endswith(".sources") else _of_lines
        edits, others = read(path, text, ours, architecture)
        if edits:
            whole = not others and path != "/etc/apt/sources.list"
            found.append(Edit(path, None if whole else edits))
    return found


def is_key(path: str) -> bool:
    """Whether a path is a signing key's, by its ending."""
    return path.endswith((".gpg", ".asc"))


def mentioned(path: str, files: Mapping[str, str], but: Collection[str]) -> bool:
    """Whether any other file that apt reads mentions a path."""
    return any(path in text for name, text in files.items() if name not in but and is_source(name))


def _of_lines(path: str, text: str, ours: str, architecture: str) -> tuple[tuple[str, ...], bool]:
    edits, others = [], False
    for line in one_lines(text):
        if _archive(line.uri, line.suite, architecture) == ours:
            edits.append(f"{line.number}s/^/# /")
        else:
            others = True
    return tuple(edits), others


def _of_stanzas(path: str, text: str, ours: str, architecture: str) -> tuple[tuple[str, ...], bool]:
    edits: list[str] = []
    others = False
    for stanza in stanzas(path, text):
        if not stanza.enabled:
            continue
        named = {
            _archive(uri, suite, architecture)
            for uri in stanza.fields.get("uris", "").split()
            for suite in stanza.fields.get("suites", "").split()
        }
        if ours not in named:
            others = True
        elif len(named) > 1:
            raise HostError(
                f"{path}, line {stanza.first}: one entry names {ours} and other archives, and apt"
                " stops where two entries name one archive with different keys; make it an entry of"
                " its own, or remove it there"
            )
        else:
            if "enabled" in stanza.lines:
                edits.append(f"{stanza.lines['enabled']}s/^/# /")
            edits.append(f"{stanza.first}i Enabled: no")
    return tuple(edits), others


def _archive(uri: str, suite: str, architecture: str) -> str:
    """An archive in normal form: with $(ARCH) filled in, and without a slash at the end.

    Without the scheme too: over http and https it is the same archive.
    """
    uri, suite = (item.replace("$(ARCH)", architecture) for item in (uri, suite))
    place = re.sub(r"^(tor\+)?https?://", "", uri).rstrip("/")
    host, slash, rest = place.partition("/")
    if suite.endswith("/"):
        # In a flat archive, the suite is a folder below the URI.
        rest = "/".join(part for part in (*rest.split("/"), *suite.split("/")) if part not in "./")
        return f"{host.lower()}/{rest} /"
    return f"{host.lower()}{slash}{rest} {suite}"
