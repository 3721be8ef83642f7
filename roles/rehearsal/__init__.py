"""The agents' own vLLM accepts them, before any of them is touched.

Promises: an agent whose settings vLLM refuses stays as it is, and the host fails with vLLM's own
sentence. Needs: the image, the GPUs, .env (the hub's token). Writes: nothing that stays. Restarts:
nothing. What cannot be rehearsed is said, and stops nobody.
"""

from __future__ import annotations

from hashlib import sha256

from pyinfra.api.deploy import deploy

from vllm_hosts.facts import look
from vllm_hosts.facts.compose import ComposeProject
from vllm_hosts.facts.system import HostMemory
from vllm_hosts.facts.tree import TreeState
from vllm_hosts.host.agent_changes import changes
from vllm_hosts.host.paths import PROJECT
from vllm_hosts.host.services import compose_file, variable_names
from vllm_hosts.operations.checks import promise_kept, say
from vllm_hosts.project import run
from vllm_hosts.rehearsal.asking import ask_vllm
from vllm_hosts.rehearsal.verdict import judged
from vllm_hosts.settings import Agent, HostSettings


@deploy("Rehearsal")
def rehearsal() -> None:
    """Ask vLLM about each agent that would be started or recreated."""
    settings = run.current().settings
    promise_kept(lambda: _refusals(settings), name="vLLM accepts the agents that change")


def _refusals(settings: HostSettings) -> list[str]:
    if settings.capacity.preflight == "off":
        return []
    agents = _changing(settings)
    if not agents:
        return []
    # A refusal may be about the host: it is not taken from memory.
    said = ask_vllm(settings, agents, again=lambda answer: answer.refused is not None)
    found = judged(settings, agents, {name: one.answer for name, one in said.items()})
    say(found.warnings)
    return found.problems


def _changing(settings: HostSettings) -> list[Agent]:
    """The agents that the role vllm would start or recreate, for another definition."""
    path, file = f"{settings.vllm.directory}/compose.yaml", compose_file(settings, look(HostMemory))
    if look(TreeState, paths=[path]).paths[path].sha256 == sha256(file.encode()).hexdigest():
        # It is written only after this, so whoever wrote it was told what vLLM says.
        return []
    project = look(
        ComposeProject,
        directory=settings.vllm.directory,
        project=PROJECT,
        file=file,
        names=variable_names(settings),
    )
    hashes = {one.service: one.config_hash for one in project.containers}
    names = {change.agent for change in changes([*project.wanted], project)}
    return [
        agent
        for agent in settings.agents
        # One that only stopped was accepted when it was made.
        if agent.name in names and hashes.get(agent.name) != project.wanted[agent.name]
    ]
