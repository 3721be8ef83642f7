"""Bytes of a model's weights on one GPU, and how well they are known."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from vllm_hosts.capacity.fields import UnplannableError
from vllm_hosts.capacity.model_shape import Model
from vllm_hosts.capacity.parameters import Weight
from vllm_hosts.capacity.quantization import Quantization

#: What vLLM can quantise while it loads 16-bit files, and the bits of each parameter then.
_WHILE_LOADING = {"fp8": 8.0}


@dataclass(frozen=True)
class Size:
    """``exact``: the files say so. ``least``: fewer it cannot be. ``how``: where it comes from."""

    bytes: int
    exact: bool
    least: int
    how: str


def weight_size(model: Model, tp: int, setting: str | None = None, plain_bits: int = 16) -> Size:
    """Bytes of weights on each of ``tp`` GPUs.

    With the files' own size: exact on one GPU, and else divided as the computed sizes are. Without:
    computed from the configuration.

    :param setting: the agent's ``quantization``.
    :param plain_bits: of a parameter that is not quantised: 16, or 32 with ``--dtype float32``.
    :raises UnplannableError: neither can be done.
    """
    kind = _kind(model, setting)
    computed = _computed(model, kind, plain_bits, tp)
    if model.file_bytes is None:
        if computed is None or model.family.vision:
            raise UnplannableError(
                f"the size of {model.name}'s weights is unknown: its files were not found, and"
                + (
                    " its part for images cannot be computed"
                    if model.family.vision
                    else f" quantisation {kind.method!r} cannot be computed"
                )
            )
        # Alignment and small parts that are not modelled: a few percent at most.
        least = int(0.95 * computed.loaded)
        total = int(computed.loaded + computed.padding)
        return Size(total, False, least, "computed from config.json")
    if kind is not model.quantization and computed is not None:
        total = int(computed.loaded)
        return Size(total, False, int(0.9 * total), f"computed for quantization = {setting!r}")
    # vLLM turns 32-bit files into 16 bits, and 16-bit ones into 32 bits where it is told to.
    in_file = 32 if model.stored_as_float32 else 16
    files: float = model.file_bytes
    converted = kind.method is None and in_file != plain_bits
    if converted:
        files *= plain_bits / in_file
    if computed is None or model.family.vision:
        share = int(files / tp)
        return Size(share, tp == 1 and not converted, int(0.9 * share), "the files' size")
    extra = model.unused_layers
    files -= extra * computed.stored / (len(model.windows) + extra)
    share = int(files * computed.loaded / computed.stored + computed.padding)
    if computed.loaded == computed.stored and not (computed.padding or extra or converted):
        return Size(share, True, share, "the files' size")
    least = int(0.9 * files * computed.loaded / computed.stored)
    return Size(share, False, least, "the files' size, as it is loaded")


@dataclass(frozen=True)
class _Computed:
    """Bytes on one GPU; ``stored``: in the files."""

    loaded: float
    stored: float
    padding: float


def _computed(model: Model, kind: Quantization, bits: int, tp: int) -> _Computed | None:
    """From the configuration; None: the quantisation is not known."""
    try:
        return _Computed(
            _sum(model, model.weights, kind, bits, tp),
            _sum(model, [weight for weight in model.weights if weight.stored], kind, bits, 1),
            model.padding(tp) * (kind.bits or 0) / 8,
        )
    except ValueError:
        return None


def _kind(model: Model, setting: str | None) -> Quantization:
    """Quantisation as vLLM will load it."""
    if setting is None or model.quantization.same_as(setting):
        return model.quantization
    if model.quantization.method is None and setting in _WHILE_LOADING:
        return Quantization(setting, _WHILE_LOADING[setting], ("lm_head",))
    if model.quantization.method is None:
        raise UnplannableError(
            f"what quantization = {setting!r} makes of {model.name} while it is loaded cannot be"
            " computed; its memory is unknown"
        )
    raise UnplannableError(
        f"{model.name} is quantised with {model.quantization.method}, and quantization is set to"
        f" {setting!r}; its memory is unknown"
    )


def _sum(model: Model, weights: Iterable[Weight], kind: Quantization, bits: int, tp: int) -> float:
    shares = {"tp": 1 / tp, "kv": 1 / min(tp, model.kv_heads), "copy": 1.0}
    return sum(weight.size(kind, bits) * shares[weight.split] for weight in weights)
