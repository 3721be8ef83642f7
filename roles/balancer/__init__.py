"""HAProxy of a gateway: from its nginx to the agents of all hosts.

Promises: a request goes to an agent that works, those of one conversation to the same one, and to
none above its fair share but for what another one has refused; where an agent fails before it
answers, another one does; connections to hosts are over mutual TLS; nothing listens on TCP, and
only nginx and root open the sockets; what is drained stays so.
Needs: inner_tls, for the gateway's certificate. Writes: /etc/vllm-hosts/balancer, a unit and a
script.
Reloads HAProxy when its files or the certificate changed, after `haproxy -c`; a configuration that
it rejects is undone. The distribution's haproxy.service is left alone, and does not start where we
brought the package. Does nothing on a host that is no gateway.
"""

from __future__ import annotations

from pyinfra.api.deploy import deploy

from vllm_hosts.host.paths import BALANCER_CONF, BALANCER_UNIT, GATEWAY_CA, GATEWAY_CLIENT
from vllm_hosts.operations.apt import packages_present
from vllm_hosts.operations.balancer import RELOAD, RELOADED
from vllm_hosts.operations.service import units_enabled
from vllm_hosts.operations.tree import tree_synced
from vllm_hosts.project import run
from vllm_hosts.roles.balancer.plan import balancer_entries


@deploy("Balancer")
def balancer() -> None:
    """Install HAProxy, configure an instance of our own, and load it without losing requests."""
    settings = run.current().settings.as_gateway
    if settings is None:
        return
    packages_present(
        {"haproxy": None, "socat": None},
        without_starting=("haproxy.service",),
        without_enabling=("haproxy.service",),
        name="HAProxy is installed",
    )
    tree_synced(
        lambda: balancer_entries(settings),
        watch=[GATEWAY_CLIENT, GATEWAY_CA],
        # With -q it would not say why.
        validate=f"haproxy -c -f {BALANCER_CONF}",
        activate=RELOAD,
        stamp="balancer",
        effect=RELOADED,
        name="The balancer is configured and HAProxy has loaded it",
    )
    units_enabled([BALANCER_UNIT], name="The balancer runs, now and at boot")
