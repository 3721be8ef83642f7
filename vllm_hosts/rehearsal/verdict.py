"""What follows from a rehearsal: only what vLLM itself would refuse stops an agent's change."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from vllm_hosts.capacity.arguments import gives
from vllm_hosts.capacity.memory_plan import gib
from vllm_hosts.capacity.others import HeldMemory
from vllm_hosts.rehearsal.answer import Answer, Room
from vllm_hosts.settings import Agent, HostSettings
from vllm_hosts.text import clean

_GIB = 1 << 30
#: Characters of vLLM's own sentence.
_SAID = 500
#: Arguments that settings of their own become; all others stand in ``extra_args``.
_SETTINGS = {
    "--max-model-len": "max_model_len",
    "--quantization": "quantization",
    "--tool-call-parser": "tool_call_parser",
    "--tensor-parallel-size": "tensor_parallel_size",
    "--gpu-memory-utilization": "gpu_memory_utilization",
    "--revision": "revision",
    "--served-model-name": "served_model_name",
}
#: Words of vLLM's sentences, and what they are about. The first that is found decides.
_ABOUT = (
    (r"tool call parser|tool_call_parser", "tool_call_parser"),
    (r"reasoning.parser", "--reasoning-parser"),
    (r"trust.remote.code", "--trust-remote-code"),
    (r"speculative|draft model", "--speculative-config"),
    (r"max_model_len|max seq len|max_position_embeddings", "max_model_len"),
    (r"kv.cache.dtype|cache_dtype", "--kv-cache-dtype"),
    (r"lora", "--enable-lora"),
    (r"model architectures? |model type `|Transformers does not recognize", "model"),
    (r"tensor.parallel|attention heads|not divisible", "tensor_parallel_size"),
    (r"quantiz|ScaledMM|kernel", "quantization"),
    (r"gpu_memory_utilization|KV cache|memory", "max_model_len"),
)
#: With these the cache has a size of its own, whatever else there is.
_FIXED = ("--kv-cache-memory-bytes", "--kv-cache-memory")
_MODEL = "model, or vllm.image for a version that knows it"


class Outcome(Enum):
    """ACCEPTED: vLLM takes the arguments, and nothing speaks against the memory. DOUBTED: it takes
    them, and estimates speak against the memory. REFUSED: it would end. UNKNOWN: nobody could ask.
    """

    ACCEPTED = "accepted"
    DOUBTED = "doubted"
    REFUSED = "refused"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class AgentVerdict:
    """``sentence``: for people, whole; empty where there is nothing to say."""

    outcome: Outcome
    sentence: str = ""

    @property
    def stops(self) -> bool:
        """Whether the agent is left as it is."""
        return self.outcome is Outcome.REFUSED


def verdict(agent: Agent, answer: Answer) -> AgentVerdict:
    """What an agent's answer means for its deploy."""
    name = f"agent {agent.name!r}"
    version = f"vLLM {answer.vllm}" if answer.vllm else "vLLM"
    if answer.refused is not None and not agent.offline and answer.refused.stage != "arguments":
        # What it will find on the hub is not known here.
        said = clean(answer.refused.sentence, _SAID).rstrip(" .,:;")
        return AgentVerdict(
            Outcome.DOUBTED, f"{name} asks the hub as it starts; without it {version} says: {said}"
        )
    if answer.refused is not None:
        # vLLM lists all that it knows; whoever mistyped one word needs the beginning.
        said = clean(answer.refused.sentence, _SAID).rstrip(" .,:;")
        return AgentVerdict(
            Outcome.REFUSED,
            f"{name}: {version} would not start with this: {said}; change"
            f" {setting(agent, answer.refused.sentence)}",
        )
    certain = [room for room in answer.rooms if room.other == 0]
    for room in certain:
        if sentence := _too_small(agent, answer, room):
            return AgentVerdict(Outcome.REFUSED, f"{name}: {version} would not start: {sentence}")
    for room in answer.rooms:
        if room.other and (sentence := _too_small(agent, answer, room)):
            return AgentVerdict(
                Outcome.DOUBTED,
                f"{name} probably does not fit, going by an estimate of {_gib(room.other)} GiB for"
                f" what vLLM takes beside weights and cache: {sentence}",
            )
    if answer.unknown:
        what = "" if "all" in answer.unknown else f" its {' and '.join(sorted(answer.unknown))}"
        why = "; ".join(answer.unknown.values())
        return AgentVerdict(
            Outcome.UNKNOWN, f"{name}:{what or ' it'} could not be rehearsed ({why}); going on"
        )
    return AgentVerdict(Outcome.ACCEPTED)


