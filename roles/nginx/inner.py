"""The server for gateways, of a host behind them. Touches no host."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from vllm_hosts.host import paths
from vllm_hosts.host.nginx import upstream
from vllm_hosts.host.render import render
from vllm_hosts.host.vllm_metrics import MOVED_BY_THE_ENGINE
from vllm_hosts.roles.nginx.routes import RESPONSES, inner_routes
from vllm_hosts.settings import HostSettings
from vllm_hosts.settings.cells import CONTAINER_PORT
from vllm_hosts.settings.fleet import inner_name, made_by


def inner_conf(
    settings: HostSettings,
    *,
    side: str,
    ipv6: bool,
    curves: Iterable[str],
    errors: Mapping[int, str],
    hidden_headers: Iterable[str],
) -> str:
    """What the main file includes. Contains no secret.

    :param side: what the upstreams for clients are told apart by, if the machine is a gateway too.
    """
    return render(
        "nginx/inner.conf.j2",
        side=side,
        ipv6=ipv6,
        folder=paths.EDGE_FOLDER,
        lua=paths.EDGE_LUA,
        logs=paths.EDGE_LOGS,
        edge=settings.edge,
        port=settings.gateway.port,
        certificate=paths.INNER_CERTIFICATE,
        key=paths.INNER_KEY,
        ca=paths.GATEWAY_CA,
        curves=curves,
        errors=errors,
        hidden_headers=hidden_headers,
        inner_names={
            inner_name(settings.name, agent.name): agent.name for agent in settings.agents
        },
        made_by={
            inner_name(settings.name, agent.name): made_by(settings.name, agent.name)
            for agent in settings.agents
        },
        responses=RESPONSES,
        # As OpenSSL writes a subject that is a name alone, of which certificates have 64 letters.
        gateways={f"CN={one.name[:64]}": one.name for one in settings.gateways},
        routes=list(inner_routes(settings)),
    )


def pulse(settings: HostSettings) -> str:
    """What answers for the agents' engines. The key that it asks with, nginx has."""
    return render(
        "nginx/pulse.lua.j2",
        folder=paths.EDGE_LUA,
        port=CONTAINER_PORT,
        metrics=MOVED_BY_THE_ENGINE,
        agents=[
            {
                "upstream": upstream(agent.name),
                "address": settings.cell(agent.name).address,
                "model": json.dumps(agent.client_model_name),
            }
            for agent in settings.agents
        ],
    )
