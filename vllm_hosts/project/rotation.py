"""The gateways in front of a host of a site, and whether its own edge answers for its agents."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial

import gevent

from vllm_hosts.connect.connections import Connections, ask_host
from vllm_hosts.errors import HostError
from vllm_hosts.facts.answered_inside import AnsweredInside
from vllm_hosts.host import probe
from vllm_hosts.keys.places import client_ca_file
from vllm_hosts.keys.store_content import CONTROLLER
from vllm_hosts.operations.balancers import Gate, of_this_run
from vllm_hosts.operations.rotation import NoEdge, Rotation
from vllm_hosts.project.loaded import Project
from vllm_hosts.settings import Agent, HostSettings
from vllm_hosts.settings.fleet import inner_name

#: Seconds for one token: the first one of an agent takes longest.
_PATIENCE = 60.0
#: Where an agent of one kind or another makes something of one word.
_PATHS = ("/v1/completions", "/v1/embeddings", "/v1/score")


def rotation_of(
    project: Project, host: str, connections: Callable[[], Connections] | None = None
) -> Rotation:
    """What a run needs to take a host's agents out of rotation, and to put them back.

    :param connections: those of a command; None: those of the present run.
    """
    settings = project.settings[host]
    if not settings.behind_gateways:
        return Rotation(host)
    gates = [project.settings[gateway.name] for gateway in settings.gateways]
    connections = connections or of_this_run
    answers = partial(_answers, project, host)
    if settings.is_gateway:
        answers = partial(_answers_inside, settings, connections)
    return Rotation(
        host=host,
        gates=tuple(Gate(one.name, one.address, one.edge.https_port) for one in gates),
        timeout=settings.gateway.drain_timeout,
        answers=answers,
        connections=connections,
    )


def _answers(project: Project, host: str, name: str) -> str | None:
    """Why a host's own edge gives no token of an agent; None: it does.

    Where it does not know this run's key yet, that is no reason: gateways ask the engine themselves
    before they send anything, and the key comes later in the same run.
    """
    settings, keys = project.settings[host], project.keys[host]
    [agent] = [one for one in settings.agents if one.name == name]
    usable = [key for key in keys.clients if key.agents is None or name in key.agents]
    if not usable:
        return None
    headers = {
        "Authorization": f"Bearer {usable[0].value.get_secret_value()}",
        "Content-Type": "application/json",
    }
    try:
        with probe.visit(
            settings.address,
            settings.edge.https_port,
            name=settings.edge_names[0],
            ca_file=client_ca_file(settings, project.opened.folder),
            timeout=_PATIENCE,
        ) as ask:

            def tried(path: str, body: str) -> probe.Response:
                if not body:
                    return ask(f"/{name}{path}", headers=headers)
                sent = body.encode()
                post = partial(ask, f"/{name}{path}", method="POST", headers=headers, body=sent)
                return probe.patiently(post)

            return _why_not(agent, tried, unknown=401)
    except OSError as error:
        there = probe.reachable(settings.address, settings.edge.https_port)
        return str(error) if there else NoEdge(error)


def _answers_inside(
    settings: HostSettings, connections: Callable[[], Connections], name: str
) -> str | None:
    """The same of a machine that is a gateway as well: it asks its own port for gateways."""
    [agent] = [one for one in settings.agents if one.name == name]
    known = connections()

    def there(path: str, body: str) -> probe.Response | OSError | HostError:
        at = partial(ask_host, AnsweredInside, **asked_inside(settings, name, path, body))
        try:
            return known.at(settings.name, at)
        except HostError as error:
            return error

    def tried(path: str, body: str) -> probe.Response:
        # In a greenlet of its own: in this one a host is at hand already, maybe the same one.
        found: probe.Response | OSError | HostError = gevent.spawn(there, path, body).get()
        if isinstance(found, Exception):
            raise found
        return found

    try:
        return _why_not(agent, tried)
    except ConnectionRefusedError as error:
        return NoEdge(error)
    except (HostError, OSError) as error:
        return str(error)


def asked_inside(
    settings: HostSettings, agent: str, path: str, body: str = ""
) -> dict[str, object]:
    """What ``AnsweredInside`` is asked about an agent."""
    return {
        "agent": inner_name(settings.name, agent),
        "port": settings.gateway.port,
        "path": path,
        "body": body,
        "client": CONTROLLER,
    }


def _why_not(
    agent: Agent, ask: Callable[[str, str], probe.Response], *, unknown: int | None = None
) -> str | None:
    """Why an agent gives no token; None: it does.

    :param ask: sends a path and a body, or none.
    :param unknown: the status that says nothing about the agent.
    """
    model = agent.client_model_name
    for path in _PATHS:
        answer = ask(path, json.dumps(_body(path, model)))
        if answer.status == unknown or answer.status < 300:
            return None
        if answer.status >= 500:
            return f"{path} gives {answer.status}"
    # One that transcribes, for example, has no use for a word.
    answer = ask("/v1/models", "")
    if answer.status == 200 and _has(answer, model):
        return None
    return f"/v1/models gives {answer.status} without {model}"


def _has(answer: probe.Response, model: str) -> bool:
    """Whether a list of models has this one."""
    try:
        listed = answer.json()
    except ValueError:
        return False
    models = listed.get("data") if isinstance(listed, dict) else None
    return isinstance(models, list) and any(
        isinstance(one, dict) and one.get("id") == model for one in models
    )


def _body(path: str, model: str) -> dict[str, object]:
    if path == "/v1/completions":
        return {"model": model, "prompt": "a", "max_tokens": 1}
    if path == "/v1/score":
        return {"model": model, "text_1": "a", "text_2": "a"}
    return {"model": model, "input": "a"}
