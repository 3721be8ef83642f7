"""What a rehearsal answered, read as the text of a host that nobody trusts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vllm_hosts.bounded import parse_json
from vllm_hosts.rehearsal.container import MOST
from vllm_hosts.text import clean

#: Of rehearse.py's answers. Another one is not read.
FORMAT = 1
#: More than any memory, length or count has.
_LARGEST = 1 << 60
_SENTENCE = 1200
STAGES = ("arguments", "configuration", "model")
#: How a container ended that was cut off: its own alarm, Docker's limit of memory, ``timeout``.
_CUT_OFF = {142: "it took too long", 137: "it was killed for its memory", 124: "it took too long"}


@dataclass(frozen=True)
class Refusal:
    """vLLM's own sentence, and where in its start it stands (one of ``STAGES``)."""

    stage: str
    sentence: str


@dataclass(frozen=True)
class Room:
    """vLLM's answer to so much room for the cache. Bytes, tokens.

    :ivar longest: the length that fits, or the whole one.
    :ivar times: sequences of full length at once; None where it does not fit.
    :ivar sentence: vLLM's, where it does not fit.
    """

    other: int
    room: int
    fits: bool
    longest: int
    times: float | None = None
    sentence: str = ""


@dataclass(frozen=True)
class LayerGroup:
    """Layers that keep the same in the cache."""

    kind: str
    layers: int
    block_size: int


@dataclass(frozen=True)
class Answer:
    """What vLLM said. None: it did not say so, and ``unknown`` has the reason.

    :ivar batched_tokens: tokens in one step; ``sequences``: at once.
    :ivar weights: bytes on each GPU, as loaded; of pipeline stages the largest.
    :ivar cache: the least room that vLLM takes for one sequence of ``max_model_len``, on each GPU.
    :ivar cache_token: what one more token of a long sequence takes of it.
    :ivar unknown: what could not be rehearsed (``all``, ``memory``, ``weights``) -> why.
    """

    vllm: str | None = None
    platform: str | None = None
    architecture: str | None = None
    dtype: str | None = None
    quantization: str | None = None
    max_model_len: int | None = None
    auto_length: bool = False
    batched_tokens: int | None = None
    sequences: int | None = None
    hidden: int | None = None
    vocabulary: int | None = None
    cache_dtype: str | None = None
    weights: int | None = None
    cache: int | None = None
    cache_token: float | None = None
    groups: tuple[LayerGroup, ...] = ()
    rooms: tuple[Room, ...] = ()
    refused: Refusal | None = None
    unknown: Mapping[str, str] = field(default_factory=dict)

    @property
    def whole(self) -> bool:
        """Whether the rehearsal ran to its end: refused, or everything said."""
        return self.refused is not None or not self.unknown


def unrehearsed(why: str) -> Answer:
    """The answer where there is none."""
    return Answer(unknown={"all": clean(why, _SENTENCE)})


def read(output: str | bytes, mark: str, code: int = 0) -> Answer:
    """What the container printed.

    :param mark: the request's; what stands between two of them is the answer.
    :param code: the exit status of ``docker run``.
    :raises ValueError: the request had no mark.
    """
    if isinstance(output, bytes):
        output = output.decode(errors="replace")
    if not mark:
        raise ValueError("a request without a mark has no answer")
    before, first, rest = output.partition(mark)
    text, second, _ = rest.partition(mark)
    if not (first and second):
        if code in _CUT_OFF:
            return unrehearsed(_CUT_OFF[code])
        said = clean(before.strip()[-300:]) or "it printed nothing"
        return unrehearsed(f"it ended with {code} and no answer: {said}")
    try:
        return read_text(text)
    except ValueError as error:
        return unrehearsed(f"its answer cannot be read: {clean(error, 200)}")


def read_text(text: str) -> Answer:
    """The answer itself, without what stands around it.

    :raises ValueError: it is none.
    """
    try:
        return _answer(parse_json(text, size=MOST))
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(repr(error)) from error


def _answer(found: dict[str, Any]) -> Answer:
    if found["format"] != FORMAT:
        raise ValueError(f"it is of format {clean(found['format'], 20)}")
    refused = found.get("refused")
    answer = Answer(
        vllm=_word(found, "vllm"),
        platform=_word(found, "platform"),
        architecture=_word(found, "architecture"),
        dtype=_word(found, "dtype"),
        quantization=_word(found, "quantization"),
        max_model_len=_count(found, "max_model_len"),
        auto_length=found.get("auto_length") is True,
        batched_tokens=_count(found, "batched_tokens"),
        sequences=_count(found, "sequences"),
        hidden=_count(found, "hidden"),
        vocabulary=_count(found, "vocabulary"),
        cache_dtype=_word(found, "cache_dtype"),
        weights=_count(found, "weights"),
        cache=_count(found, "cache"),
        cache_token=_real(found, "cache_token"),
        groups=tuple(_group(one) for one in found.get("groups", [])[:64]),
        rooms=tuple(_room(one) for one in found.get("rooms", [])[:8]),
        refused=_refusal(refused) if refused else None,
        unknown={
            clean(name, 20): clean(why, _SENTENCE).strip() or "it does not say why"
            for name, why in list(found.get("unknown", {}).items())[:16]
        },
    )
    if answer.weights is None and answer.whole and answer.refused is None:
        raise ValueError("it says neither figures nor why there are none")
    if answer.rooms and (answer.cache is None or answer.max_model_len is None):
        raise ValueError("it says of rooms, and not of what is to fit there")
    return answer


def _refusal(found: dict[str, Any]) -> Refusal:
    if found["stage"] not in STAGES or not clean(found["sentence"]).strip():
        raise ValueError("its refusal has no sentence of vLLM's")
    return Refusal(found["stage"], clean(found["sentence"], _SENTENCE))


def _group(found: dict[str, Any]) -> LayerGroup:
    layers, block_size = _count(found, "layers"), _count(found, "block_size")
    return LayerGroup(clean(found["kind"], 60), layers or 0, block_size or 0)


def _room(found: dict[str, Any]) -> Room:
    if not isinstance(found["fits"], bool) or type(found["room"]) is not int:
        raise ValueError("it says of a room what is no answer")
    return Room(
        other=_count(found, "other") or 0,
        # Below zero where the weights alone are too large.
        room=max(min(found["room"], _LARGEST), -_LARGEST),
        fits=found["fits"],
        longest=_count(found, "longest") or 0,
        times=_real(found, "times"),
        sentence=clean(found.get("sentence", ""), _SENTENCE),
    )


def _word(found: dict[str, Any], name: str) -> str | None:
    value = found.get(name)
    return None if value is None else clean(value, 100)


def _count(found: dict[str, Any], name: str) -> int | None:
    value = found.get(name)
    if value is not None and (type(value) is not int or not 0 <= value < _LARGEST):
        raise ValueError(f"its {name} is no count")
    return value


def _real(found: dict[str, Any], name: str) -> float | None:
    value = found.get(name)
    if value is None:
        return None
    if type(value) not in (int, float) or not (math.isfinite(value) and 0 <= value < _LARGEST):
        raise ValueError(f"its {name} is no number")
    return float(value)
