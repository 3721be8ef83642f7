"""The watchdog: the host itself restarts an agent whose engine hangs.

Promises: an agent whose engine is dead or frozen behind an API that answers does not stay so, and
one that is merely busy, or loads, is left alone. Needs: vllm. Writes: a script and its units, and
what they note of each agent in /var/lib/vllm-hosts/watchdog. Restarts nothing itself. Where the
settings switch it off, all of that goes.
"""

from __future__ import annotations

from pyinfra.api.deploy import deploy

from vllm_hosts.host.paths import WATCHDOG, WATCHDOG_SEEN
from vllm_hosts.operations.removal import folders_removed, timers_stopped
from vllm_hosts.operations.service import units_enabled
from vllm_hosts.operations.tree import tree_synced
from vllm_hosts.project import run
from vllm_hosts.roles.watchdog.plan import TIMER, nothing, watchdog_entries

_RELOAD = "systemctl daemon-reload"


@deploy("Watchdog")
def watchdog() -> None:
    """Install it with its timer, or take it away."""
    settings = run.current().settings
    if settings.vllm.watchdog:
        tree_synced(
            watchdog_entries(settings),
            activate=_RELOAD,
            stamp="watchdog",
            name="The host restarts agents whose engine hangs",
        )
        units_enabled([TIMER], name="The timer for it runs")
    else:
        timers_stopped([TIMER], name="No watchdog restarts agents")
        tree_synced(nothing(), activate=_RELOAD, name="Nothing of a watchdog is installed")
        folders_removed(
            lambda: [WATCHDOG, WATCHDOG_SEEN],
            short=lambda: (WATCHDOG_SEEN,),
            name="Nothing that a watchdog noted is there",
        )
