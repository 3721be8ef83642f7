"""Ways to break a promise on a host, and which promises are broken then: those, and no others."""

from tests.lab.sabotage import fleet, hosts, mirror, services, walls
from tests.lab.sabotage.parts import Sabotage as Sabotage

#: In the lab without gateways, which most tests use.
SABOTAGE = [*hosts.ROWS, *services.ROWS, *walls.ROWS]
#: In the lab with gateways.
FLEET = fleet.ROWS
#: The same, where gateways share an address.
SHARED = fleet.SHARED_ROWS
#: In the lab where one host is a mirror.
MIRROR = mirror.ROWS

#: Promises that no row breaks, and why.
UNBROKEN = {
    "SSH-01": "test_7_lockout, which switches ssh_hardening on",
    "GPU-02": "Docker restarts with every daemon.json, and then agents come back without a GPU",
    "VER-05": "an older vLLM would need a second image of 2 GB; tests/unit/test_floors.py",
}

#: What every run of the tests breaks; each row alone is for the night. Rows of one round are broken
#: at once: no two of them break the same promise, so each has to be seen for itself.
ROUNDS = {
    "files and services": (
        "setuid-shell",
        "docker-member",
        "host-s-mark-for-all-to-write",
        "docker-not-at-boot",
        "toolkit-unheld",
        "firewall-not-at-boot",
        "users-reach-agents",
        "env-readable",
        "env-replaceable",
        "certificate-key-readable",
        "log-rotation-stopped",
        "expiry-stopped",
        "watchdog-stopped",
        "container-with-all-capabilities",
        "agents-folder-writable",
        "edge-without-keys",
    ),
    "edge and firewall": (
        "firewall-deleted",
        "key-in-a-container-s-log",
        "http-answers",
        "large-headers",
        "large-bodies",
        "few-connections",
        "queries-in-the-error-log",
        "key-added-by-hand",
        "scope-changed",
        "old-tls",
        "no-hsts",
    ),
    "container-published": ("container-published",),
    "port-listens": ("port-listens",),
    "agent-port-redirected": ("agent-port-redirected",),
    "nginx-stopped": ("nginx-stopped",),
}


def rounds() -> dict[str, list[Sabotage]]:
    """The rows of each round.

    :raises KeyError: a round names a row that does not exist.
    """
    by_name = {row.name: row for row in SABOTAGE}
    return {title: [by_name[name] for name in names] for title, names in ROUNDS.items()}
