"""How many bits a parameter takes, from ``quantization_config``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from vllm_hosts.capacity.fields import UnplannableError
from vllm_hosts.capacity.patterns import Patterns
from vllm_hosts.text import clean

#: Settings of an agent that name another kernel for the same files.
_SAME = {
    "awq_marlin": "awq",
    "gptq_marlin": "gptq",
    "moe_wna16": "",
    "fbgemm_fp8": "fp8",
}


@dataclass(frozen=True)
class Quantization:
    """``bits`` of a quantised parameter, its scales included; None: only the files can say.

    ``skipped`` are modules that keep 16 bits. ``experts_only``: everything else keeps them too.
    ``cache_bits``: the files ask for a KV cache of that many bits.
    """

    method: str | None = None
    bits: float | None = 16.0
    skipped: tuple[str, ...] = ()
    experts_only: bool = False
    cache_bits: int | None = None

    def skips(self, module: str) -> bool:
        """Whether a module keeps 16 bits: named whole, by a part of its path, or by ``re:``."""
        return self._patterns.has(module)

    @cached_property
    def _patterns(self) -> Patterns:
        return Patterns(self.skipped)

    def same_as(self, setting: str) -> bool:
        """Whether an agent's ``quantization`` only says what the files say."""
        return _SAME.get(setting, setting) in ("", self.method)


def quantization(config: Mapping[str, Any]) -> Quantization:
    """From the ``quantization_config`` of a config.json; an empty one: none.

    Bits of a scale and a zero point are shared by a group: AWQ and GPTQ keep a scale of 16 bits and
    a zero point of the weight's own width for each (AWQ, https://arxiv.org/abs/2306.00978, and the
    layout of its files). MXFP4: a scale of 8 bits for 32 parameters (OCP Microscaling Formats 1.0).
    """
    if not config:
        return Quantization()
    method = clean(config.get("quant_method", "unknown"), 60).replace("_", "-")
    skipped = tuple(
        str(name)
        for key in ("modules_to_not_convert", "ignored_layers", "ignore")
        for name in config.get(key) or ()
    )
    if method in ("awq", "gptq"):
        return Quantization(method, _grouped(config), skipped)
    if method in ("fp8", "fbgemm-fp8"):
        block = config.get("weight_block_size")
        scale: float = 0
        if isinstance(block, list) and len(block) == 2:
            scale = 32 / (_bits(block[0], 1 << 20) * _bits(block[1], 1 << 20))
        return Quantization("fp8", 8 + scale, skipped)
    if method == "mxfp4":
        return Quantization(method, 4 + 8 / 32, skipped, experts_only=True)
    if method == "compressed-tensors":
        cache = config.get("kv_cache_scheme")
        bits = cache.get("num_bits") if isinstance(cache, Mapping) else None
        return Quantization(
            method, _compressed(config), skipped, cache_bits=None if bits is None else _bits(bits)
        )
    if method.startswith("modelopt"):
        # Another file, or a part of this one, may ask for a KV cache of 8 bits.
        raise UnplannableError(f"quantisation {method!r} is not known to the plan")
    return Quantization(method, None, skipped)


def _bits(value: object, most: int = 64) -> int:
    """A number of bits, or another small one. :raises UnplannableError: it is none."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= most:
        raise UnplannableError(
            f"the quantization_config has {value!r} where a number from 1 to {most} belongs"
        )
    return value


def _grouped(config: Mapping[str, Any]) -> float | None:
    """Bits of AWQ and GPTQ; None: the file does not say how."""
    bits = config.get("bits", config.get("w_bit"))
    group = config.get("group_size", config.get("q_group_size"))
    if not isinstance(bits, int) or not isinstance(group, int):
        return None
    # A group of -1 is a whole column: its scale does not count.
    return _bits(bits) + ((16 + bits) / group if group > 0 else 0)


def _compressed(config: Mapping[str, Any]) -> float | None:
    """Bits where all groups of a compressed-tensors file have the same scheme; else None."""
    found: set[float] = set()
    groups = config.get("config_groups")
    for group in groups.values() if isinstance(groups, Mapping) else ():
        weights = group.get("weights") if isinstance(group, Mapping) else None
        if not isinstance(weights, Mapping) or not isinstance(weights.get("num_bits"), int):
            return None
        bits, size = _bits(weights["num_bits"]), weights.get("group_size")
        scale: float = 0
        if weights.get("strategy") == "group" and isinstance(size, int) and size > 0:
            scale = (16 + (0 if weights.get("symmetric", True) else bits)) / size
        found.add(bits + scale)
    return found.pop() if len(found) == 1 else None
