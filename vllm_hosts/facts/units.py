"""Whether systemd units run, now and at boot."""

from __future__ import annotations

from dataclasses import dataclass

from vllm_hosts.facts.base import HostFact, ending, sections


@dataclass(frozen=True)
class Unit:
    """As systemctl says it."""

    enabled: bool
    active: bool


class Units(HostFact[dict[str, Unit]]):
    """State of units by name; one that does not exist is neither enabled nor active."""

    what = "systemd's units"
    steady = True

    def command(self, names: list[str]) -> str:
        return ending(
            f"""
            echo '== units'
            for unit in {" ".join(names)}; do
                enabled=$(systemctl is-enabled $unit 2>/dev/null | head -n 1)
                echo "$unit ${{enabled:-no}} $(systemctl is-active $unit)"
            done
            """
        )

    def parse(self, lines: list[str]) -> dict[str, Unit]:
        found = {}
        for line in sections(lines)["units"]:
            name, enabled, active = line.split()
            found[name] = Unit(enabled == "enabled", active == "active")
        return found
