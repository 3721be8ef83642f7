"""Packages and archives of a Debian or Ubuntu host."""

from __future__ import annotations

from dataclasses import dataclass

from vllm_hosts.facts.base import HostFact, ending, sections


@dataclass(frozen=True)
class Packages:
    """Installed versions by package name (only installed ones), and the names that are held."""

    versions: dict[str, str]
    held: frozenset[str]


class AptPackages(HostFact[Packages]):
    """Which of some packages are installed and held."""

    what = "the installed packages"

    def command(self, names: list[str]) -> str:
        words = " ".join(names)
        return ending(
            f"""
            echo '== installed'
            dpkg-query 2>/dev/null -W \\
                -f '${{db:Status-Abbrev}}|${{Package}}|${{Version}}\\n' {words}
            echo '== held'; apt-mark showhold {words}
            """
        )

    def parse(self, lines: list[str]) -> Packages:
        parts = sections(lines)
        versions = {}
        for line in parts["installed"]:
            status, name, version = line.split("|")
            if status[1] == "i":
                versions[name] = version
        return Packages(versions, frozenset(parts["held"]))


class AptKeyFingerprints(HostFact[tuple[str, ...]]):
    """Fingerprints of the primary keys in a key file; empty where there is no such file."""

    what = "the archive's signing key"

    def command(self, key_path: str) -> str:
        return ending(
            f"""
            echo '== keys'
            if [ -s {key_path} ] && command -v gpg >/dev/null; then
                home=$(mktemp -d)  # gpg wants a home even to read a file
                gpg --homedir "$home" --batch --show-keys --with-colons {key_path} 2>/dev/null
                rm -rf "$home"
            fi
            """
        )

    def parse(self, lines: list[str]) -> tuple[str, ...]:
        return primary_fingerprints(sections(lines)["keys"])


def primary_fingerprints(lines: list[str]) -> tuple[str, ...]:
    """Fingerprints that follow a ``pub`` record in gpg's colon format (GnuPG's doc/DETAILS)."""
    found = []
    primary = False
    for line in lines:
        fields = line.split(":")
        if fields[0] == "pub":
            primary = True
        elif fields[0] == "fpr" and primary:
            found.append(fields[9])
            primary = False
    return tuple(found)
