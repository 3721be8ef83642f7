"""Which distribution a host runs."""

from __future__ import annotations

from dataclasses import dataclass

from vllm_hosts.facts.base import HostFact, ending, sections


@dataclass(frozen=True)
class Release:
    """As /etc/os-release and dpkg say it: ``debian``, ``13``, ``trixie``, ``amd64``."""

    os_id: str
    version: str
    codename: str
    name: str
    architecture: str


class OsRelease(HostFact[Release]):
    """Distribution, version and architecture."""

    what = "the operating system's release"

    def command(self) -> str:
        return ending(
            """
            echo '== release'; cat /etc/os-release; echo
            echo '== architecture'; dpkg --print-architecture 2>/dev/null || uname -m
            """
        )

    def parse(self, lines: list[str]) -> Release:
        parts = sections(lines)
        values = dict(line.split("=", 1) for line in parts["release"] if "=" in line)
        values = {name: value.strip("\"'") for name, value in values.items()}
        return Release(
            os_id=values["ID"],
            version=values.get("VERSION_ID", ""),
            codename=values.get("VERSION_CODENAME", ""),
            name=values.get("PRETTY_NAME", values["ID"]),
            architecture=parts["architecture"][0],
        )
