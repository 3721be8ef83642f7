"""From an inventory to what is wrong with its hosts. All are checked at the same time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from vllm_hosts.capacity import plan_host
from vllm_hosts.capacity.hub_client import HubClient
from vllm_hosts.capacity.inputs import cards, look_at, models_of
from vllm_hosts.connect.connections import Connections

# Each registers the diagnoses that it finds.
from vllm_hosts.doctor import (  # noqa: F401
    doctors_address,
    doctors_agent,
    doctors_balancer,
    doctors_edge,
    doctors_gpu,
    doctors_machine,
    doctors_memory,
    doctors_words,
)
from vllm_hosts.doctor.diagnoses import Diagnosis, diagnose
from vllm_hosts.doctor.messages import UNSIZED, said_by
from vllm_hosts.doctor.query import seen
from vllm_hosts.doctor.seen import Seen
from vllm_hosts.errors import HostError
from vllm_hosts.host.probe import reachable
from vllm_hosts.project.loaded import Project
from vllm_hosts.settings import HostSettings
from vllm_hosts.text import clean


@dataclass(frozen=True)
class Examined:
    """What is wrong with a host, most likely first; ``blind``: what could not be checked."""

    found: tuple[Diagnosis, ...] = ()
    blind: tuple[str, ...] = ()

    def as_json(self) -> dict[str, object]:
        """The names here are the names in the JSON, and stay."""
        return {
            "found": [diagnosis.as_json() for diagnosis in self.found],
            "could_not_look": list(self.blind),
        }


def examine(project: Project, chosen: Mapping[str, HostSettings]) -> dict[str, Examined]:
    """By host: what is wrong with it. Nothing is changed on any host.

    :param chosen: the hosts to check.
    """
    connections, file = Connections(project.inventory), str(project.file)
    looks = connections.each(chosen, lambda name: _looked(chosen[name]), leave=True)
    looks = together(project.settings, looks)
    return {name: _judged(chosen[name], look, file) for name, look in looks.items()}


def together(
    settings: Mapping[str, HostSettings], looks: Mapping[str, Seen | HostError]
) -> dict[str, Seen | HostError]:
    """What no look at one gateway shows: which of them have the address that they share."""
    sharing = [name for name, one in settings.items() if one.virtual is not None]
    seen = {name: look for name in sharing if isinstance(look := looks.get(name), Seen)}
    holders = [name for name, look in seen.items() if look.virtual and look.virtual.held]
    if len(seen) < len(sharing):
        return dict(looks)
    return dict(looks) | {
        name: replace(look, virtual=replace(look.virtual, holders=tuple(holders)))
        for name, look in seen.items()
        if look.virtual is not None
    }


def _looked(settings: HostSettings) -> Seen:
    """What is seen at the host at hand."""
    look = seen(settings, reachable)
    return replace(look, fitting=_fitting(settings, look))


def _judged(settings: HostSettings, look: Seen | HostError, file: str) -> Examined:
    if isinstance(look, HostError):
        return Examined(blind=(str(look),))
    try:
        return Examined(tuple(diagnose(settings, look, file)), tuple(map(clean, look.blind())))
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        return Examined(blind=(clean(f"the answer could not be understood: {error!r}"),))


def _fitting(settings: HostSettings, look: Seen) -> dict[str, str]:
    """By agent that ran out of memory: the setting by which the memory plan lets it fit.

    From the host, or from what was read of the model before: the hub is not queried.
    """
    if not any(said_by(agent, words) for agent in look.agents for words in UNSIZED):
        return {}
    try:
        system = look_at(settings)
    except HostError:
        # The diagnosis stands without it, and another one says what is wrong with the host.
        return {}
    models = models_of(settings, system.models, HubClient(lambda: None, seconds=1, offline=True))
    plan = plan_host(settings, cards(system, settings) or {}, models)
    return {agent.agent: agent.remedy for agent in plan.agents if agent.remedy}
