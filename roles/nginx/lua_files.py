"""What nginx's workers run, to choose agents by models, count tokens and keep prefix caches apart;
on a gateway, to choose among hosts, and on a host behind one, to say whether engines live.

Touches no host.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path

from vllm_hosts.host import paths
from vllm_hosts.host.files import Absent, Entry, File, Folder
from vllm_hosts.host.nginx import FRONT, upstream
from vllm_hosts.host.render import render
from vllm_hosts.roles.nginx.inner import pulse
from vllm_hosts.roles.nginx.routes import ASKED, SALTED
from vllm_hosts.settings import HostSettings

#: What is not rendered is the same on all hosts.
_CHOOSING = ("by_model", "chooser", "request_body", "model_scanner", "form_scanner")
_ADDING = ("tokens", "counting", "counter", "request_body", "model_scanner", "usage_scanner")
_BALANCING = (*_ADDING, "balance", "balancing", "affinity_scanner", "waiting", "link_scanner")
_NAMING = ("names", "naming", "request_body", "model_scanner")
_ANSWERING = ("pulse", "engine_pulse", "heads", *_NAMING)
_FOLDER = Path(__file__).with_name("lua")


def lua_entries(settings: HostSettings) -> Iterator[Entry]:
    """Files of Lua, none of which holds a secret; none where nginx needs no Lua."""
    wanted = {
        *(_CHOOSING if settings.edge_side.chooses_by_model else ()),
        *(_ADDING if settings.edge.changes_requests else ()),
        *(_BALANCING if settings.is_gateway else ()),
        *(_ANSWERING if settings.behind_gateways else ()),
    }
    rendered: dict[str, Callable[[HostSettings], str]] = {
        **{"by_model": by_model, "tokens": tokens},
        "counting": partial(counting, side=side_of(settings)),
        **{"balance": balance, "pulse": pulse, "names": names},
    }
    if wanted:
        yield Folder(paths.EDGE_LUA, mode=0o755)
    for name, path in zip(_names(), lua_paths(), strict=True):
        if name not in wanted:
            yield Absent(path)
        elif name in rendered:
            # Gateways alone ask for a pulse.
            of = settings if name == "pulse" else settings.edge_side
            yield File(path, rendered[name](of).encode())
        else:
            yield File(path, _as_it_is(name))


@cache
def _as_it_is(name: str) -> bytes:
    return (_FOLDER / f"{name}.lua").read_bytes()


def lua_paths() -> list[str]:
    """All that there may be."""
    return [f"{paths.EDGE_LUA}/{name}.lua" for name in _names()]


def _names() -> tuple[str, ...]:
    return tuple(dict.fromkeys((*_CHOOSING, *_BALANCING, *_ANSWERING)))


def by_model(settings: HostSettings) -> str:
    """Which agents answer to which model."""
    return render(
        "nginx/by_model.lua.j2",
        folder=paths.EDGE_LUA,
        adds=settings.edge.changes_requests or settings.is_gateway,
        names=[
            {"name": name, "agents": [agent.name for agent in agents], "body": model_body(name)}
            for name, agents in settings.model_names.items()
        ],
    )


def tokens(_: HostSettings) -> str:
    """What nginx runs for a request and for its answer."""
    return render("nginx/tokens.lua.j2", folder=paths.EDGE_LUA)


def balance(_: HostSettings) -> str:
    """What nginx runs on a gateway besides."""
    return render("nginx/balance.lua.j2", folder=paths.EDGE_LUA)


def names(_: HostSettings) -> str:
    """What nginx runs behind gateways where a response is to be made."""
    return render("nginx/names.lua.j2", folder=paths.EDGE_LUA)


def side_of(settings: HostSettings) -> str:
    """What keeps a gateway's upstreams apart from those of the machine's own agents."""
    return FRONT if settings.is_gateway and settings.runs_agents else ""


def counting(settings: HostSettings, side: str = "") -> str:
    """What is counted and told apart. Salts are derived on the host, and stand nowhere.

    :param side: as ``side_of``.
    """
    edge, header = settings.edge, settings.gateway.session_header
    return render(
        "nginx/counting.lua.j2",
        folder=paths.EDGE_LUA,
        asked=ASKED if edge.count_tokens else (),
        salted=SALTED if edge.cache_isolation != "off" else (),
        # nginx's name for the header.
        session=f"http_{header.lower().replace('-', '_')}" if settings.is_gateway else "",
        sockets=[_sockets(settings, agent.name, side) for agent in settings.agents]
        if settings.is_gateway
        else [],
        makers=_makers(settings),
        groups={client: " ".join(sorted(group)) for group in edge.cache_groups for client in group},
    )


def _sockets(settings: HostSettings, agent: str, side: str) -> dict[str, object]:
    """Where HAProxy listens for an agent's requests."""
    pool = settings.pool(agent)
    path = paths.pool_socket(pool.name)
    return {"name": upstream(f"{side}{agent}"), "path": path, "again": bool(pool.again)}


def _makers(settings: HostSettings) -> dict[str, str]:
    """On a gateway: who made a response -> names by which clients reach that agent."""
    return {
        one.made_by: '", "'.join(
            agent.name for agent in settings.agents if settings.pool(agent.name) is pool
        )
        for pool in settings.pools
        for one in pool.replicas
    }


def model_body(name: str) -> str:
    """A model as OpenAI's API describes it."""
    return json.dumps({"id": name, "object": "model", "created": 0, "owned_by": "vllm"})
