"""A model as the plan needs it, from its config.json and the size of its files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vllm_hosts.capacity.families import FAMILIES, Family
from vllm_hosts.capacity.fields import Fields, UnplannableError
from vllm_hosts.capacity.quantization import Quantization, quantization

#: Names under which files say how long a sequence may be (vllm/config/model.py).
_LENGTHS = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "seq_length",
    "model_max_length",
)
#: Kinds of rope scaling whose factor is already in the length, or that have none (the same file).
_UNSCALED = ("default", "mrope", "su", "longrope", "llama3", "proportional")


@dataclass(frozen=True)
class ModelFiles:
    """What is read of a model: its config.json, and the bytes of its weights if they are known."""

    config: Mapping[str, Any]
    weight_bytes: int | None = None


@dataclass(frozen=True)
class Model:
    """A model of a known architecture.

    ``windows``: for each layer the tokens that it looks back on; None: all. ``latent``: width of
    the one vector that MLA caches for each token; None: keys and values of every KV head.
    ``limit``: longest sequence, in tokens; ``unset``:
    what vLLM takes if nobody sets it. ``file_bytes``: weights in the files; None: they were not
    seen.
    """

    name: str
    architecture: str
    family: Family
    fields: Fields
    windows: tuple[int | None, ...]
    heads: int
    kv_heads: int
    head_size: int
    latent: int | None
    limit: int | None
    unset: int | None
    quantization: Quantization
    stored_as_float32: bool
    file_bytes: int | None

    @property
    def hidden(self) -> int:
        """Width of what goes from layer to layer."""
        return self.fields.number("hidden_size")

    @property
    def vocabulary(self) -> int:
        """Number of different tokens."""
        return self.fields.number("vocab_size")

    @property
    def unused_layers(self) -> int:
        """Layers in the files that vLLM leaves out: DeepSeek's for predicting several tokens."""
        return self.fields.optional("num_nextn_predict_layers") or 0

    @property
    def active(self) -> tuple[int, int]:
        """Number of MLPs that a token goes through in one layer at once, and the width of each."""
        if self.family.experts is not None and self.family.expert_size is not None:
            at_once = self.fields.optional("num_experts_per_tok") or self.fields.optional(
                "experts_per_token"
            )
            return at_once or 1, self.fields.number(self.family.expert_size)
        return 1, self.fields.number("intermediate_size")


def describe(name: str, files: ModelFiles) -> Model:
    """Make sense of a config.json.

    :raises UnplannableError: the architecture is not known, or a field is missing or no number.
    """
    config = files.config
    architectures = config.get("architectures")
    named = [str(item) for item in architectures] if isinstance(architectures, list) else []
    if not named:
        raise UnplannableError(
            f"the config.json of {name} names no architectures, without which it cannot be planned"
        )
    family = FAMILIES.get(named[0])
    if family is None:
        raise UnplannableError(
            f"the architecture {named[0]} of {name} is not known to the plan; its memory is unknown"
        )
    data = _about_text(config)
    fields = Fields(name, data, family.defaults)
    heads = fields.number("num_attention_heads")
    return Model(
        name=name,
        architecture=named[0],
        family=family,
        fields=fields,
        windows=_windows(fields, family),
        heads=heads,
        kv_heads=1 if family.mla else fields.number("num_key_value_heads", heads),
        head_size=_head_size(fields),
        latent=(
            fields.number("kv_lora_rank") + fields.number("qk_rope_head_dim")
            if family.mla
            else None
        ),
        limit=(limit := _limit(fields, family)),
        unset=_unset(fields, limit),
        quantization=quantization(fields.group("quantization_config")),
        stored_as_float32=stored_as_float32(config),
        file_bytes=files.weight_bytes,
    )


def stored_as_float32(config: Mapping[str, Any]) -> bool:
    """Whether a model's files have 32 bits for each parameter, of any architecture."""
    data = _about_text(config)
    return (data.get("dtype") or data.get("torch_dtype")) == "float32"


def _about_text(config: Mapping[str, Any]) -> Mapping[str, Any]:
    text = config.get("text_config")
    return {**config, **text} if isinstance(text, Mapping) else config


def _head_size(fields: Fields) -> int:
    """Width of one attention head."""
    return (
        fields.optional("head_dim")
        or fields.defaults.get("head_dim")
        or (fields.number("hidden_size") // fields.number("num_attention_heads"))
    )


def _windows(fields: Fields, family: Family) -> tuple[int | None, ...]:
    """For each layer the window of its attention; None: none."""
    layers = fields.number("num_hidden_layers")
    kinds = [str(kind) for kind in fields.items("layer_types")][:layers]
    if unknown := set(kinds) - {"full_attention", "sliding_attention"}:
        raise UnplannableError(
            f"{fields.model} has layers of the kind {min(unknown)}, which is not known to the plan;"
            " its memory is unknown"
        )
    window = fields.optional("sliding_window") or fields.defaults.get("sliding_window")
    if window is None or not fields.flag("use_sliding_window", True):
        return (None,) * layers
    if len(kinds) == layers:
        return tuple(window if kind == "sliding_attention" else None for kind in kinds)
    if family.alternating:
        return tuple(window if layer % 2 == 0 else None for layer in range(layers))
    pattern = fields.optional("sliding_window_pattern") or fields.defaults.get(
        "sliding_window_pattern"
    )
    if pattern is not None:
        return tuple(None if (layer + 1) % pattern == 0 else window for layer in range(layers))
    first = fields.optional("max_window_layers") if "max_window_layers" in fields.data else 0
    return tuple(window if layer >= (first or 0) else None for layer in range(layers))


def _limit(fields: Fields, family: Family) -> int | None:
    """The longest sequence that the model's files allow, as vLLM derives it."""
    # It replaces the others, and is no minimum (vllm/transformers_utils, model_arch_config).
    names = ["model_max_length"] if fields.data.get("model_max_length") else list(_LENGTHS)
    lengths = [fields.number(name) for name in names if fields.data.get(name)]
    lengths += [
        fields.defaults[name] for name in _LENGTHS if name in fields.defaults and not lengths
    ]
    if not lengths:
        return None
    length = min(lengths)
    scaling = fields.group("rope_scaling") or fields.group("rope_parameters")
    kind = str(scaling.get("rope_type", scaling.get("type", "default")))
    factor = scaling.get("factor")
    # Gemma 3's length is already scaled, whatever its factor; YaRN's lengthens nothing by itself.
    if kind in _UNSCALED or "yarn" in kind or "sliding_window_pattern" in family.defaults:
        return length
    if not isinstance(factor, int | float):
        return length
    if not 0 < factor <= 10**6:
        raise UnplannableError(
            f"the config.json of {fields.model} has a rope scaling with the factor {factor}, which"
            " cannot be planned"
        )
    return int(length * factor)


def _unset(fields: Fields, limit: int | None) -> int | None:
    """The length that vLLM takes if nobody sets one: with LongRoPE the one before it."""
    scaling = fields.group("rope_scaling") or fields.group("rope_parameters")
    kind = str(scaling.get("rope_type", scaling.get("type", "default")))
    original = fields.optional("original_max_position_embeddings")
    if kind in ("longrope", "su") and original and limit:
        return min(limit, original)
    return limit
