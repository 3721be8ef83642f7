"""Everything of ours away again: `pyinfra INVENTORY remove.py`.

Promises: what deploys put on a host is gone, and nothing else; what was there before is as it was.
Clients are let in nowhere before everything behind the firewall is gone, and a run that is cut off
is continued by the next one.
Needs: a login, the record of what there was before (/var/lib/vllm-hosts/before) and the manifest of
what deploys brought. Writes: daemon.json, nginx.conf and apt's sources as they were. Stops the
agents; reloads nginx and Docker where they stay.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from pyinfra.api.deploy import deploy
from pyinfra.context import ctx_host

from vllm_hosts.errors import HostError
from vllm_hosts.facts import look
from vllm_hosts.facts.remains import HostRemains
from vllm_hosts.host.files import Absent
from vllm_hosts.host.paths import KEEPALIVED_UNIT, PROJECT, SSHD_CONF, agents_folder
from vllm_hosts.operations.hub import CONTAINER
from vllm_hosts.operations.ownership import not_anothers
from vllm_hosts.operations.partly import NginxAfter, daemon_restored, edge_closed
from vllm_hosts.operations.removal import (
    containers_removed,
    files_removed,
    firewall_opened,
    folders_removed,
    forgotten,
    images_removed,
    outlook,
    packages_removed,
    sources_restored,
    timers_stopped,
)
from vllm_hosts.operations.rotation import out_of_rotation
from vllm_hosts.operations.ssh import sshd_configured
from vllm_hosts.project import run
from vllm_hosts.roles.removal.plan import TIMERS, Removal, given_way, left
from vllm_hosts.roles.removal.words import goes, stays
from vllm_hosts.settings import HostSettings
from vllm_hosts.settings.cells import BRIDGE_PREFIX


@deploy("Removal")
def removal() -> None:
    """Remove the edge, the agents, files, packages, data, and the firewall last."""
    settings = run.current().settings
    claim = run.at_hand().claim
    not_anothers(claim, name="The host belongs to no other inventory")
    now = partial(_now, settings, bool(ctx_host.get().data.get("remove_models")))
    outlook(lambda: [*goes(now()), *stays(now())], name="What goes and what stays is known")
    if settings.behind_gateways:
        out_of_rotation(
            run.current().rotation,
            [agent.name for agent in settings.agents],
            name="Gateways send no requests here",
        )
    if settings.is_gateway:
        timers_stopped([KEEPALIVED_UNIT], name="No virtual address is held")
    # First of all: where nginx refuses, keys go on to expire, and agents to be looked at.
    edge_closed(partial(_nginx, now), name="The edge is closed, and its keys are gone")
    timers_stopped(TIMERS, name="No timer of ours runs")
    containers_removed(
        lambda: [one.id for one in now().docker.containers if one.ours],
        lambda: now().docker.networks,
        name="The agents and their networks are gone",
    )
    images_removed(lambda: now().images, name="Their images are gone")
    sshd_configured([Absent(SSHD_CONF)], name="sshd has its own settings")
    daemon_restored(
        known=lambda: now().known,
        stays=lambda: bool(now().docker_stays),
        name="daemon.json has its own settings",
    )
    files_removed(lambda: now().files, lambda: _enabled(now()), name="Our files are gone")
    packages_removed(
        lambda: now().holds,
        lambda: now().packages(firewall=False),
        name="The packages that only we needed are gone",
    )
    sources_restored(
        lambda: now().sources,
        lambda digests: given_way(now(), digests),
        name="apt has its own archives",
    )
    folders_removed(lambda: now().folders, short=lambda: now().short, name="Our folders are gone")
    folders_removed(
        lambda: now().left_by_packages,
        lambda: now().groups,
        lambda: now().short,
        name="What these packages left is gone",
    )
    firewall_opened(lambda: left(now()), name="The firewall is open, as it was")
    packages_removed(
        lambda: now().holds,
        lambda: now().packages(firewall=True),
        name="The firewall's package is gone, where only we needed it",
    )
    forgotten(claim, lambda: now().if_empty, name="Nothing of ours is left on the host")


def _now(settings: HostSettings, models: bool) -> Removal:
    found = look(
        HostRemains,
        directory=settings.vllm.directory,
        project=PROJECT,
        fetching=CONTAINER,
        bridges=BRIDGE_PREFIX,
        folders=list(
            dict.fromkeys(
                (settings.vllm.directory, settings.vllm.cache_directory, agents_folder(settings))
            )
        ),
    )
    plan = Removal(settings, found, models)
    if plan.elsewhere:
        # Agents would be taken for somebody else's, and stay behind an edge that is gone.
        raise HostError(
            f"deploys keep the agents of this host in {plan.elsewhere}, and the settings say"
            f" {settings.vllm.directory}; set vllm.directory = {plan.elsewhere!r}, and run again"
        )
    plan.expected()
    return plan


def _nginx(now: Callable[[], Removal]) -> NginxAfter:
    plan = now()
    before = plan.remains.manifest.before
    if before is None or "nginx" not in before.packages:
        return NginxAfter(stays=bool(plan.nginx_stays))
    return NginxAfter(True, "nginx.service" in before.active, "nginx.service" in before.enabled)


def _enabled(plan: Removal) -> frozenset[str]:
    before = plan.remains.manifest.before
    return before.enabled if before else frozenset()
