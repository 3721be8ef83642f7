"""The edge: nginx in front of the agents, the only door for clients.

Promises: TLS by Mozilla's intermediate profile; only named clients, only exact paths; streams are
not buffered; limits answer 429, for strangers too; no query and no key in a log; connections for
all clients.
Needs: tls, vllm, edge_logs. Writes: /etc/nginx/conf.d/vllm-hosts.conf, /etc/nginx/vllm-hosts, one
number in nginx.conf and a file in modules-enabled; takes the distribution's welcome page away, but
no site of somebody's own.
Reloads nginx when its files or the certificate changed, after `nginx -t`; a configuration that it
rejects is put back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from pyinfra.api.deploy import deploy

from roles.nginx.connections import connection_entries
from roles.nginx.plan import NginxVersion, edge_entries, parse_version
from vllm_hosts import paths, run
from vllm_hosts.errors import HostError
from vllm_hosts.facts import look
from vllm_hosts.facts.nginx import NginxMainConf, NginxState
from vllm_hosts.facts.nginx_sites import NginxSites
from vllm_hosts.operations.apt import packages_present
from vllm_hosts.operations.edge import RELOAD
from vllm_hosts.operations.service import nginx_enabled
from vllm_hosts.operations.tree import tree_synced
from vllm_hosts.run import Current
from vllm_hosts.tree import Entry

#: Debian 13's: what a plan assumes while nginx is not installed yet.
_USUAL = NginxVersion((1, 26, 3), (3, 5, 0))


@deploy("nginx")
def nginx() -> None:
    """Open the edge: install, configure, and take the configuration up without dropping streams."""
    packages_present(
        {"nginx": None}, without_starting=("nginx.service",), name="nginx is installed"
    )
    tree_synced(
        partial(_entries, run.current()),
        watch=[paths.TLS_CERTIFICATE, paths.TLS_KEY],
        validate="nginx -t -q",
        activate=RELOAD,
        stamp="nginx",
        name="The edge is configured and nginx has taken it up",
    )
    nginx_enabled(name="nginx runs, now and at boot")


def _entries(current: Current) -> Sequence[Entry]:
    state = look(NginxState)
    try:
        version = parse_version(state.version_text) if state.version_text else _USUAL
    except ValueError as error:
        raise HostError(f"the version of nginx cannot be told: {error}") from error
    version = replace(version, ipv6=state.ipv6, names_bucket=state.names_bucket)
    own_site = look(NginxSites).welcome == "own"
    return [
        *edge_entries(current.settings, current.keys, version, own_site=own_site),
        *connection_entries(current.settings.edge, look(NginxMainConf)),
    ]
