"""What a deploy left on its host, noted there: who changed what since can then be told."""

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
    """Note the digests of files that this run found as they should be, and that no note has.

    What a run writes is noted with it. This is for what was there before: from versions that kept
    no notes, or written by hand as a deploy would have.
    """
    wanted = remembered()
    # Whoever only asks what differs has no use for notes.
    if asked_for() or not wanted:
        return
    found = look(TreeState, paths=[entry.path for entry in wanted]).paths
    if left := unnoted(wanted, found):
        yield noting(left)


def unnoted(wanted: Sequence[File | Absent], found: Mapping[str, Found]) -> list[File | Absent]:
    """Paths where all is as it should be, and the host's notes say something else or nothing."""
    return [
        entry
        for entry in wanted
        if (there := found[entry.path]).kind == ("f" if isinstance(entry, File) else "-")
        and there.sha256 == (entry.sha256 if isinstance(entry, File) else "")
        and there.deployed != (there.sha256,)
    ]
