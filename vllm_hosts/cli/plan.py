"""`vllm-hosts plan`: whether agents fit their GPUs, before anything is deployed."""

from __future__ import annotations

import json
import math
import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from vllm_hosts.capacity import HostPlan, Verdict, plan_host
from vllm_hosts.capacity.hub_client import HubClient
from vllm_hosts.capacity.inputs import cards as cards_of
from vllm_hosts.capacity.inputs import look_at, models_of, supposed_gpus
from vllm_hosts.capacity.others import beside_others
from vllm_hosts.capacity.show import as_json, lines, totals
from vllm_hosts.cli.choice import host_option
from vllm_hosts.cli.command import Command, Exit
from vllm_hosts.cli.common import inventory_argument, only, opened, with_agents
from vllm_hosts.connect.connections import Connections
from vllm_hosts.errors import HostError
from vllm_hosts.host.system import System
from vllm_hosts.keys.sources import hf_token
from vllm_hosts.rehearsal.asking import Said, ask_vllm
from vllm_hosts.rehearsal.here import ask_here, engine
from vllm_hosts.rehearsal.planned import instead
from vllm_hosts.settings import HostSettings

_SECONDS = 30


class ModelDir(click.ParamType[tuple[str, Path]]):
    """An agent's name and a folder, such as ``qwen=/srv/models/qwen``."""

    name = "agent=folder"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, Path]:
        if isinstance(value, tuple):
            return value
        agent, _, folder = str(value).partition("=")
        if not (agent and folder) or not Path(folder).is_dir():
            self.fail(f"{value!r} does not name an agent and a folder; write AGENT=FOLDER")
        return agent, Path(folder)


class Gibibytes(click.FloatRange):
    """A size that a card can have. Nothing compares with NaN, so that a range lets it through."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        size: float = super().convert(value, param, ctx)
        if math.isnan(size):
            self.fail(f"{value!r} is not a size; write one such as 24", param, ctx)
        return size


class ImageName(click.ParamType[str]):
    """An image as engines name it. Theirs is the word; but none of their options is one."""

    name = "image"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._/:@-]*", str(value)):
            self.fail(
                f"{value!r} does not name an image; write one such as vllm/vllm-openai:v0.33.0",
                param,
                ctx,
            )
        return str(value)


@click.command(cls=Command, problems="The plan cannot be made:")
@inventory_argument
@host_option
@click.option(
    "--connect/--no-connect",
    default=True,
    show_default=True,
    help="Query hosts for GPUs and models, or plan from the settings and the hub alone.",
)
@click.option(
    "--gpu-memory",
    type=Gibibytes(min=0, min_open=True, max=10000),
    metavar="GIB",
    help="Memory of each GPU, for hosts that are not queried or cannot be reached.",
)
@click.option(
    "--model-dir",
    "copies",
    type=ModelDir(),
    multiple=True,
    metavar="AGENT=FOLDER",
    help="A copy of the agent's model on this machine. May be repeated.",
)
@click.option(
    "--rehearse/--no-rehearse",
    default=True,
    show_default=True,
    help="Ask the vLLM of each host's own image, which takes seconds, or estimate only.",
)
@click.option(
    "--image",
    type=ImageName(),
    metavar="IMAGE",
    help="Ask the vLLM of this image on this machine, with Docker or Podman, and not the hosts'.",
)
@click.option("--offline", is_flag=True, help="Do not query the hub; use cached answers only.")
@click.option("--json", "as_text", is_flag=True, help="Print JSON, a list of objects.")
def plan(
    inventory: Path,
    hosts: tuple[str, ...],
    connect: bool,
    gpu_memory: float | None,
    copies: tuple[tuple[str, Path], ...],
    rehearse: bool,
    image: str | None,
    offline: bool,
    as_text: bool,
) -> None:
    """Say whether vLLM takes agents and they fit their GPUs. Changes nothing.

    The vLLM of each host's own image is asked where it can be, or with --image that of an image on
    this machine; what it does not say is estimated.

    Exit codes: 0 all fit, 3 one does not, 1 one could not be planned. docs/capacity.md explains it.

    Example: vllm-hosts plan inventory/prod.py --no-connect --gpu-memory 24
    """
    project = opened(inventory)
    chosen = with_agents(only(project, hosts))
    known = {agent.name for host in project.settings.values() for agent in host.agents}
    if strangers := [name for name, _ in copies if name not in known]:
        raise click.UsageError(
            f"--model-dir names {', '.join(strangers)}; there is {', '.join(sorted(known))}"
        )
    if image and not rehearse:
        raise click.UsageError("--image asks vLLM, and --no-rehearse nobody; leave one of them out")
    has = engine(image) if image else None
    answers: dict[str, Looked | HostError] = {}
    if connect:
        answers = Connections(project.inventory).each(
            chosen, lambda name: _looked(chosen[name], rehearse and has is None), leave=True
        )
    unasked: dict[str, str] = {}
    plans = []
    for name, host in chosen.items():
        hub = HubClient(lambda host=host: hf_token(host), seconds=_SECONDS, offline=offline)  # type: ignore[misc]
        looked = answers.get(name)
        system = looked.system if isinstance(looked, Looked) else looked
        made = _plan(host, system, gpu_memory, dict(copies), hub)
        if isinstance(made, HostPlan):
            said = looked.said if isinstance(looked, Looked) else {}
            if has is not None:
                cards = {gpu.index: gpu for gpu in made.gpus}
                agents = [agent for agent in host.agents if cards.keys() >= set(agent.gpus)]
                said = ask_here(has, host, agents, cards, dict(copies), offline=offline)
            made = _rehearsed(host, made, said)
            if isinstance(system, System):
                made = beside_others(made, host.agents, system.gpus, system.programs)
        if isinstance(made, str):
            unasked[name] = made
        else:
            plans.append(made)
    _show(plans, unasked, as_text)
    verdicts = {agent.verdict for host in plans for agent in host.agents}
    if unasked or Verdict.UNKNOWN in verdicts:
        sys.exit(Exit.WRONG)
    if verdicts & {Verdict.DOES_NOT_FIT, Verdict.PROBABLY_NOT}:
        sys.exit(Exit.DIFFERS)


@dataclass(frozen=True)
class Looked:
    """What a host was asked: what it is, and by agent what its vLLM says."""

    system: System
    said: dict[str, Said]


def _looked(settings: HostSettings, rehearse: bool) -> Looked:
    system = look_at(settings)
    there = {gpu.index for gpu in system.gpus}
    # A container gets no card that is not there, nor any from a driver that does not answer.
    agents = [agent for agent in settings.agents if there.issuperset(agent.gpus)]
    said = ask_vllm(settings, agents, again=lambda _: False) if rehearse and agents else {}
    return Looked(system, said)


def _rehearsed(settings: HostSettings, plan: HostPlan, said: dict[str, Said]) -> HostPlan:
    """A host's plan with what its vLLM said in the place of formulas."""
    cards = {gpu.index: gpu for gpu in plan.gpus}
    agents = tuple(
        instead(agent, said[agent.name], one, [cards[index] for index in agent.gpus])
        if agent.name in said
        else one
        for agent, one in zip(settings.agents, plan.agents, strict=True)
    )
    return replace(plan, agents=agents)


