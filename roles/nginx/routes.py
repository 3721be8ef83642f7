"""Which paths the edge serves, and which of vLLM's paths they lead to. Touches no host."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import quote

from vllm_hosts.settings import Agent, HostSettings
from vllm_hosts.settings.edge import SERVED

MODELS = "/v1/models"
#: Where vLLM says how many tokens a stream has only to those who ask.
ASKED = ("/v1/chat/completions", "/v1/completions")
#: Where a request can say whose prefix cache it is (vLLM 0.32 and 0.33, read).
SALTED = (
    *("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"),
    *("/v1/embeddings", "/v1/rerank", "/v2/rerank", "/v1/score"),
)
#: Where responses are made.
RESPONSES = "/v1/responses"
_RESPONSE_ID = "[A-Za-z0-9_-]{1,128}"


@dataclass(frozen=True)
class Route:
    """One location: how it matches, its only method, the agent, and the path there.

    ``logged`` replaces the path in the log, so that no client's identifier gets there. ``adds``:
    something is added to the request (how many tokens a stream has is asked for, or whose prefix
    cache it is); ``counts``: tokens are read from its answer. ``agent``: empty where it is found
    while the request is read.
    """

    match: str
    method: str
    agent: str
    path: str
    logged: str
    adds: bool = False
    counts: bool = False


@dataclass(frozen=True)
class ModelRoute:
    """One model by its name: vLLM only lists all of them, so the edge answers this itself.

    ``shared``: several agents answer to that name, ``agent`` is one of them.
    """

    path: str
    agent: str
    name: str
    shared: bool = False


def prefixes(settings: HostSettings) -> Iterator[tuple[str, Agent]]:
    """``/AGENT`` for every agent, and an empty prefix for the first."""
    yield "", settings.agents[0]
    for agent in settings.agents:
        yield f"/{agent.name}", agent


def routes(settings: HostSettings) -> Iterator[Route]:
    """``/AGENT/v1/...`` for every agent, and ``/v1/...`` for the first, where that is not chosen by
    the request's model."""
    chosen = {f"= {path}" for path in chosen_paths(settings)}
    for prefix, agent in prefixes(settings):
        for method, path in _wanted(settings):
            if f"= {prefix}{path}" not in chosen:
                counts = settings.edge.count_tokens and method == "POST"
                # A gateway chooses by the beginning of a prompt.
                isolated = settings.edge.cache_isolation != "off" or settings.is_gateway
                salted = SALTED if isolated else ()
                yield Route(
                    f"= {prefix}{path}",
                    method,
                    agent.name,
                    path,
                    f"{prefix}{path}",
                    adds=path in (*(ASKED if counts else ()), *salted),
                    counts=counts,
                )
        # Without a name, a gateway goes by who made it.
        found = not prefix and settings.is_gateway and settings.chooses_by_model
        yield from _responses(prefix, "" if found else agent.name)


def inner_routes(settings: HostSettings) -> Iterator[Route]:
    """What gateways may ask of any agent: vLLM's own paths. They name the agent otherwise."""
    for method, path in _wanted(settings):
        yield Route(f"= {path}", method, "", path, path)
    yield from _responses("", "")


def _responses(prefix: str, agent: str) -> Iterator[Route]:
    """One response by its identifier."""
    # A named group: later regular expressions overwrite numbered ones. And \z: a $ would let
    # an encoded line feed pass.
    group = f"(?<vllm_hosts_id>{_RESPONSE_ID})"
    base, logged = f'"^{prefix}/v1/responses/{group}', f"{prefix}/v1/responses/ID"
    target = "/v1/responses/$vllm_hosts_id"
    yield Route(rf'~ {base}\z"', "GET", agent, target, logged)
    cancel = f"{target}/cancel", f"{logged}/cancel"
    yield Route(rf'~ {base}/cancel\z"', "POST", agent, *cancel)


def chosen_paths(settings: HostSettings) -> dict[str, str]:
    """Paths whose agent is chosen for each request -> their method: by the model that the body
    names, and for the list of models there is none to choose."""
    if not settings.chooses_by_model:
        return {}
    return {
        path: method for method, path in _wanted(settings) if method == "POST" or path == MODELS
    }


def model_routes(settings: HostSettings) -> list[ModelRoute]:
    """``GET /v1/models/NAME`` with the name that each agent answers to."""
    found = [
        ModelRoute(
            f"{prefix}{MODELS}/{agent.client_model_name}", agent.name, agent.client_model_name
        )
        for prefix, agent in prefixes(settings)
        if prefix or not settings.chooses_by_model
    ]
    if settings.chooses_by_model:
        found += [
            ModelRoute(f"{MODELS}/{name}", agents[0].name, name, shared=len(agents) > 1)
            for name, agents in settings.model_names.items()
            if name in {agent.client_model_name for agent in agents}
        ]
    return found


def encoded_models(settings: HostSettings) -> list[tuple[str, str]]:
    """Paths of models as OpenAI's client encodes them, if that is not nginx's normal form."""
    return [
        (route.path, route.path.removesuffix(route.name) + quote(route.name, safe=""))
        for route in model_routes(settings)
        if quote(route.name, safe="") != route.name
    ]


def browser_paths(settings: HostSettings) -> str:
    """A regular expression for the paths of any host with these settings, whatever its agents'
    names, so that a browser's preflight requests reveal no agents."""
    fixed = "|".join(re.escape(path) for path in sorted({path for _, path in _wanted(settings)}))
    return rf"(/[a-z0-9-]+)?({fixed}|/v1/models/\S+|/v1/responses/{_RESPONSE_ID}(/cancel)?)"


def _wanted(settings: HostSettings) -> Iterator[tuple[str, str]]:
    yield from SERVED
    for route in settings.edge.routes:
        method, _, path = route.partition(" ")
        yield method, path
