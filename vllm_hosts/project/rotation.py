"""The gateways in front of a host of a site, and whether its own edge answers for its agents."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial

from vllm_hosts.connect.connections import Connections
from vllm_hosts.host import probe
from vllm_hosts.keys.places import client_ca_file
from vllm_hosts.operations.balancers import Gate, of_this_run
from vllm_hosts.operations.rotation import NoEdge, Rotation
from vllm_hosts.project.loaded import Project

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
    return Rotation(
        host=host,
        gates=tuple(Gate(one.name, one.address, one.edge.https_port) for one in gates),
        timeout=settings.gateway.drain_timeout,
        answers=partial(_answers, project, host),
        connections=connections or of_this_run,
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
            for path in _PATHS:
                answer = probe.patiently(
                    partial(
                        ask,
                        f"/{name}{path}",
                        method="POST",
                        headers=headers,
                        body=json.dumps(_body(path, agent.client_model_name)).encode(),
                    )
                )
                if answer.status == 401 or answer.status < 300:
                    return None
                if answer.status >= 500:
                    return f"{path} gives {answer.status}"
            # One that transcribes, for example, has no use for a word.
            answer = ask(f"/{name}/v1/models", headers=headers)
    except OSError as error:
        there = probe.reachable(settings.address, settings.edge.https_port)
        return str(error) if there else NoEdge(error)
    if answer.status == 200 and _has(answer, agent.client_model_name):
        return None
    return f"/v1/models gives {answer.status} without {agent.client_model_name}"


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
