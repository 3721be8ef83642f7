"""What agents need of each GPU, and what there is. Touches nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from vllm_hosts.capacity import estimates
from vllm_hosts.capacity.arguments import Arguments, arguments, offloads, plain_bits
from vllm_hosts.capacity.estimates import GIB
from vllm_hosts.capacity.fields import UnplannableError
from vllm_hosts.capacity.kv_cache import BLOCK, KvCache, cache
from vllm_hosts.capacity.model_shape import Model, ModelFiles, describe, stored_as_float32
from vllm_hosts.capacity.result import AgentPlan, HostPlan, Needs, PlannedGpu, Verdict
from vllm_hosts.capacity.sizes import weight_size
from vllm_hosts.host.gpus import not_there
from vllm_hosts.hub.weights import LARGEST
from vllm_hosts.settings import Agent, HostSettings

#: A suggested length is a multiple of this many tokens where it is longer than two of them.
_ROUND = 1024
#: Shorter sequences are of no use to anybody, and so no remedy.
_SHORTEST = 256
#: Of a model's files, what is loaded at least.
_LOADED = 0.9
_NOTHING = "give it more or larger GPUs, or a smaller or quantised model"


def plan_host(
    settings: HostSettings, gpus: Mapping[int, PlannedGpu], models: Mapping[str, ModelFiles | str]
) -> HostPlan:
    """Plan every agent of a host.

    :param gpus: the host's cards, by index.
    :param models: by the agents' ``model``: what was read of it, or a sentence that says why
        nothing was.
    """
    agents = tuple(
        _plan(settings, agent, gpus, models.get(agent.model, f"{agent.model} was not read"))
        for agent in settings.agents
    )
    return HostPlan(settings.name, tuple(gpus[index] for index in sorted(gpus)), agents)


def _plan(
    settings: HostSettings, agent: Agent, gpus: Mapping[int, PlannedGpu], files: ModelFiles | str
) -> AgentPlan:
    base = AgentPlan(agent.name, agent.model, agent.gpus, Verdict.NO_GPU)
    if not agent.gpus:
        return base
    if missing := sorted(set(agent.gpus) - set(gpus)):
        problems = tuple(not_there(agent, gpu, gpus) for gpu in missing)
        return replace(base, verdict=Verdict.DOES_NOT_FIT, problems=problems)
    cards = [gpus[index] for index in agent.gpus]
    try:
        return _planned(settings, agent, cards, files, base)
    except UnplannableError as error:
        unknown = replace(base, verdict=Verdict.UNKNOWN, warnings=(str(error),))
        if sentence := _too_large(agent, cards, files):
            # 32-bit files load at half their size, and some models keep tables in main memory.
            warnings = (sentence, *unknown.warnings)
            return replace(unknown, verdict=Verdict.PROBABLY_NOT, warnings=warnings)
        return unknown


def _planned(
    settings: HostSettings,
    agent: Agent,
    cards: Sequence[PlannedGpu],
    files: ModelFiles | str,
    base: AgentPlan,
) -> AgentPlan:
    if isinstance(files, str):
        raise UnplannableError(files)
    if not 0 <= (files.weight_bytes or 0) <= LARGEST:
        raise UnplannableError(f"the weights of {agent.model} have an impossible size")
    given = arguments(agent)
    try:
        model = describe(agent.model, files)
        return _Planner(settings, agent, cards, given, model).plan(base)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        # A field that is something else than it should be, where nothing else has noticed.
        raise UnplannableError(
            f"the config.json of {agent.model} could not be understood: {error!r}"
        ) from error


def _too_large(agent: Agent, cards: Sequence[PlannedGpu], files: ModelFiles | str) -> str | None:
    """What can be said of a model of which only the size of its files is known."""
    if isinstance(files, str) or agent.quantization:
        return None
    if not files.weight_bytes or files.weight_bytes > LARGEST:
        return None
    sizes = [card.memory for card in cards if card.memory is not None]
    if len(sizes) < len(cards) or offloads(agent):
        return None
    share = files.weight_bytes / len(cards)
    if stored_as_float32(files.config) and plain_bits(agent) == 16:
        share /= 2
    budget = min(sizes) * agent.gpu_memory_utilization
    # Less than all of it, since files may have parts that are not loaded.
    if _LOADED * share <= budget:
        return None
    return (
        f"agent {agent.name!r} probably does not fit on {_named(agent)}: the weights of"
        f" {agent.model} alone are {gib(share)} GiB, has {gib(budget)}"
        f" ({agent.gpu_memory_utilization:g} of {gib(min(sizes))}); {_NOTHING}"
    )


def _named(agent: Agent) -> str:
    numbers = ", ".join(map(str, agent.gpus))
    return f"{'GPU' if len(agent.gpus) == 1 else 'each of GPU'} {numbers}"


class _Planner:
    """The figures of one agent, and the sentences about them."""

    def __init__(
        self,
        settings: HostSettings,
        agent: Agent,
        cards: Sequence[PlannedGpu],
        given: Arguments,
        model: Model,
    ) -> None:
        self._settings = settings
        self._agent = agent
        self._model = model
        self._eager = given.eager
        self._not_counted = given.not_counted
        # Settings refuse a tensor_parallel_size that leaves GPUs idle.
        self._tp = len(agent.gpus)
        self._memory = min(_memory(card) for card in cards)
        self._usable = max(0, self._memory - estimates.DRIVER)
        batched, sequences = estimates.batch_defaults(cards[0].name, self._memory)
        self._batched = given.batched or batched
        self._sequences = given.sequences or sequences
        self._limit = None if given.trusts_length else model.limit
        bits = given.cache_bits or model.quantization.cache_bits or given.plain_bits
        in_flight = given.steps * self._batched
        self._cache: KvCache = cache(model, self._tp, bits, in_flight, hybrid=given.hybrid)
        self._weights = weight_size(model, self._tp, agent.quantization, given.plain_bits)

    def plan(self, base: AgentPlan) -> AgentPlan:
        """The agent's plan."""
        activations = estimates.activations(self._model, self._tp, self._batched, self._sequences)
        graphs, context = estimates.graphs(self._eager), estimates.context(self._tp)
        budget = int(self._usable * self._agent.gpu_memory_utilization)
        available = budget - self._weights.bytes - activations - graphs - context
        largest = self._cache.longest(max(0, available), self._limit)
        length = self._length(largest)
        one = self._cache.sequence(length)
        needs = Needs(self._weights, one, activations, graphs, context, length)
        against = [*self._refusals()]
        fits = one <= available
        if not fits and not against:
            sentence = self._sentence(needs, budget, largest)
            against.append(f"agent {self._agent.name!r} probably does not fit on {sentence}")
        return replace(
            base,
            verdict=Verdict.PROBABLY_NOT if against else Verdict.FITS,
            budget=budget,
            needs=needs,
            cache=max(0, available),
            limit=self._limit,
            largest_max_model_len=largest,
            sequences=self._cache.sequences(available, length),
            remedy="" if fits else self._remedy(needs, largest),
            warnings=(*against, *self._not_counted),
        )

    def _length(self, largest: int | None) -> int:
        """Tokens of a full-length sequence, as vLLM will take it."""
        asked = self._agent.max_model_len
        if isinstance(asked, int):
            return asked
        if asked == "auto":
            return largest or BLOCK
        if self._limit is None or self._model.unset is None:
            raise UnplannableError(
                f"the config.json of {self._model.name} does not set how long a sequence may be;"
                f" set max_model_len of agent {self._agent.name!r}"
            )
        return self._model.unset

    def _refusals(self) -> Iterator[str]:
        """What vLLM probably refuses whatever the memory."""
        asked, name, limit = self._agent.max_model_len, self._agent.name, self._limit
        if isinstance(asked, int) and limit is not None and asked > limit:
            yield (
                f"agent {name!r}: max_model_len {asked} exceeds {self._model.name}'s own limit as"
                f" its config.json seems to set it, {limit}; set max_model_len to {limit} or lower"
            )
        heads, keys = self._model.heads, self._model.kv_heads
        uneven = None
        if heads % self._tp:
            uneven = f"{heads} attention heads"
        elif max(keys, self._tp) % min(keys, self._tp):
            # Fewer KV heads than GPUs are copied, each to as many.
            uneven = f"{keys} KV heads"
        if uneven is not None:
            yield (
                f"agent {name!r}: the {uneven} of {self._model.name} cannot be divided among"
                f" {self._tp} GPUs; give it a number that divides them"
            )

    def _sentence(self, needs: Needs, budget: int, largest: int | None) -> str:
        parts = {
            "weights": needs.weights.bytes,
            f"KV cache of one sequence of {needs.length} tokens": needs.cache,
            "activations": needs.activations,
            "CUDA graphs": needs.graphs,
            "driver and libraries": needs.context,
        }
        listed = ", ".join(f"{name} {gib(size)}" for name, size in parts.items() if size)
        return (
            f"{_named(self._agent)}: needs {gib(needs.total)} GiB"
            f" ({listed}), has {gib(budget)} ({self._agent.gpu_memory_utilization:g} of"
            f" {gib(self._usable)}); {self._remedy(needs, largest)}"
        )

    def _remedy(self, needs: Needs, largest: int | None) -> str:
        """The setting that would make it fit."""
        if largest is not None and largest >= _SHORTEST:
            step = _ROUND if largest >= 2 * _ROUND else BLOCK
            return f"set max_model_len to {largest // step * step} or lower"
        others = max(
            sum(
                other.gpu_memory_utilization
                for other in self._settings.agents
                if other.name != self._agent.name and gpu in other.gpus
            )
            for gpu in self._agent.gpus
        )
        # Rounded up to hundredths.
        wanted = -(-needs.total * 100 // max(1, self._usable)) / 100
        if self._agent.gpu_memory_utilization < wanted <= 1 - others:
            return f"set gpu_memory_utilization to {wanted:g} or more"
        return _NOTHING


def _memory(card: PlannedGpu) -> int:
    if card.memory is None:
        raise UnplannableError(
            f"GPU {card.index} does not report its memory; set capacity.gpu_memory"
        )
    return card.memory


def gib(size: float) -> str:
    """Bytes in GiB, with enough digits to see something."""
    return f"{size / GIB:.1f}" if size >= GIB / 10 or not size else f"{size / GIB:.2g}"
