"""What vLLM says of itself at /metrics, as values. Touches no host."""

from __future__ import annotations

import io
import re
import socket
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from typing import Any, Final, cast


@dataclass(frozen=True)
class Metrics:
    """What vLLM says of itself. Tokens and prefix cache are counted from its start on.

    ``kv_cache`` is the part of the KV cache in use, from 0 to 1; of the fullest engine, where an
    agent has several. None: this vLLM does not say.
    """

    running: float | None = None
    waiting: float | None = None
    kv_cache: float | None = None
    prompt_tokens: float | None = None
    generation_tokens: float | None = None
    prefix_hits: float | None = None
    prefix_queries: float | None = None


#: vLLM's names (vllm/v1/metrics/loggers.py; Prometheus' client adds _total to counters). The second
#: name of a pair is that of versions before 0.10.
_NAMES: Final = {
    "running": ("vllm:num_requests_running",),
    "waiting": ("vllm:num_requests_waiting",),
    "kv_cache": ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"),
    "prompt_tokens": ("vllm:prompt_tokens_total",),
    "generation_tokens": ("vllm:generation_tokens_total",),
    "prefix_hits": ("vllm:prefix_cache_hits_total", "vllm:gpu_prefix_cache_hits_total"),
    "prefix_queries": ("vllm:prefix_cache_queries_total", "vllm:gpu_prefix_cache_queries_total"),
}
#: Numbers that reach /metrics only with a step of the engine, and not from the API's process alone.
#: The first one is of requests that run.
MOVED_BY_THE_ENGINE: Final = (
    tuple(
        name
        for field in ("running", "waiting", "kv_cache", "prompt_tokens", "generation_tokens")
        for name in _NAMES[field]
    )
    + _NAMES["prefix_queries"]
)
_WANTED: Final = frozenset(name for names in _NAMES.values() for name in names)
_NAME: Final = re.compile(r"[^{\s]*")


def metrics(text: str) -> Metrics:
    """From Prometheus' text format. Engines of one agent are added up.

    :raises ValueError: a line that matters is not in that format, or nothing in it is vLLM's.
    """
    # Loaded where it is needed: with it comes a web server, which takes longer than many a module.
    from prometheus_client.parser import text_string_to_metric_families

    # Nearly all lines are histograms, which are not needed here.
    lines = [line for line in text.splitlines() if _name(line) in _WANTED]
    values: dict[str, list[float]] = {}
    for family in text_string_to_metric_families("".join(f"{line}\n" for line in lines)):
        for sample in family.samples:
            values.setdefault(sample.name, []).append(sample.value)
    if not values:
        raise ValueError("no metrics of vLLM")
    found: dict[str, float] = {}
    for field, names in _NAMES.items():
        for name in names:
            if name in values:
                found[field] = max(values[name]) if field == "kv_cache" else sum(values[name])
                break
    return Metrics(**found)


def _name(line: str) -> str:
    match = _NAME.match(line)
    return match[0] if match else ""


def http_body(raw: bytes) -> str:
    """The body of an HTTP/1.1 answer with status 200, read as it came over the wire.

    :raises ValueError: there is no answer, it is cut short, or has another status.
    """
    if not raw:
        raise ValueError("nothing answers on its port")
    answer = HTTPResponse(cast(socket.socket, _Wire(raw)))
    try:
        answer.begin()
        body = answer.read()
    except (HTTPException, OSError) as error:
        raise ValueError(f"the answer is cut short: {type(error).__name__}") from error
    if answer.status != 200:
        raise ValueError(f"/metrics answers {answer.status}")
    return body.decode()


class _Wire:
    """What was received, in the place of the socket that it came from."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw

    def makefile(self, *_: Any) -> io.BytesIO:
        return io.BytesIO(self._raw)
