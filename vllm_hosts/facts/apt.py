"""Packages and archives of a Debian or Ubuntu host."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass

from vllm_hosts.facts.base import HostFact, ending, sections
from vllm_hosts.host import dpkg


@dataclass(frozen=True)
class Packages:
    """Installed versions by package name (only installed ones), and the names that are held."""

    versions: dict[str, str]
    held: frozenset[str]


class AptPackages(HostFact[Packages]):
    """Which of some packages are installed and held."""

    what = "the installed packages"
    steady = True

    def command(self, names: list[str]) -> str:
        return ending(
            f"""
            found=$({dpkg.query(names)})
            echo '== installed'; printf '%s\\n' "$found"
            # apt reads its whole cache for that, and knows no hold that dpkg does not know.
            echo '== held'
            case "\n$found" in *"\nh"*) apt-mark showhold {" ".join(names)} ;; esac
            """
        )

    def parse(self, lines: list[str]) -> Packages:
        parts = sections(lines)
        return Packages(dpkg.installed(parts["installed"]), frozenset(parts["held"]))


class AllPackages(HostFact[Packages]):
    """Everything that is installed, for choices by pattern."""

    what = "the installed packages"
    steady = True

    def command(self) -> str:
        return ending(
            f"""
            echo '== installed'
            {dpkg.query()}
            echo '== held'; apt-mark showhold
            """
        )

    def parse(self, lines: list[str]) -> Packages:
        parts = sections(lines)
        return Packages(dpkg.installed(parts["installed"]), frozenset(parts["held"]))


class AptVersions(HostFact[dict[str, tuple[str, ...]]]):
    """Versions that the archives offer, by package, the newest first."""

    what = "the archives' packages"

    def command(self, names: list[str]) -> str:
        return ending(f"echo '== offered'; apt-cache madison {' '.join(names)} 2>/dev/null")

    def parse(self, lines: list[str]) -> dict[str, tuple[str, ...]]:
        found: dict[str, tuple[str, ...]] = {}
        for line in sections(lines)["offered"]:
            name, version, _ = (part.strip() for part in line.split("|"))
            found[name] = (*found.get(name, ()), version)
        return found


class AptSourceFiles(HostFact[Mapping[str, str]]):
    """The text of every source file of apt, by path."""

    what = "apt's source files"
    steady = True

    def command(self) -> str:
        return ending(
            """
            for file in /etc/apt/sources.list /etc/apt/sources.list.d/*; do
                [ -f "$file" ] || continue
                echo "== $file"; base64 "$file"
            done
            """
        )

    def parse(self, lines: list[str]) -> Mapping[str, str]:
        return {
            # A comment may be in any encoding.
            path: base64.b64decode("".join(content), validate=True).decode(errors="surrogateescape")
            for path, content in sections(lines).items()
        }


class AptKeyFingerprints(HostFact[tuple[str, ...]]):
    """Fingerprints of the primary keys in a key file; empty where there is no such file."""

    what = "the archive's signing key"
    steady = True

    def command(self, key_path: str) -> str:
        return ending(
            f"""
            echo '== keys'
            if [ -s {key_path} ] && command -v gpg >/dev/null; then
                # It writes nothing, so that it answers where nothing can be written. 2: not a key.
                gpg --homedir /nonexistent --no-options --no-keyring --trust-model always --batch \\
                    --show-keys --with-colons {key_path} 2>/dev/null || [ $? -le 2 ] || exit 1
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
