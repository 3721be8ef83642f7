"""What a model's ``quantization_config`` says: the method, and the bits of its KV cache."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vllm_hosts.capacity.fields import UnplannableError
from vllm_hosts.text import clean

#: Settings of an agent that name another kernel for the same files.
_SAME = {"awq-marlin": "awq", "gptq-marlin": "gptq", "moe-wna16": ""}


@dataclass(frozen=True)
class Quantization:
    """``method``: None: the files are not quantised. ``cache_bits``: of a number in the KV cache,
    if the files ask for it.
    """

    method: str | None = None
    cache_bits: int | None = None

    def same_as(self, setting: str) -> bool:
        """Whether an agent's ``quantization`` only says what the files say."""
        named = setting.replace("_", "-")
        return self.method is not None and _SAME.get(named, named) in ("", self.method)


def quantization(config: Mapping[str, Any]) -> Quantization:
    """From the ``quantization_config`` of a config.json; an empty one: none.

    :raises UnplannableError: what the files ask for is not known here.
    """
    if not config:
        return Quantization()
    method = clean(config.get("quant_method", "unknown"), 60).replace("_", "-")
    if method.startswith("modelopt"):
        # Another file, or a part of this one, may ask for a KV cache of 8 bits.
        raise UnplannableError(f"quantisation {method!r} is not known to the plan")
    cache = config.get("kv_cache_scheme")
    if method != "compressed-tensors" or not isinstance(cache, Mapping):
        return Quantization(method)
    bits = cache.get("num_bits")
    if isinstance(bits, bool) or not isinstance(bits, int) or not 0 < bits <= 64:
        raise UnplannableError(f"the kv_cache_scheme has {bits!r} where a number of bits belongs")
    return Quantization(method, bits)
