"""What watches a host's agents, from settings. Touches no host."""

from __future__ import annotations

import json
from dataclasses import dataclass
from ipaddress import IPv4Address
from shlex import quote

from vllm_hosts.data import DATA
from vllm_hosts.host.containers import BRIEFLY
from vllm_hosts.host.files import Absent, Entry, File, Folder
from vllm_hosts.host.paths import LOCK, WATCHDOG, WATCHDOG_SEEN, key_variable
from vllm_hosts.host.render import render
from vllm_hosts.host.vllm_metrics import MOVED_BY_THE_ENGINE
from vllm_hosts.host.watchdog import REASONS
from vllm_hosts.settings import HostSettings
from vllm_hosts.settings.cells import CONTAINER_PORT

SCRIPT = "/usr/local/lib/vllm-hosts/watch-agents"
TIMER = "vllm-hosts-watchdog.timer"
_SERVICE = "vllm-hosts-watchdog.service"
_UNITS = "/etc/systemd/system"
#: Seconds for an answer: a saturated engine misses short ones.
_PATIENCE = 20


@dataclass(frozen=True)
class _Asked:
    """An agent as the script asks it. ``model``: its name for clients, as JSON."""

    name: str
    address: IPv4Address
    variable: str
    model: str


def watchdog_entries(settings: HostSettings) -> list[Entry]:
    """The script and its units."""
    vllm = settings.vllm
    service = render(
        f"watchdog/{_SERVICE}.j2",
        script=SCRIPT,
        counts=WATCHDOG,
        seen=WATCHDOG_SEEN.removeprefix("/run/"),
        network=vllm.network,
    )
    timer = render(f"watchdog/{TIMER}.j2", interval=vllm.watchdog_interval)
    return [
        Folder("/usr/local/lib/vllm-hosts"),
        Folder(WATCHDOG, mode=0o700),
        File(SCRIPT, script(settings).encode(), mode=0o700),
        File(f"{_UNITS}/{_SERVICE}", service.encode()),
        File(f"{_UNITS}/{TIMER}", timer.encode()),
    ]


def nothing() -> list[Entry]:
    """The same, where there is to be no watchdog."""
    return [Absent(path) for path in (SCRIPT, f"{_UNITS}/{_SERVICE}", f"{_UNITS}/{TIMER}")]


def script(settings: HostSettings) -> str:
    """What a host runs: what it has to know, and then what it does."""
    vllm = settings.vllm
    known = render(
        "watchdog/watch.sh.j2",
        {"shell": quote},
        seen=WATCHDOG_SEEN,
        counts=WATCHDOG,
        lock=LOCK,
        env=f"{vllm.directory}/.env",
        inspect=BRIEFLY,
        metrics=" ".join(MOVED_BY_THE_ENGINE),
        port=CONTAINER_PORT,
        looks=vllm.watchdog_looks,
        restarts=vllm.watchdog_restarts,
        patience=_PATIENCE,
        reasons=REASONS,
        agents=[
            _Asked(
                agent.name,
                settings.cell(agent.name).address,
                key_variable(agent.name),
                json.dumps(agent.client_model_name),
            )
            for agent in settings.agents
        ],
    )
    return f"{known}\n{(DATA / 'watchdog.sh').read_text()}"
