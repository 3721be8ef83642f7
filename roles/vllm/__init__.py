"""The agents: vLLM in containers.

Promises: every agent runs as its settings say, on 127.0.0.1 only, without privileges, in a network
of its own, and is healthy. Needs: docker, secrets (.env), models (image and weights). Writes:
compose.yaml, a folder for each agent. Restarts: only an agent whose definition or secret changed,
on hosts with the same model one after the other.
"""

from __future__ import annotations

from functools import partial

from pyinfra.api.deploy import deploy

from vllm_hosts.facts import look
from vllm_hosts.facts.system import HostMemory
from vllm_hosts.host import probe
from vllm_hosts.host.agent_changes import Definition
from vllm_hosts.host.paths import PROJECT
from vllm_hosts.host.services import compose_entry
from vllm_hosts.operations.compose import Agents, agents_announced, agents_running
from vllm_hosts.operations.healthy import agents_healthy
from vllm_hosts.operations.tree import tree_synced
from vllm_hosts.project import run
from vllm_hosts.project.run import Current
from vllm_hosts.roles.vllm.plan import folders, peers, variables


@deploy("vLLM")
def vllm() -> None:
    """Bring the agents to what the settings say and wait until they answer."""
    current = run.current()
    settings = current.settings
    names = [agent.name for agent in settings.agents]
    wanted = Agents(
        directory=settings.vllm.directory,
        project=PROJECT,
        names=names,
        definition=partial(_definition, current),
        serving=current.serving,
        peers=peers(settings),
        cells={agent: settings.cell(agent) for agent in names},
        cards={agent.name: agent.gpus for agent in settings.agents},
        internal_keys={agent: current.keys.internal_of(agent) for agent in names},
        edge_is_up=partial(_edge_is_up, current),
    )
    tree_synced(folders(settings), name="The agents' folders are there")
    agents_announced(wanted, name="Hosts with the same model take turns")
    agents_running(wanted, name="The agents run as in compose.yaml")
    agents_healthy(
        settings.vllm.directory,
        names,
        settings.vllm.health_timeout,
        name="The agents are healthy",
    )


def _definition(current: Current) -> Definition:
    settings = current.settings
    file = compose_entry(settings, look(HostMemory))
    return Definition(file, variables(settings, current.keys))


def _edge_is_up(current: Current) -> bool:
    """What the edge says of its first agent, asked from here."""
    settings = current.settings
    try:
        answer = probe.get(
            settings.address,
            settings.edge.https_port,
            "/health",
            name=settings.edge_names[0],
            ca_file=current.ca_file,
        )
    except OSError:
        return False
    return answer.status == 200
