"""Ways to break a promise on a host, and which promises are broken then: those, and no others."""

from tests.lab.sabotage import hosts, services, walls
from tests.lab.sabotage.parts import Sabotage as Sabotage

SABOTAGE = [*hosts.ROWS, *services.ROWS, *walls.ROWS]

#: Promises that no row breaks, and why.
UNBROKEN = {
    "SSH-01": "test_7_lockout, which switches ssh_hardening on",
    "GPU-02": "Docker restarts with every daemon.json, and then agents come back without a GPU",
    "VER-05": "an older vLLM would need a second image of 2 GB; tests/unit/test_floors.py",
}
