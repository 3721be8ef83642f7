"""The edge's logs: where they are, who may read them, and how large they may grow.

Promises: no log of ours fills the disk. A timer rotates them by size and keeps room free.
Needs: preflight. Writes: /var/log/vllm-hosts, a logrotate configuration that only this timer uses,
a script and its units. Restarts nothing.
"""

from __future__ import annotations

from functools import partial

from pyinfra.api.deploy import deploy

from vllm_hosts.operations.apt import packages_present
from vllm_hosts.operations.log_files import log_files_present
from vllm_hosts.operations.service import units_enabled
from vllm_hosts.operations.tree import tree_synced
from vllm_hosts.project import run
from vllm_hosts.roles.edge_logs.plan import LOGS, TIMER, log_entries


@deploy("Edge logs")
def edge_logs() -> None:
    """Create the folder and its files before nginx does, and rotate them by size."""
    edge = run.current().settings.edge
    packages_present({"logrotate": None}, name="logrotate is installed")
    tree_synced(
        partial(log_entries, edge),
        activate="systemctl daemon-reload",
        stamp="edge-logs",
        name="The edge's logs are rotated by size",
    )
    log_files_present(LOGS, name="Only root and adm read the edge's logs")
    units_enabled([TIMER], name="The timer for it runs")
