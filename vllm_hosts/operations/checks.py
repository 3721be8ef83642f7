"""Operations that change nothing, but fail a host that does not keep a promise."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pyinfra import logger
from pyinfra.context import ctx_host, ctx_state

from vllm_hosts.errors import HostError
from vllm_hosts.facts import ahead
from vllm_hosts.operations.base import Commands, host_operation
from vllm_hosts.operations.foreseen import dry, refuse
from vllm_hosts.text import clean


@host_operation
def no_problems(find: Callable[[], Sequence[str]]) -> Commands:
    """Fail the host with every sentence that ``find`` returns; it may query the host.

    Never counts as a change. While a run is prepared, the host is refused, and not queried any
    more.
    """
    found = find()
    if found and not refuse(found):
        raise HostError("; ".join(found))
    yield from ()


@host_operation
def promise_kept(find: Callable[[], Sequence[str]]) -> Commands:
    """Like ``no_problems``, for what is true only at the end of a run, and not checked before."""
    if ctx_state.get().is_executing:
        with ahead.strictly(ctx_host.get()):
            found = find()
        if found:
            raise HostError("; ".join(found))
    yield from ()


@host_operation
def said(sentences: Sequence[str]) -> Commands:
    """Print something about the host in every run. Never counts as a change."""
    say(sentences)
    yield from ()


def say(sentences: Sequence[str]) -> None:
    """Print something about the current host once in a run, while it executes if it does."""
    if ctx_state.get().is_executing or dry():
        for sentence in sentences:
            ctx_host.get().log_styled(
                f"    {clean(sentence)}", fg="yellow", log_func=logger.warning
            )
