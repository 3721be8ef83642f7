"""Whether a host can take the deploy at all.

Promises: nothing is changed on a host that cannot take the deploy. Needs: a login. Writes and
restarts nothing.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from pyinfra.api.deploy import deploy

from vllm_hosts.capacity import ModelFiles
from vllm_hosts.capacity.hub_client import HubClient
from vllm_hosts.capacity.inputs import cards, model_folders, models_of
from vllm_hosts.facts import look
from vllm_hosts.facts.apt import AptPackages, AptSourceFiles, AptVersions
from vllm_hosts.facts.docker import DockerUnit
from vllm_hosts.facts.docker_state import DockerState
from vllm_hosts.facts.gateway_reach import WaysToHosts
from vllm_hosts.facts.mirror import MirrorState
from vllm_hosts.facts.nginx_sites import NginxSites
from vllm_hosts.facts.release import OsRelease
from vllm_hosts.facts.sockets import ListeningSockets
from vllm_hosts.facts.system import SystemState
from vllm_hosts.facts.virtual_address import VirtualGround
from vllm_hosts.host.docker_unit import unit_problems
from vllm_hosts.host.gateway_reach import reach_problems, replicas_elsewhere
from vllm_hosts.host.nginx_sites import site_ports, site_problems
from vllm_hosts.host.release import Release
from vllm_hosts.host.sockets import strangers
from vllm_hosts.host.system import System
from vllm_hosts.host.virtual_address import virtual_problems
from vllm_hosts.keys.sources import hf_token
from vllm_hosts.operations import outside
from vllm_hosts.operations.checks import no_problems, say
from vllm_hosts.project import run
from vllm_hosts.roles.preflight.haproxy import haproxy_problems
from vllm_hosts.roles.preflight.memory import memory, occupied
from vllm_hosts.roles.preflight.plan import (
    archives,
    folders,
    mirror_room,
    notes,
    own_folders,
    problems,
)
from vllm_hosts.settings import HostSettings
from vllm_hosts.settings.exposure import closed_ports

#: Seconds. The hub is queried about a model that the host does not have, once a week. An
#: unreachable hub costs this long, once an hour.
_SECONDS, _REST = 5, timedelta(hours=1)
_hubs: dict[str, HubClient] = {}


@deploy("Preflight")
def preflight() -> None:
    """Refuse a host by name of what is missing: system, ports, disk, GPUs."""
    settings = run.current().settings
    no_problems(lambda: _problems(settings), name="The host can take this deploy")


def _problems(settings: HostSettings) -> list[str]:
    if not settings.runs_agents:
        return _of_a_gateway(settings)
    # While the run looks anyway: one that changes nothing has what it asks for at its end.
    outside.begin_ahead(
        settings.address, closed_ports(settings), answering=settings.edge.https_port
    )
    planned = settings.needs_gpu and settings.capacity.preflight != "off"
    system = look(
        SystemState,
        folders=folders(settings),
        image=settings.vllm.image,
        reader=settings.vllm.fetch_user,
        models=sorted({*(model_folders(settings) if planned else []), *own_folders(settings)}),
    )
    says = look(DockerState)
    system = replace(system, docker=says.there, images=says.images, swarm=says.swarm)
    release = look(OsRelease)
    found = problems(settings, release, system)
    found += unit_problems(settings, replace(look(DockerUnit), swarm=system.swarm))
    if settings.is_gateway:
        found += _front(settings, release)
    if settings.is_mirror:
        found += mirror_room(settings, system, look(MirrorState))
    if not found:
        # An entry of apt's that cannot be disabled would fail the deploy half way.
        found += archives(settings, release, system, look(AptSourceFiles))
    if system.user == "0":  # Only root sees everything.
        found += _others(settings, system)
    say(notes(settings, system))
    # Without a driver and cards that answer there is nothing to plan for.
    gpus = cards(system, settings) if planned else None
    if gpus is None or system.smi.trouble(settings.gpus):
        return found
    say(memory(settings, gpus, _models(settings, system)))
    say(occupied(settings, system))
    return found


def _of_a_gateway(settings: HostSettings) -> list[str]:
    """A gateway by itself needs nginx and HAProxy; Docker, cards and models there are none of
    ours."""
    system = look(
        SystemState,
        folders=folders(settings),
        image=settings.vllm.image,
        reader=settings.vllm.fetch_user,
        models=[],
    )
    release = look(OsRelease)
    found = [*problems(settings, release, system), *_front(settings, release)]
    if system.user == "0":
        found += _others(settings, system)
    say(notes(settings, system))
    return found


def _front(settings: HostSettings, release: Release) -> list[str]:
    """What only gateways need: HAProxy, a way to hosts, and an address that they may share."""
    installed = look(AptPackages, names=["haproxy"]).versions
    # What it has is what counts, and archives are asked alone.
    offered = {} if installed else look(AptVersions, names=["haproxy"])
    found = list(haproxy_problems(release, installed, offered))
    if others := replicas_elsewhere(settings):
        ways = look(WaysToHosts, hosts=sorted({one.address for one in others}))
        found += reach_problems(settings, ways)
    if shared := settings.virtual:
        peers = [str(peer) for peer in shared.peers]
        ground = look(VirtualGround, address=str(shared.address), peers=peers)
        found += virtual_problems(shared, ground)
    return found


def _others(settings: HostSettings, system: System) -> list[str]:
    """Other people's sites and programs with which a deploy could not succeed."""
    sites = look(NginxSites)
    sockets = look(ListeningSockets)
    agents = settings.runs_agents
    own = system.project_ports.get(settings.vllm.directory) if agents else None
    return [
        *site_problems(settings, sites),
        *strangers(sockets, settings, own=own or set(), of_sites=site_ports(sites)),
    ]


def _models(settings: HostSettings, system: System) -> dict[str, ModelFiles | str]:
    source = repr(settings.secrets)
    if source not in _hubs:
        _hubs[source] = HubClient(lambda: hf_token(settings), seconds=_SECONDS, rest=_REST)
    return models_of(settings, system.models, _hubs[source])