@dataclass(frozen=True)
class Judged:
    """``problems`` stop the host; ``warnings`` are said."""

    problems: list[str]
    warnings: list[str]


def judged(
    settings: HostSettings,
    agents: Sequence[Agent],
    answers: Mapping[str, Answer],
    others: Mapping[str, HeldMemory | None],
) -> Judged:
    """Only what vLLM itself refuses stops a host, and only where settings say so.

    :param others: what others hold of each agent's cards.
    """
    found = Judged([], [])
    for agent in agents:
        said, taken = verdict(agent, answers[agent.name]), others.get(agent.name)
        sentences = {said.sentence: said.stops} | ({taken.sentence: taken.certain} if taken else {})
        for sentence, stops in sentences.items():
            if stops and settings.capacity.preflight == "refuse":
                found.problems.append(
                    f"{sentence}; its container was not touched (to deploy all the same:"
                    " capacity.preflight = 'warn')"
                )
            elif sentence:
                found.warnings.append(sentence)
    return found


def _too_small(agent: Agent, answer: Answer, room: Room) -> str:
    """Why vLLM would not take that room, with the way out; empty where it would."""
    if room.fits or (answer.auto_length and room.longest > 0):
        return ""
    weights = f"weights take {_gib(answer.weights)} GiB" if answer.weights else "there are weights"
    if fixed := next((name for name in _FIXED if gives(agent, name)), None):
        return (
            f"its KV cache is set to {gib(room.room)} GiB, and one sequence of"
            f" {answer.max_model_len} tokens needs {gib(answer.cache or 0)}; raise"
            f" extra_args ({fixed}), or lower max_model_len"
        )
    if room.longest <= 0:
        more = "gpu_memory_utilization, " if agent.gpu_memory_utilization < 1 else ""
        return (
            f"{weights} on each GPU, and {_gib(max(room.room, 0))} GiB are left for the KV cache,"
            f" too little for a single token; raise {more}gpus, or take a smaller or quantized"
            " model"
        )
    return (
        f"{weights} on each GPU, one sequence of {answer.max_model_len} tokens needs"
        f" {_gib(answer.cache or 0)} GiB in the KV cache, and {_gib(room.room)} GiB are left; set"
        f" max_model_len to {room.longest} or lower"
    )


def setting(agent: Agent, sentence: str) -> str:
    """The setting that one of vLLM's sentences is about, as people write it."""
    for flag in re.findall(r"(?<![\w-])--?[a-z][a-z0-9_.-]*", sentence):
        found = flag.replace("_", "-").rstrip(".")
        for given in agent.extra_args:
            if given.partition("=")[0].replace("_", "-") == found:
                return f"extra_args ({found})"
        if found in _SETTINGS and sentence.startswith(("argument", "ambiguous", "expected")):
            return _SETTINGS[found]
    for given in agent.extra_args:
        name = given.partition("=")[0].partition(".")[0].strip("-")
        words = [re.escape(word) for word in re.split("[-_]", name)]
        # As a field of a configuration, or as people say it; one word alone may mean anything else.
        flags = re.IGNORECASE if len(words) > 1 else re.NOFLAG
        if given.startswith("--") and re.search(rf"\b{'[-_ ]'.join(words)}\b", sentence, flags):
            return f"extra_args (--{name})"
    for pattern, about in _ABOUT:
        if re.search(pattern, sentence, re.IGNORECASE):
            if about.startswith("--"):
                return f"extra_args ({about})"
            if about == "model":
                return _MODEL
            if about == "quantization" and agent.quantization is None:
                return "quantization or the model"
            return about
    if agent.extra_args or agent.env:
        return "extra_args, env, or the model"
    return "the model, or vllm.image"


def _gib(size: int) -> str:
    return f"{size / _GIB:.2f}"
