"""One address for all gateways: keepalived gives it to one of them.

Promises: one gateway has the address; when that one fails, or its nginx or HAProxy does not answer,
another one has it within about a second; one that comes back does not take it away again; only
gateways have a say in it. With no gateway in order the address stays where it is.
Needs: firewall, balancer, nginx. Writes: /etc/vllm-hosts/keepalived and a unit.
Reloads keepalived when its files changed, after `keepalived -t`; the address stays where it is, and
a configuration that keepalived rejects is undone. The distribution's keepalived.service is left
alone, and does not start where we brought the package. Does nothing where gateways share no
address; where they did, it gives the address up.
"""

from __future__ import annotations

from pyinfra.api.deploy import deploy

from vllm_hosts.facts import look
from vllm_hosts.facts.virtual_address import VirtualGround
from vllm_hosts.host.files import Entry
from vllm_hosts.host.paths import KEEPALIVED_UNIT
from vllm_hosts.host.virtual_address import interface_for
from vllm_hosts.operations.apt import packages_present
from vllm_hosts.operations.keepalived import RELOAD, RELOADED, VALIDATE
from vllm_hosts.operations.removal import timers_stopped
from vllm_hosts.operations.service import units_enabled
from vllm_hosts.operations.tree import tree_synced
from vllm_hosts.project import run
from vllm_hosts.roles.virtual_address.plan import nothing, virtual_entries
from vllm_hosts.settings import HostSettings
from vllm_hosts.settings.fleet import VirtualAddress


@deploy("Virtual address")
def virtual_address() -> None:
    """Install keepalived, and let an instance of our own share the address with other gateways."""
    settings = run.current().settings
    if not settings.is_gateway:
        return
    if settings.virtual is None:
        timers_stopped([KEEPALIVED_UNIT], name="No virtual address is held")
        tree_synced(
            nothing(),
            activate="systemctl daemon-reload",
            name="Nothing of keepalived's is left",
        )
        return
    shared = settings.virtual
    packages_present(
        {"keepalived": None},
        without_starting=("keepalived.service",),
        without_enabling=("keepalived.service",),
        name="keepalived is installed",
    )
    tree_synced(
        lambda: _entries(settings, shared),
        validate=VALIDATE,
        activate=RELOAD,
        stamp="keepalived",
        effect=RELOADED,
        name="The virtual address is configured and keepalived has loaded it",
    )
    units_enabled([KEEPALIVED_UNIT], name="keepalived runs, now and at boot")


def _entries(settings: HostSettings, shared: VirtualAddress) -> list[Entry]:
    ground = look(VirtualGround, address=str(shared.address), peers=[str(p) for p in shared.peers])
    return virtual_entries(settings, shared, interface_for(shared, ground))
