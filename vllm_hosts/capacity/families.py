"""Architectures whose caches are known, from vLLM's own implementations of them.

Source: https://github.com/vllm-project/vllm/tree/main/vllm/model_executor/models. One that is not
here is planned as unknown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Family:
    """How models of one architecture differ from Llama's layout.

    ``experts`` and ``expert_size`` are the names in config.json of the number and the width of
    experts. ``mla``: caches one latent vector for each token. ``alternating``: every second layer
    has a sliding window, where the file does not say which have.
    """

    experts: str | None = None
    expert_size: str | None = None
    mla: bool = False
    alternating: bool = False
    defaults: Mapping[str, int] = field(default_factory=dict)


#: transformers' Gemma3TextConfig; Google's files leave these names out.
_GEMMA_3 = {
    "vocab_size": 262208,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "max_position_embeddings": 131072,
    "sliding_window": 4096,
    "sliding_window_pattern": 6,
}
_DEEPSEEK = Family(mla=True, experts="n_routed_experts", expert_size="moe_intermediate_size")

FAMILIES: Mapping[str, Family] = {
    "LlamaForCausalLM": Family(),
    "MistralForCausalLM": Family(),
    "Mistral3ForConditionalGeneration": Family(),
    "Phi3ForCausalLM": Family(),
    "Qwen2ForCausalLM": Family(),
    "Qwen2_5_VLForConditionalGeneration": Family(),
    "Qwen3ForCausalLM": Family(),
    "Gemma2ForCausalLM": Family(alternating=True),
    "Gemma3ForCausalLM": Family(defaults=_GEMMA_3),
    "Gemma3ForConditionalGeneration": Family(defaults=_GEMMA_3),
    "MixtralForCausalLM": Family(experts="num_local_experts", expert_size="intermediate_size"),
    "Qwen2MoeForCausalLM": Family(experts="num_experts", expert_size="moe_intermediate_size"),
    "Qwen3MoeForCausalLM": Family(experts="num_experts", expert_size="moe_intermediate_size"),
    "GptOssForCausalLM": Family(
        alternating=True,
        experts="num_local_experts",
        expert_size="intermediate_size",
    ),
    "DeepseekV2ForCausalLM": _DEEPSEEK,
    "DeepseekV3ForCausalLM": _DEEPSEEK,
}
