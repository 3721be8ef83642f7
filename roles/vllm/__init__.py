"""The agents: vLLM in containers.

Promises: every agent runs as its settings say, on 127.0.0.1 only, without privileges, in a network
of its own, and is healthy. Needs: docker, secrets (.env), models (image and weights). Writes:
compose.yaml, a folder for each agent. Restarts: only an agent whose definition or secret changed.
"""

from __future__ import annotations

from pyinfra.api.deploy import deploy

from roles.vllm.plan import PROJECT, compose_entries, peers
from vllm_hosts import run
from vllm_hosts.facts import look
from vllm_hosts.facts.compose import COMPOSE
from vllm_hosts.facts.system import HostMemory
from vllm_hosts.operations.compose import agents_healthy, agents_running
from vllm_hosts.operations.tree import tree_synced


@deploy("vLLM")
def vllm() -> None:
    """Bring the agents to what the settings say and wait until they answer."""
    current = run.current()
    settings = current.settings
    directory = settings.vllm.directory
    agents = [agent.name for agent in settings.agents]
    tree_synced(
        lambda: compose_entries(settings, look(HostMemory)),
        validate=f"{COMPOSE} --project-directory {directory} config --quiet",
        name="compose.yaml describes the agents",
    )
    agents_running(
        directory,
        PROJECT,
        agents,
        timeout=settings.vllm.health_timeout,
        peers=peers(settings),
        cells={agent: settings.cell(agent) for agent in agents},
        cards={agent.name: agent.gpus for agent in settings.agents},
        internal_keys={agent: current.keys.internal_of(agent) for agent in agents},
        name="The agents run as compose.yaml says",
    )
    agents_healthy(
        directory,
        agents,
        settings.vllm.health_timeout,
        name="The agents are healthy",
    )
