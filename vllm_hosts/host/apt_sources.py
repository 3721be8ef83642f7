"""Reads apt's source files, and adds components to their archives. Touches no host.

Formats, both in sources.list(5): one-line entries (``.list``) and deb822 stanzas (``.sources``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from vllm_hosts.host.apt_entries import Stanza, is_source, one_lines, stanzas
from vllm_hosts.host.files import Absent, Entry, File

#: Debian's aliases for the releases that we know. An entry with an alias counts as the release.
_ALIASES = {"stable": "trixie", "oldstable": "bookworm"}


@dataclass(frozen=True)
class Source:
    """One archive: its suites and components, and its further options.

    ``options`` is a one-line entry's text in brackets, or a stanza's other fields as they were
    written, so that keys and proxies stay the same.
    """

    uris: str
    suites: tuple[str, ...]
    components: tuple[str, ...]
    options: str
    deb822: bool


def read(files: Mapping[str, str], *, but: str) -> list[Source]:
    """Every enabled archive of binary packages, in the files that apt reads.

    :param files: text by path.
    :param but: name, without folder and ending, of our own files, which are left out.
    """
    return [
        source
        for path, text in sorted(files.items())
        if is_source(path) and path.rpartition("/")[2].rpartition(".")[0] != but
        for source in _read(path, text)
    ]


def extended(
    sources: Sequence[Source], suite: str, components: Sequence[str], name: str
) -> list[Entry]:
    """Source files of our own that add components to a distribution's own archives.

    :param suite: the release, such as ``trixie``; ``trixie-security`` and the like count too.
    :param components: what every archive with ``main`` of that release should offer.
    :param name: name of the files, without an ending.
    """
    ours = [source for source in sources if _of_release(source, suite)]
    lines: list[Source] = []
    blocks: list[Source] = []
    for source in ours:
        if "main" not in source.components:
            continue
        offered = {
            item
            for other in ours
            if set(other.suites) & set(source.suites) and other.uris == source.uris
            for item in other.components
        }
        missing = tuple(item for item in components if item not in offered)
        if not missing:
            continue
        (blocks if source.deb822 else lines).append(replace(source, components=missing))
    return [
        *_file(f"/etc/apt/sources.list.d/{name}.list", map(_line, lines), "\n"),
        *_file(f"/etc/apt/sources.list.d/{name}.sources", map(_stanza, blocks), "\n\n"),
    ]


def offered(sources: Sequence[Source], suite: str) -> bool:
    """Whether any archive offers this release, under its own name or an alias."""
    return any(_of_release(source, suite) and "main" in source.components for source in sources)


def _of_release(source: Source, suite: str) -> bool:
    names = {suite, *(alias for alias, release in _ALIASES.items() if release == suite)}
    return any(re.split(r"[-/]", item)[0] in names for item in source.suites)


def _read(path: str, text: str) -> Iterator[Source]:
    if path.endswith(".sources"):
        for stanza in stanzas(path, text):
            yield from _from_stanza(stanza)
        return
    for line in one_lines(text):
        if line.type == "deb" and line.components:
            options = f"[{line.options}]" if line.options else ""
            yield Source(line.uri, (line.suite,), line.components, options, False)


def _from_stanza(stanza: Stanza) -> Iterator[Source]:
    fields = stanza.fields
    if not stanza.enabled or "deb" not in fields.get("types", "").split():
        return
    rest = {
        stanza.names[key]: value
        for key, value in fields.items()
        if key not in ("types", "uris", "suites", "components", "enabled")
    }
    yield Source(
        " ".join(fields.get("uris", "").split()),
        tuple(fields.get("suites", "").split()),
        tuple(fields.get("components", "").split()),
        "\n".join(f"{key}: {value}" for key, value in rest.items()),
        True,
    )


def _line(source: Source) -> str:
    options = f"{source.options} " if source.options else ""
    return f"deb {options}{source.uris} {source.suites[0]} {' '.join(source.components)}"


def _stanza(source: Source) -> str:
    lines = ["Types: deb", f"URIs: {source.uris}", f"Suites: {' '.join(source.suites)}"]
    lines += [f"Components: {' '.join(source.components)}", source.options]
    return "\n".join(line for line in lines if line)


def _file(path: str, items: Iterator[str], gap: str) -> Iterator[Entry]:
    text = gap.join(items)
    yield File(path, f"{text}\n".encode(errors="surrogateescape")) if text else Absent(path)
