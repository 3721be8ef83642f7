"""The edge: nginx in front of the agents, the only way in for clients.

Promises: TLS by Mozilla's intermediate profile; only named clients, whose keys no agent sees, only
exact paths; streams are not buffered; limits answer 429, for strangers too; no query and no key in
a log; connections for all clients; at /v1 the agent whose model a request names; tokens counted;
prefix caches of clients apart. A gateway's asks HAProxy, and names what to choose a host by; a host
behind gateways has a server for them alone, which also says whether engines live. A machine that is
both has both, and neither's requests take the other's way.
Needs: tls, vllm or balancer, edge_logs. Writes: /etc/nginx/conf.d/vllm-hosts.conf,
/etc/nginx/vllm-hosts, /etc/nginx/vllm-hosts-lua, one number in nginx.conf and a file in
modules-enabled; removes the distribution's welcome page, but no site of somebody's own.
Reloads nginx when its files or the certificate changed, after `nginx -t`; a configuration that it
rejects is undone, and is not even written if nginx rejects it before images and models are fetched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from pyinfra.api.deploy import deploy

from vllm_hosts.errors import HostError
from vllm_hosts.facts import look
from vllm_hosts.facts.nginx import EdgeState, Nginx, NginxMainConf, NginxState
from vllm_hosts.facts.nginx_sites import NginxSites
from vllm_hosts.host import paths
from vllm_hosts.host.files import Entry, differing
from vllm_hosts.host.nginx import LIMITS_CONF, MAIN_CONF, MainConf
from vllm_hosts.host.nginx_sites import Sites
from vllm_hosts.operations.apt import packages_present
from vllm_hosts.operations.edge import RELOAD, RELOADED
from vllm_hosts.operations.edge_trial import configuration_accepted
from vllm_hosts.operations.service import nginx_enabled
from vllm_hosts.operations.tree import tree_synced
from vllm_hosts.project import run
from vllm_hosts.project.run import Current
from vllm_hosts.roles.nginx.plan import NginxVersion, edge_entries, edge_paths, parse_version
from vllm_hosts.roles.nginx.trial import trial_entries
from vllm_hosts.roles.nginx.worker_connections import connection_entries
from vllm_hosts.settings import HostSettings

#: Debian 13's, which is assumed until nginx is installed.
_USUAL = NginxVersion((1, 26, 3), (3, 5, 0))
#: By the identity of the ``Current`` that they were made for, which is kept alive with them.
_made: dict[int, tuple[Current, NginxVersion, bool, list[Entry]]] = {}


@deploy("nginx pre-check")
def nginx_asked() -> None:
    """Install nginx, and let it test the edge's configuration before anything that takes long."""
    current = run.current()
    packages: dict[str, str | None] = {"nginx": None}
    if current.settings.edge_runs_lua:
        packages["libnginx-mod-http-lua"] = None
    packages_present(packages, without_starting=("nginx.service",), name="nginx is installed")
    configuration_accepted(partial(_trial, current), name="nginx accepts the edge's configuration")


@deploy("nginx")
def nginx() -> None:
    """Open the edge: configure it, and load the configuration without dropping streams."""
    tree_synced(
        lambda: _entries(run.current(), look(NginxState), look(NginxMainConf), look(NginxSites)),
        watch=_watched(run.current().settings),
        validate="nginx -t -q",
        activate=RELOAD,
        stamp="nginx",
        effect=RELOADED,
        name="The edge is configured and nginx has loaded it",
    )
    nginx_enabled(name="nginx runs, now and at boot")


def _watched(settings: HostSettings) -> list[str]:
    """Others' files that nginx has to load anew."""
    inner = paths.INNER_FILES if settings.behind_gateways else ()
    return [paths.TLS_CERTIFICATE, paths.TLS_KEY, *inner]


def _entries(current: Current, state: Nginx, main: MainConf | None, sites: Sites) -> list[Entry]:
    try:
        version = parse_version(state.version_text) if state.version_text else _USUAL
    except ValueError as error:
        raise HostError(f"the version of nginx cannot be determined: {error}") from error
    version = replace(version, ipv6=state.ipv6, names_bucket=state.names_bucket)
    edge = _edge(current, version, sites.welcome == "own")
    settings = current.settings
    front = settings.gateways
    return [*edge, *connection_entries(settings.edge, main, front, both=settings.is_gateway)]


def _edge(current: Current, version: NginxVersion, own_site: bool) -> list[Entry]:
    """Made once for each host in a run, since that takes longer than querying the host."""
    made = _made.get(id(current))
    if made is None or made[1:3] != (version, own_site):
        entries = edge_entries(current.settings, current.keys, version, own_site=own_site)
        made = _made[id(current)] = (current, version, own_site, entries)
    return made[3]


def _trial(current: Current) -> Sequence[Entry]:
    """The files for nginx to test: none before it is installed, nor if the host has all of them."""
    found = look(EdgeState, paths=[*edge_paths(current.settings), MAIN_CONF, LIMITS_CONF])
    if not found.nginx.version_text:
        return []
    entries = _entries(current, found.nginx, found.main, found.sites)
    if not differing(entries, found.files.paths):
        return []
    return trial_entries(current.settings, entries)
