"""vLLM's KV cache: how many bytes sequences of a length take, and what fits into how many.

Source: ``vllm/v1/kv_cache_interface.py`` (bytes of a layer's block, tokens that a sliding window
holds) and ``vllm/v1/core/kv_cache_utils.py`` (groups of layers, the longest length that fits).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from vllm_hosts.capacity.model_shape import Model

#: Tokens in a block: vLLM's usual size. Other sizes change the figures by less than a block.
BLOCK = 16
#: Longer than any model's limit: where a model names none.
_LONGEST = 2**24


@dataclass(frozen=True)
class KvCache:
    """The KV cache of one agent on one of its GPUs.

    Blocks are shared by groups of layers of one kind. ``groups``: window (None: none) and number of
    groups; ``layers``: in each group; ``layer_block``: bytes of a block in one layer; ``batched``:
    tokens that vLLM computes at once.
    """

    layer_block: int
    layers: int
    groups: tuple[tuple[int | None, int], ...]
    batched: int

    @property
    def block(self) -> int:
        """Bytes of a block in all layers of a group."""
        return self.layer_block * self.layers

    def blocks(self, length: int) -> int:
        """Blocks that one sequence of so many tokens takes at most, over all groups."""
        total = 0
        for window, count in self.groups:
            if window is None:
                total += count * -(-length // BLOCK)
            else:
                held = min(window - 1 + self.batched, length)
                # One more, since a window need not begin where a block does.
                total += count * (-(-held // BLOCK) + 1)
        return total

    def sequence(self, length: int) -> int:
        """Bytes that one sequence of so many tokens takes at most."""
        return self.blocks(length) * self.block

    def sequences(self, available: int, length: int) -> float:
        """How many sequences of so many tokens fit at once: vLLM's "Maximum concurrency"."""
        return max(0, available // self.block) / self.blocks(length)

    def longest(self, available: int, limit: int | None) -> int | None:
        """The longest sequence that fits, in whole blocks or the model's limit; None: none does."""
        top = limit or _LONGEST
        if self.sequence(top) <= available:
            return top
        low, high = 0, -(-top // BLOCK)
        while high - low > 1:
            middle = (low + high) // 2
            if self.sequence(middle * BLOCK) <= available:
                low = middle
            else:
                high = middle
        return low * BLOCK or None


def cache(
    model: Model, tp: int, element_bits: int, batched: int, *, hybrid: bool = True
) -> KvCache:
    """The cache of a model on one of ``tp`` GPUs.

    Keys and values: 2 x KV heads x head size x bytes for each token and layer; MLA: one vector of
    ``latent`` elements. With more GPUs than KV heads each GPU has a copy of one; MLA's vector is on
    all of them.

    :param element_bits: of one cached number: 16, or 8 with ``--kv-cache-dtype fp8``.
    :param batched: tokens that are computed at once (``--max-num-batched-tokens``).
    :param hybrid: off: layers with a window keep every token, as without vLLM's hybrid manager.
    """
    if model.latent is not None:
        elements = model.latent
    else:
        elements = 2 * max(1, model.kv_heads // tp) * model.head_size
    layer_block = BLOCK * elements * element_bits // 8
    kinds = Counter(model.windows) if hybrid else Counter({None: len(model.windows)})
    least, most = min(kinds.values()), max(kinds.values())
    # Groups of one size, as in _get_kv_cache_groups_uniform_page_size: the last may have gaps.
    layers = most if most < 1.25 * least else least
    groups = tuple((window, -(-count // layers)) for window, count in kinds.items())
    return KvCache(layer_block, layers, groups, batched)
