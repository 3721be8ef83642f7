"""Whether systemd units run, now and at boot."""

from __future__ import annotations

from vllm_hosts.facts.base import HostFact, ending, sections
from vllm_hosts.host.systemctl import IS_ACTIVE, IS_ENABLED, UnitState, active, enabled


class Units(HostFact[dict[str, UnitState]]):
    """State of units by name; one that does not exist is neither enabled nor active."""

    what = "systemd's units"
    steady = True

    def command(self, names: list[str]) -> str:
        return ending(
            f"""
            for unit in {" ".join(names)}; do
                echo "== enabled $unit"; {IS_ENABLED} $unit 2>/dev/null
                echo "== active $unit"; {IS_ACTIVE} $unit 2>/dev/null
            done
            """
        )

    def parse(self, lines: list[str]) -> dict[str, UnitState]:
        parts = sections(lines)
        names = [
            heading.removeprefix("enabled ") for heading in parts if heading.startswith("enabled ")
        ]
        return {
            name: UnitState(enabled(parts[f"enabled {name}"]), active(parts[f"active {name}"]).runs)
            for name in names
        }
