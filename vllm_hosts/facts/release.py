"""Which distribution a host runs."""

from __future__ import annotations

from vllm_hosts.facts.base import HostFact, ending, sections
from vllm_hosts.host.release import Release


class OsRelease(HostFact[Release]):
    """Distribution, version and architecture."""

    what = "the operating system's release"
    steady = True

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
