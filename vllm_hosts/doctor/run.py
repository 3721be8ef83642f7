"""From an inventory to what is wrong with its hosts. All are looked at at the same time."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import gevent
from pyinfra.api.config import Config
from pyinfra.api.host import Host
from pyinfra.api.state import State
from pyinfra.context import ctx_config, ctx_host, ctx_inventory, ctx_state

from vllm_hosts.capacity import plan_host
from vllm_hosts.capacity.hub import Hub
from vllm_hosts.capacity.sources import cards, look_at, models_of
from vllm_hosts.connect.hosts import connect_as_root
from vllm_hosts.connect.reach import disconnect, saying

# Each registers the diagnoses that it finds.
from vllm_hosts.doctor import (  # noqa: F401
    doctors_agent,
    doctors_edge,
    doctors_gpu,
    doctors_machine,
    doctors_memory,
    doctors_words,
)
from vllm_hosts.doctor.look import seen
from vllm_hosts.doctor.model import Diagnosis, diagnose
from vllm_hosts.doctor.seen import Seen
from vllm_hosts.doctor.words import UNSIZED, said_by
from vllm_hosts.errors import HostError
from vllm_hosts.host.probe import reachable
from vllm_hosts.project.inventory import load, validate
from vllm_hosts.settings import HostSettings
from vllm_hosts.text import clean


@dataclass(frozen=True)
class Examined:
    """What is wrong with a host, most likely first; ``blind``: what could not be looked at."""

    found: tuple[Diagnosis, ...] = ()
    blind: tuple[str, ...] = ()

    def as_json(self) -> dict[str, object]:
        """The names here are the names in the JSON, and stay."""
        return {
            "found": [diagnosis.as_json() for diagnosis in self.found],
            "could_not_look": list(self.blind),
        }


def examine(inventory_file: Path, chosen: tuple[str, ...]) -> dict[str, Examined]:
    """By host: what is wrong with it. Nothing is changed on any host.

    :param chosen: names of hosts to look at; empty: all.
    :raises SettingsError: the settings are not valid.
    """
    inventory = load(inventory_file)
    settings = validate(inventory)
    config = Config()
    state = State(inventory, config)
    ctx_state.set(state)
    ctx_config.set(config)
    ctx_inventory.set(inventory)
    names = [name for name in settings if not chosen or name in chosen]
    looks = [
        gevent.spawn(_examine, state, inventory.get_host(name), settings[name], str(inventory_file))
        for name in names
    ]
    gevent.joinall(looks, raise_error=True)
    return {name: look.value for name, look in zip(names, looks, strict=True)}


def _examine(state: State, host: Host, settings: HostSettings, file: str) -> Examined:
    with ctx_state.use(state), ctx_host.use(host):
        try:
            connect_as_root(host)
        except HostError as error:
            return Examined(blind=(str(error),))
        try:
            with saying(host):
                look = seen(settings, reachable)
                look = replace(look, fitting=_fitting(settings, look))
        except HostError as error:
            return Examined(blind=(str(error),))
        finally:
            disconnect(host)
    try:
        return Examined(tuple(diagnose(settings, look, file)), tuple(map(clean, look.blind())))
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        return Examined(blind=(clean(f"what was seen could not be understood: {error!r}"),))


def _fitting(settings: HostSettings, look: Seen) -> dict[str, str]:
    """By agent that ran out of memory: the setting by which the memory plan lets it fit.

    From the host, or from what was read of the model before: nothing is asked of the hub.
    """
    if not any(said_by(agent, words) for agent in look.agents for words in UNSIZED):
        return {}
    try:
        system = look_at(settings)
    except HostError:
        # The diagnosis stands without it, and another one says what is wrong with the host.
        return {}
    models = models_of(settings, system.models, Hub(lambda: None, seconds=1, offline=True))
    plan = plan_host(settings, cards(system, settings) or {}, models)
    return {agent.agent: agent.remedy for agent in plan.agents if agent.remedy}