def _plan(
    settings: HostSettings,
    system: System | HostError | None,
    gpu_memory: float | None,
    copies: dict[str, Path],
    hub: HubClient,
) -> HostPlan | str:
    """A host's plan, or why there is none."""
    there = system if isinstance(system, System) else None
    gpus = cards_of(there, settings) if there else None
    supposed = gpu_memory or settings.capacity.gpu_memory
    if gpus is None and settings.needs_gpu:
        if supposed is None:
            return f"{_why(system)}; give --gpu-memory, or set capacity.gpu_memory"
        if system is not None:
            note = f"{_why(system)}; planned with {supposed:g} GiB for each GPU"
            click.secho(f"{settings.name}: {note}", fg="yellow", err=True)
        gpus = supposed_gpus(settings, supposed)
    return plan_host(
        settings, gpus or {}, models_of(settings, there.models if there else {}, hub, copies)
    )


def _why(system: System | HostError | None) -> str:
    """Why a host's cards are not known."""
    if isinstance(system, HostError):
        return str(system)
    if system is None:
        return "the host was not queried for its GPUs (--no-connect)"
    return f"the GPU driver does not answer: {system.gpu_failure}"


def _show(plans: list[HostPlan], unasked: dict[str, str], as_text: bool) -> None:
    if as_text:
        found = [as_json(host) for host in plans]
        found += [{"host": name, "error": why} for name, why in unasked.items()]
        click.echo(json.dumps(found, indent=2))
        return
    for host in plans:
        click.secho(host.host, bold=True)
        for line in lines(host):
            click.secho(line.text, fg=line.colour)
    for name, why in unasked.items():
        click.secho(name, bold=True)
        click.secho(f"  could not be planned: {why}", fg="red")
    if plans:
        click.echo(totals(plans))
