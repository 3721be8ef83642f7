"""Clients' keys at the edge.

Promises: exactly the keys of the store are accepted, each for its agents; keys expire on the
host automatically. Needs: nginx. Writes: two maps in /etc/nginx/vllm-hosts, a script and its timer.
Reloads nginx when a map changed. Touches no container: `pyinfra INVENTORY keys.py` does only this.
"""

from __future__ import annotations

from pyinfra.api.deploy import deploy

from vllm_hosts.host.paths import EDGE_CONF
from vllm_hosts.operations.edge import RELOAD, RELOADED
from vllm_hosts.operations.service import units_enabled
from vllm_hosts.operations.tree import tree_synced
from vllm_hosts.project import run
from vllm_hosts.roles.client_keys.plan import STAMP, TIMER, expiry_entries, key_entries

#: A user's own nginx is not an edge, and would not read our keys.
_CHECK = f"""
    [ -e {EDGE_CONF} ] && command -v nginx >/dev/null ||
        {{ echo 'this host has no edge yet; run deploy.py'; exit 1; }}
    nginx -t -q
"""


@deploy("Client keys")
def client_keys() -> None:
    """Give the edge the store's keys: one query; if they differ, one write and one reload."""
    here = run.at_hand()
    tree_synced(
        key_entries(here.agents, here.clients),
        validate=_CHECK.strip(),
        activate=RELOAD,
        stamp=STAMP,
        effect=RELOADED,
        name="The edge accepts exactly the keys of the store",
    )


@deploy("Client keys")
def key_expiry() -> None:
    """Let keys expire automatically."""
    tree_synced(
        expiry_entries(),
        activate="systemctl daemon-reload",
        stamp=f"{STAMP}-expiry",
        name="Keys expire automatically",
    )
    units_enabled([TIMER], name="The timer for it runs")
