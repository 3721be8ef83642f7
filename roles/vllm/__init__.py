"""The agents: vLLM in containers.

Promises: every agent runs as its settings say, on 127.0.0.1 only, without privileges, in a network
of its own, and is healthy. Needs: docker, secrets (.env), models (image and weights). Writes:
compose.yaml, a folder for each agent, and what is healthy for a way back. Restarts: only an agent
whose definition or secret changed, on hosts with the same model one after the other, out of
gateways' rotation meanwhile. What does not become healthy is put back to what was.
"""

from __future__ import annotations

from functools import partial

from pyinfra.api.deploy import deploy

from vllm_hosts.facts import look
from vllm_hosts.facts.system import HostMemory
from vllm_hosts.host.agent_changes import Definition
from vllm_hosts.host.paths import PROJECT
from vllm_hosts.host.services import compose_entry
from vllm_hosts.host.way_back import KeptDefinition
from vllm_hosts.operations.compose import Agents, agents_announced, agents_running
from vllm_hosts.operations.healthy import agents_healthy
from vllm_hosts.operations.tree import tree_synced
from vllm_hosts.operations.way_back import kept_for_a_way_back, put_back
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
        edge_is_up=current.edge_is_up,
        put_back=partial(put_back, current.way),
    )
    tree_synced(folders(settings), name="The agents' folders are there")
    agents_announced(wanted, name="Hosts with the same model take turns")
    agents_running(wanted, name="The agents run as in compose.yaml")
    agents_healthy(
        settings.vllm.directory,
        names,
        settings.vllm.health_timeout,
        wanted.put_back,
        name="The agents are healthy",
    )
    kept_for_a_way_back(
        lambda: _definition(current).file,
        partial(KeptDefinition.of, settings),
        settings.vllm.directory,
        settings.vllm.image,
        name="What is healthy is kept for a way back",
    )


def _definition(current: Current) -> Definition:
    settings = current.settings
    file = compose_entry(settings, look(HostMemory))
    return Definition(file, variables(settings, current.keys))
