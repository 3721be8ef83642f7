"""Those ``vllm serve`` arguments of an agent that change how much memory it takes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from vllm_hosts.capacity.fields import UnplannableError
from vllm_hosts.settings import Agent

#: With these the plan would be wrong, so there is none.
_UNKNOWN = (
    "--cpu-offload-gb",
    "--cpu-offload-params",
    "--data-parallel-size",
    "--decode-context-parallel-size",
    "--kv-cache-memory",
    "--kv-cache-memory-bytes",
    "--load-format",
    "--num-gpu-blocks-override",
    "--offload-backend",
    "--offload-group-size",
    "--offload-num-in-group",
    "--offload-params",
    "--offload-prefetch-step",
    "--pipeline-parallel-size",
    "--prefill-context-parallel-size",
    "--quantization-config",
)
#: What these add is left out, and said.
_NOT_COUNTED = {
    "--speculative-config": "a draft model",
    "--enable-lora": "adapters",
    "--kv-transfer-config": "buffers of a KV connector",
}
#: Short and long names of the same argument.
_SHORT = {
    "-pp": "--pipeline-parallel-size",
    "-dp": "--data-parallel-size",
    "-dcp": "--decode-context-parallel-size",
    "-pcp": "--prefill-context-parallel-size",
}
#: Values that vLLM takes for yes (vllm/envs.py).
_YES = ("1", "true")
#: These change what the model's files say about its longest sequence.
_LENGTHS = ("--hf-overrides", "--rope-scaling", "--rope-theta")
_CACHE_BITS = {"auto": None, "bfloat16": 16, "float16": 16, "half": 16}


@dataclass(frozen=True)
class Arguments:
    """``cache_bits``: None: what the model's files say, or else 16. ``steps``: under way at once.
    ``not_counted``: sentences.
    """

    cache_bits: int | None
    plain_bits: int
    batched: int | None
    sequences: int | None
    eager: bool
    hybrid: bool
    steps: int
    trusts_length: bool
    not_counted: tuple[str, ...]


def arguments(agent: Agent) -> Arguments:
    """Read an agent's ``extra_args``.

    :raises UnplannableError: one of them makes a plan impossible.
    """
    given = _pairs(agent.extra_args)
    for name in _UNKNOWN:
        if name in given:
            raise UnplannableError(
                f"agent {agent.name!r} sets {name}, which is not known to the plan;"
                " its memory is unknown"
            )
    return Arguments(
        cache_bits=_cache_bits(agent, given.get("--kv-cache-dtype") or "auto"),
        plain_bits=plain_bits(agent),
        batched=_number(agent, given, "--max-num-batched-tokens"),
        sequences=_number(agent, given, "--max-num-seqs"),
        eager="--enforce-eager" in given,
        hybrid="--disable-hybrid-kv-cache-manager" not in given,
        # Usually the next step is prepared while one is computed (vllm/config/vllm.py).
        steps=1 if "--no-async-scheduling" in given else 2,
        trusts_length=any(name in given for name in _LENGTHS)
        or agent.env.get("VLLM_ALLOW_LONG_MAX_MODEL_LEN", "").strip().lower() in _YES,
        not_counted=tuple(
            f"agent {agent.name!r}: what {name} adds ({what}) is not counted"
            for name, what in _NOT_COUNTED.items()
            if name in given
        ),
    )


def offloads(agent: Agent) -> bool:
    """Whether not all weights are on the GPU, or not on these GPUs alone."""
    return any(name in _pairs(agent.extra_args) for name in _UNKNOWN)


def plain_bits(agent: Agent) -> int:
    """Bits of a parameter that is not quantised: 32-bit files are loaded in 16, unless told not."""
    return 32 if _pairs(agent.extra_args).get("--dtype") in ("float32", "float") else 16


def gives(agent: Agent, name: str) -> bool:
    """Whether an agent has an argument, however it is written."""
    return name in _pairs(agent.extra_args)


def _pairs(words: Sequence[str]) -> dict[str, str | None]:
    """Names with dashes, as vLLM reads them, and the value of each."""
    found: dict[str, str | None] = {}
    for number, word in enumerate(words):
        if not word.startswith("-"):
            continue
        name, equals, value = word.partition("=")
        # A part of a group, such as --hf-overrides.rope_theta, counts as the group.
        name = name.partition(".")[0].replace("_", "-")
        following = words[number + 1] if number + 1 < len(words) else "-"
        found[_SHORT.get(name, name)] = (
            value if equals else None if following.startswith("-") else following
        )
    return found


def _cache_bits(agent: Agent, kind: str) -> int | None:
    if kind in _CACHE_BITS:
        return _CACHE_BITS[kind]
    if re.fullmatch(r"fp8(_e4m3|_e5m2|_inc)?", kind):
        return 8
    raise UnplannableError(
        f"agent {agent.name!r} sets --kv-cache-dtype {kind}, which is not known to the plan;"
        " its memory is unknown"
    )


def _number(agent: Agent, given: dict[str, str | None], name: str) -> int | None:
    """vLLM takes 8192, and 8k or 8K for 8000 and 8192."""
    if name not in given:
        return None
    match = re.fullmatch(r"([1-9][0-9]*)([kK]?)", given[name] or "")
    if match is None:
        raise UnplannableError(f"agent {agent.name!r}: {name} is not a number: {given[name]!r}")
    return int(match[1]) * {"": 1, "k": 1000, "K": 1024}[match[2]]
