"""Bytes of a model's weights on one GPU, from the size of its files."""

from __future__ import annotations

from dataclasses import dataclass

from vllm_hosts.capacity.fields import UnplannableError
from vllm_hosts.capacity.model_shape import Model


@dataclass(frozen=True)
class Size:
    """``exact``: vLLM itself said it. ``how``: where it comes from."""

    bytes: int
    exact: bool
    how: str


def weight_size(model: Model, tp: int, setting: str | None = None, plain_bits: int = 16) -> Size:
    """An estimate: the files' size, divided among ``tp`` GPUs.

    vLLM loads some files otherwise: kernels fill up widths, GPUs have copies of what cannot be
    divided, and embeddings that stand in them twice are loaded once. Only vLLM knows all of it.

    :param setting: the agent's ``quantization``.
    :param plain_bits: of a parameter that is not quantised: 16, or 32 with ``--dtype float32``.
    :raises UnplannableError: the files were not seen, or are quantised while they are loaded.
    """
    kind = model.quantization
    if setting is not None and not kind.same_as(setting):
        raise UnplannableError(
            f"{model.name} is quantised with {kind.method}, and quantization is set to {setting!r};"
            " its memory is unknown"
            if kind.method
            else f"what quantization = {setting!r} makes of {model.name} while it is loaded is not"
            " known before; its memory is unknown"
        )
    if model.file_bytes is None:
        raise UnplannableError(
            f"the size of {model.name}'s weights is unknown: neither its files nor their index were"
            " found; put model.safetensors.index.json beside its config.json, or have vLLM asked"
        )
    size, how = float(model.file_bytes), "the files' size"
    # vLLM turns 32-bit files into 16 bits, and 16-bit ones into 32 bits where it is told to.
    in_file = 32 if model.stored_as_float32 else 16
    if kind.method is None and in_file != plain_bits:
        size, how = size * plain_bits / in_file, f"the files' size, in {plain_bits} bits"
    layers = len(model.windows)
    return Size(int(size * layers / (layers + model.unused_layers) / tp), False, how)
