"""Asking the vLLM of a host's image about the agents of its settings."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from secrets import token_hex

from vllm_hosts.capacity import estimates
from vllm_hosts.capacity.arguments import gives
from vllm_hosts.capacity.inputs import gpus_of
from vllm_hosts.capacity.others import HeldMemory, held
from vllm_hosts.capacity.result import PlannedGpu
from vllm_hosts.errors import HostError, LostError, SettingsError
from vllm_hosts.facts import look
from vllm_hosts.facts.hub import HubModels, asked_of
from vllm_hosts.host.models import download, models_of
from vllm_hosts.host.paths import models_folder
from vllm_hosts.host.services import service
from vllm_hosts.hub.hub_models import Fetched, HubModel
from vllm_hosts.hub.local import LocalFile, contents, small_files
from vllm_hosts.rehearsal import remembered
from vllm_hosts.rehearsal.answer import Answer, unrehearsed
from vllm_hosts.rehearsal.container import MODELS, Asked, Rehearsed, Request, key
from vllm_hosts.rehearsal.fact import Grounds, Heard, RehearsalGrounds, Rehearsals
from vllm_hosts.rehearsal.on_host import Fetch, copied, packed
from vllm_hosts.rehearsal.on_host import small_files as fetched_files
from vllm_hosts.settings import Agent, HostSettings

_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Said:
    """What vLLM said of an agent.

    :ivar remembered: it did so earlier, to the same question.
    :ivar image: which one was asked on this machine; empty: the host's own, on the host.
    :ivar alike: whether it was asked beside cards such as the agent's, by which vLLM decides.
    :ivar held: what others hold of its cards now, which it was not asked about.
    """

    answer: Answer
    remembered: bool = False
    image: str = ""
    alike: bool = True
    held: HeldMemory | None = None

    @property
    def source(self) -> str:
        """Who said it, and where."""
        where = f" in {self.image}, asked here" if self.image else ""
        where += "" if self.alike else " without such a GPU"
        earlier = ", which said so earlier" if self.remembered else ""
        return f"vLLM {self.answer.vllm or 'itself'}{where}{earlier}"


def ask_vllm(
    settings: HostSettings, agents: Sequence[Agent], *, again: Callable[[Answer], bool]
) -> dict[str, Said]:
    """By agent what its own vLLM says, or why it could not be asked. Changes nothing on the host.

    :param again: whether vLLM is asked once more though it is remembered what it said.
    :raises LostError: the connection has ended.
    """
    try:
        return _Host(settings, agents, again).asked()
    except LostError:
        raise
    except HostError as error:
        return {agent.name: Said(unrehearsed(str(error))) for agent in agents}


class _Host:
    """One host that is asked."""

    def __init__(
        self, settings: HostSettings, agents: Sequence[Agent], again: Callable[[Answer], bool]
    ) -> None:
        self.settings, self.agents, self.again = settings, agents, again
        # Around answers, and in the names of all that lasts as long as they take.
        self.mark = token_hex(16)
        self.models = {agent.name: models_of(agent) for agent in agents}
        self.cards: Mapping[int, PlannedGpu] = {}
        #: Small files of folders that are not on the host yet, by agents' ``model``.
        self.copies: dict[str, tuple[LocalFile, ...]] = {}

    def asked(self) -> dict[str, Said]:
        """What ``ask_vllm`` returns."""
        settings = self.settings
        grounds = look(
            RehearsalGrounds,
            image=settings.vllm.image,
            folders=sorted({agent.model for agent in self.agents if agent.is_folder}),
            reader=settings.vllm.user,
            cards=any(agent.gpus for agent in self.agents),
        )
        cards = grounds.smi.gpus if grounds.smi else ()
        try:
            said = self._said(grounds)
        except LostError:
            raise
        except HostError as error:
            # What others hold is known all the same.
            said = {agent.name: Said(unrehearsed(str(error))) for agent in self.agents}
        return {
            agent.name: replace(said[agent.name], held=held(agent, cards, grounds.programs))
            for agent in self.agents
        }

    def _said(self, grounds: Grounds) -> dict[str, Said]:
        """By agent what vLLM says, or why it does not."""
        settings = self.settings
        if not grounds.image:
            why = f"the image {settings.vllm.image} is not on the host"
            return {agent.name: Said(unrehearsed(why)) for agent in self.agents}
        if grounds.smi is not None:
            self.cards = gpus_of(grounds.smi.gpus, settings.capacity.gpu_memory)
        needed = {model.key: model for models in self.models.values() for model in models}
        there: dict[str, Fetched] = {}
        if needed:
            there = look(
                HubModels,
                models=asked_of(needed.values(), settings.vllm.cache_directory),
                reader=settings.vllm.fetch_user,
            )
        found: dict[str, Said] = {}
        waiting: list[Asked] = []
        for agent in self.agents:
            if agent.is_folder and agent.model not in grounds.folders:
                try:
                    self.copies[agent.model] = _coming(agent)
                except (HostError, SettingsError) as error:
                    found[agent.name] = Said(unrehearsed(str(error)))
                    continue
            asked = self._question(agent, there)
            known = self._key(agent, asked, grounds, there, {})
            answer = remembered.recall(known) if known else None
            if answer is None or self.again(answer):
                waiting.append(asked)
            else:
                found[agent.name] = Said(answer, remembered=True)
        if waiting:
            heard = self._heard(waiting, needed)
            for asked in waiting:
                name = asked.agent.agent
                found[name] = Said(heard.answers[name])
                agent = next(one for one in self.agents if one.name == name)
                if known := self._key(agent, asked, grounds, there, heard.commits):
                    remembered.keep(known, heard.answers[name])
        return found

    def _question(self, agent: Agent, there: Mapping[str, Fetched]) -> Asked:
        settings, models = self.settings, self.models[agent.name]
        lacking = [one for one in models if not there[one.key].complete(one.revision)]
        folders = {agent.model: agent.model} if agent.is_folder else {}
        if agent.model in self.copies:
            folders = {agent.model: copied(self.mark, self._place(agent))}
        if models:
            folders[MODELS] = fetched_files(self.mark) if lacking else models_folder(settings)
        cards = [self.cards[index] for index in agent.gpus if index in self.cards]
        # All of them, since one folder holds what an agent reads.
        needs = tuple(one.key for one in models) if lacking else ()
        return question(settings, agent, self.mark, folders, cards, needs)

    def _heard(self, waiting: Sequence[Asked], needed: Mapping[str, HubModel]) -> Heard:
        fetched = {key for one in waiting for key in one.needs}
        models = {key: model for key, model in needed.items() if key in fetched}
        fetch = Fetch(models, download(self.settings))
        names = {one.agent.agent for one in waiting}
        copies = {
            self._place(agent): self.copies[agent.model]
            for agent in self.agents
            if agent.name in names and agent.model in self.copies
        }
        given = {"_stdin": packed(copies), "copies": True} if copies else {}
        return look(Rehearsals, asked=waiting, fetch=fetch, mark=self.mark, **given)

    def _place(self, agent: Agent) -> str:
        """One word for a folder that several agents may have."""
        return str([*self.copies].index(agent.model))

    def _key(
        self,
        agent: Agent,
        asked: Asked,
        grounds: Grounds,
        there: Mapping[str, Fetched],
        commits: Mapping[str, str],
    ) -> str | None:
        """Under which the answer is remembered; None: it is not known what would be asked about."""
        models = {}
        if agent.model in self.copies:
            models[agent.model] = contents(self.copies[agent.model])
        elif agent.is_folder:
            models[agent.model] = grounds.folders[agent.model]
        for one in self.models[agent.name]:
            commit = commits.get(one.key) if one.key in asked.needs else there[one.key].commit
            if commit is None and _COMMIT.fullmatch(one.revision):
                commit = one.revision
            if commit is None:
                return None
            models[one.key] = commit
        smi = grounds.smi.gpus if grounds.smi else ()
        cards = tuple(
            f"{card.name}, {card.memory_mib}, {card.driver}"
            for card in smi
            if card.index in agent.gpus
        )
        return key(asked, grounds.image, models, cards)


def _coming(agent: Agent) -> tuple[LocalFile, ...]:
    """What is not weights of a folder that the deploy will copy.

    :raises HostError: nobody copies it, or a file cannot be read.
    :raises SettingsError: it has what is not copied, or no config.json.
    """
    if not agent.copy_from:
        raise HostError(f"{agent.model} is not on the host, or has no config.json")
    files = small_files(agent.copy_from)
    # Read here, where what fails is this agent's own.
    contents(files)
    return files


def question(
    settings: HostSettings,
    agent: Agent,
    mark: str,
    folders: Mapping[str, str],
    cards: Sequence[PlannedGpu],
    needs: tuple[str, ...] = (),
) -> Asked:
    """What vLLM is asked about an agent.

    :param folders: with its models: path in the container -> where they are.
    :param cards: the agent's, as far as they are known.
    """
    # What the container may take of the host's memory is not what is asked about.
    made = service(settings, agent, 0)
    sizes = [card.memory for card in cards if card.memory is not None]
    whole = min(sizes) if sizes and len(sizes) == len(agent.gpus) else None
    return Asked(
        Rehearsed(
            agent=agent.name,
            image=made.image,
            command=made.command,
            environment=made.environment,
            user=made.user,
            gpus=made.gpus,
            folders=folders,
        ),
        Request(mark, whole, (0, beside(agent)) if whole else (0,)),
        needs,
    )


def beside(agent: Agent) -> tuple[int, int, int]:
    """An estimate of what vLLM takes beside weights and cache, in the parts of a question: what the
    driver keeps, graphs and libraries; drawing tokens; the vectors of one step.

    Of activations only what needs no knowledge of the architecture.
    """
    whole = int(agent.gpu_memory_utilization * estimates.DRIVER)
    whole += estimates.graphs(gives(agent, "--enforce-eager"))
    whole += estimates.context(len(agent.gpus))
    return whole, estimates.SAMPLER, 2
