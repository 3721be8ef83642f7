"""The parameters of a model, module by module, and how tensor parallelism divides them.

Counts follow vLLM's implementations of the architectures (see families.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from vllm_hosts.capacity.families import Family
from vllm_hosts.capacity.fields import Fields
from vllm_hosts.capacity.quantization import Quantization

#: ``tp``: each GPU has its share. ``kv``: a share for each KV head, so that there are copies where
#: there are more GPUs than heads. ``copy``: each GPU has all of it.
Split = Literal["tp", "kv", "copy"]

#: Marlin's kernel for MXFP4, the usual one before Blackwell, rounds the experts' two widths up to
#: multiples of these (vllm/model_executor/layers/quantization/mxfp4.py): gpt-oss takes more than
#: its files do. Other kernels round up less.
_MXFP4_HIDDEN, _MXFP4_WIDTH = 256, 128


@dataclass(frozen=True)
class Weight:
    """Parameters of one module. ``linear``: quantisation may apply. ``stored``: is in the files."""

    module: str
    parameters: int
    linear: bool = False
    split: Split = "tp"
    stored: bool = True
    expert: bool = False

    def size(self, kind: Quantization, plain_bits: int) -> float:
        """Bytes. :raises ValueError: only the files can say."""
        bits: float = plain_bits
        if self.linear and (self.expert or not kind.experts_only) and not kind.skips(self.module):
            if kind.bits is None:
                raise ValueError(kind.method)
            bits = plain_bits if kind.method is None else kind.bits
        return self.parameters * bits / 8


def weights(fields: Fields, family: Family, layers: int) -> Iterator[Weight]:
    """Every module of the part that reads and writes text."""
    hidden, vocabulary = fields.number("hidden_size"), fields.number("vocab_size")
    yield Weight("model.embed_tokens", vocabulary * hidden)
    if not fields.flag("tie_word_embeddings", family.tied):
        yield Weight("lm_head", vocabulary * hidden)
    for layer in range(layers):
        prefix = f"model.layers.{layer}"
        if family.mla:
            yield from _latent_attention(fields, f"{prefix}.self_attn", hidden)
        else:
            yield from _attention(fields, family, f"{prefix}.self_attn", hidden)
        if family.experts is not None and _is_sparse(fields, layer):
            yield from _experts(fields, family, f"{prefix}.mlp", hidden)
        else:
            yield from _mlp(f"{prefix}.mlp", hidden, fields.number("intermediate_size"))
        yield Weight(f"{prefix}.norms", family.norms * hidden, split="copy")
    yield Weight("model.norm", hidden, split="copy")


def head_size(fields: Fields) -> int:
    """Width of one attention head."""
    return (
        fields.optional("head_dim")
        or fields.defaults.get("head_dim")
        or (fields.number("hidden_size") // fields.number("num_attention_heads"))
    )


def _attention(fields: Fields, family: Family, at: str, hidden: int) -> Iterator[Weight]:
    heads, width = fields.number("num_attention_heads"), head_size(fields)
    keys = fields.number("num_key_value_heads", heads)
    yield Weight(f"{at}.q_proj", hidden * heads * width, linear=True)
    yield Weight(f"{at}.k_proj", hidden * keys * width, linear=True, split="kv")
    yield Weight(f"{at}.v_proj", hidden * keys * width, linear=True, split="kv")
    yield Weight(f"{at}.o_proj", heads * width * hidden, linear=True)
    if family.qkv_bias or family.all_bias or fields.flag("attention_bias"):
        yield Weight(f"{at}.bias", (heads + 2 * keys) * width)
    if family.qk_norm:
        yield Weight(f"{at}.norms", 2 * width, split="copy")


def _latent_attention(fields: Fields, at: str, hidden: int) -> Iterator[Weight]:
    """DeepSeek's attention (https://arxiv.org/abs/2405.04434), as vLLM keeps it."""
    heads, latent = fields.number("num_attention_heads"), fields.number("kv_lora_rank")
    plain, rotary = fields.number("qk_nope_head_dim"), fields.number("qk_rope_head_dim")
    value = fields.number("v_head_dim")
    rank = fields.optional("q_lora_rank")
    if rank is None:
        yield Weight(f"{at}.q_proj", hidden * heads * (plain + rotary), linear=True)
    else:
        yield Weight(f"{at}.q_a_proj", hidden * rank, linear=True, split="copy")
        yield Weight(f"{at}.q_b_proj", rank * heads * (plain + rotary), linear=True)
    yield Weight(f"{at}.kv_a_proj_with_mqa", hidden * (latent + rotary), linear=True, split="copy")
    yield Weight(f"{at}.kv_b_proj", latent * heads * (plain + value), linear=True)
    yield Weight(f"{at}.o_proj", heads * value * hidden, linear=True)
    # vLLM keeps kv_b_proj a second time, in 16 bits, to multiply with latent vectors directly.
    yield Weight(f"{at}.absorbed", latent * heads * (plain + value), stored=False)


def _is_sparse(fields: Fields, layer: int) -> bool:
    """Whether a layer of a mixture of experts has experts."""
    if layer in fields.items("mlp_only_layers"):
        return False
    if layer < (fields.optional("first_k_dense_replace") or 0):
        return False
    return (layer + 1) % (fields.optional("decoder_sparse_step") or 1) == 0


def _experts(fields: Fields, family: Family, at: str, hidden: int) -> Iterator[Weight]:
    assert family.experts is not None
    assert family.expert_size is not None
    count, width = fields.number(family.experts), fields.number(family.expert_size)
    yield Weight(f"{at}.experts", count * 3 * hidden * width, linear=True, expert=True)
    yield Weight(f"{at}.gate", hidden * count, split="copy")
    if family.all_bias:
        yield Weight(f"{at}.experts.bias", count * (2 * width + hidden))
    shared = fields.optional("shared_expert_intermediate_size")
    if shared is None and (number := fields.optional("n_shared_experts")):
        shared = number * width
    if shared:
        yield from _mlp(f"{at}.shared_experts", hidden, shared)


def _mlp(at: str, hidden: int, width: int) -> Iterator[Weight]:
    yield Weight(f"{at}.gate_proj", hidden * width, linear=True)
    yield Weight(f"{at}.up_proj", hidden * width, linear=True)
    yield Weight(f"{at}.down_proj", width * hidden, linear=True)


def mxfp4_padding(fields: Fields, family: Family, layers: int, tp: int) -> int:
    """Parameters of experts on each GPU that exist only to round their widths up."""
    if family.experts is None or family.expert_size is None:
        return 0
    hidden, width = fields.number("hidden_size"), fields.number(family.expert_size) // tp
    up = -(-hidden // _MXFP4_HIDDEN) * _MXFP4_HIDDEN
    wide = -(-width // _MXFP4_WIDTH) * _MXFP4_WIDTH
    return layers * fields.number(family.experts) * 3 * (up * wide - hidden * width)
