"""Clients' keys in the form that the edge reads, and how they expire there. Touches no host."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from vllm_hosts.host.files import Entry, File, Folder
from vllm_hosts.host.paths import DEPLOYED, EDGE_FOLDER, STAMPS
from vllm_hosts.host.render import render
from vllm_hosts.keys import ClientKey

STAMP = "client-keys"
SCRIPT = "/usr/local/lib/vllm-hosts/expire-client-keys"
_SERVICE = "vllm-hosts-keys.service"
TIMER = "vllm-hosts-keys.timer"
_UNITS = "/etc/systemd/system"


def key_entries(agents: Sequence[str], clients: Sequence[ClientKey]) -> list[Entry]:
    """The two maps that nginx includes: whose a key is, and which agents a client may not use."""
    return [
        Folder(EDGE_FOLDER, mode=0o700),
        File(f"{EDGE_FOLDER}/clients.map", clients_map(clients).encode(), mode=0o600, secret=True),
        File(f"{EDGE_FOLDER}/scopes.map", scopes_map(agents, clients).encode(), mode=0o600),
    ]


def expiry_entries() -> list[Entry]:
    """A script and its timer, which remove expired keys although nobody runs the toolkit."""
    script = render(
        "client_keys/expire.sh.j2",
        folder=EDGE_FOLDER,
        stamp=f"{STAMPS}/{STAMP}",
        deployed=DEPLOYED,
    )
    service = render(f"client_keys/{_SERVICE}.j2", script=SCRIPT)
    before = render("client_keys/nginx-before.conf.j2", script=SCRIPT)
    return [
        Folder("/usr/local/lib/vllm-hosts"),
        File(SCRIPT, script.encode(), mode=0o755),
        File(f"{_UNITS}/{_SERVICE}", service.encode()),
        Folder(f"{_UNITS}/nginx.service.d"),
        File(f"{_UNITS}/nginx.service.d/vllm-hosts.conf", before.encode()),
        File(f"{_UNITS}/{TIMER}", render(f"client_keys/{TIMER}.j2").encode()),
    ]


def clients_map(clients: Sequence[ClientKey]) -> str:
    """The map from "Bearer KEY", whichever header brought the key, to clients. Contains keys."""
    lines = [
        {
            "client": key.client,
            "value": key.value.get_secret_value(),
            "until": int(key.expires.timestamp()) if key.expires else None,
        }
        for key in clients
    ]
    return render("client_keys/clients.map.j2", keys=lines)


def scopes_map(agents: Sequence[str], clients: Sequence[ClientKey]) -> str:
    """The map of this host's agents that clients with a scope may not use."""
    return render("client_keys/scopes.map.j2", refused=sorted(set(_refused(agents, clients))))


def _refused(agents: Sequence[str], clients: Sequence[ClientKey]) -> Iterator[tuple[str, str]]:
    for key in clients:
        if key.agents is not None:
            for agent in agents:
                if agent not in key.agents:
                    yield agent, key.client
