"""Records on a host what a deploy left there, so that later changes can be attributed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vllm_hosts.facts import look
from vllm_hosts.facts.tree import TreeState
from vllm_hosts.host.files import Absent, File, Found
from vllm_hosts.operations.base import Commands, host_operation
from vllm_hosts.operations.differences import asked_for, remembered
from vllm_hosts.operations.tree import noting


@host_operation
def deployed_noted() -> Commands:
    """Record the digests of files that this run found as they should be, if no record has them.

    Files that a run writes are recorded with it. This is for files from before: from versions that
    kept no record, or written by hand just as a deploy would have.
    """
    wanted = remembered()
    # A run that only collects differences records nothing.
    if asked_for() or not wanted:
        return
    found = look(TreeState, paths=[entry.path for entry in wanted]).paths
    if left := unnoted(wanted, found):
        yield noting(left)


def unnoted(wanted: Sequence[File | Absent], found: Mapping[str, Found]) -> list[File | Absent]:
    """Paths that are as they should be, but that the host's record does not have that way."""
    return [
        entry
        for entry in wanted
        if (there := found[entry.path]).kind == ("f" if isinstance(entry, File) else "-")
        and there.sha256 == (entry.sha256 if isinstance(entry, File) else "")
        and there.deployed != (there.sha256,)
    ]
