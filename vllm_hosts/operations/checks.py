"""Operations that change nothing: they fail a host that does not keep a promise."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from vllm_hosts.errors import HostError
from vllm_hosts.operations.base import Commands, host_operation


@host_operation
def no_problems(find: Callable[[], Sequence[str]]) -> Commands:
    """Fail the host with every sentence that ``find`` returns; it may look at the host.

    Never counts as a change.
    """
    found = find()
    if found:
        raise HostError("; ".join(found))
    yield from ()
