"""Lets a host get keys from one store only."""

from __future__ import annotations

from collections.abc import Sequence

from pyinfra.api.command import FunctionCommand, StringCommand
from pyinfra.api.host import Host
from pyinfra.api.state import State

from vllm_hosts.connect.reach import require_root
from vllm_hosts.errors import HostError, SettingsError
from vllm_hosts.facts import look
from vllm_hosts.facts.mark import HostMark
from vllm_hosts.host.manifest import before_taken
from vllm_hosts.host.paths import MANIFEST
from vllm_hosts.host.shared import Shared, refusal
from vllm_hosts.keys.beside import shown
from vllm_hosts.keys.ownership import Claim
from vllm_hosts.keys.store_marks import Marked, Whose
from vllm_hosts.operations.base import Commands, fail, host_operation
from vllm_hosts.operations.differences import differs
from vllm_hosts.operations.tree import change


@host_operation
def not_anothers(claim: Claim, shared: Shared = Shared()) -> Commands:  # noqa: B008
    """Fail a host that belongs to another store, or that has files of somebody's where ours go.

    All hosts are checked before one becomes ours. Never counts as a change.

    :param shared: what a deploy writes in folders that are not only ours.
    """
    _judge(claim, shared, listed=True)
    yield from ()


@host_operation
def owned(
    claim: Claim,
    *,
    first: bool = True,
    listed: bool = True,
    folders: Sequence[str] = (),
    shared: Shared = Shared(),  # noqa: B008
) -> Commands:
    """Make sure that a host is this inventory's, and that both sides have that recorded.

    A host that belongs to another store fails. Ours gets its mark before anything else is done
    there, and the store on the controller is written even before that, so that a run that is cut
    off leaves no host with keys that nobody knows of. What the host has until then is written down.

    :param first: whether a host without keys becomes ours.
    :param listed: whether the host is in the inventory; else only its store has it.
    :param folders: of ours, which may be there already.
    :param shared: what a deploy writes in folders that are not only ours. It is noted before
        anything of it is written, so that a run that is cut off finds its own files again.
    """
    found, judged = _judge(claim, shared, listed=listed)
    if judged is Whose.NOBODYS:
        if not first:
            return
        if why := claim.must_wait():
            raise HostError(why)
    marked = found.is_right(claim.mark)
    if not marked:
        differs(claim.file.path, "does not name this inventory's store")
    noting = found.shared.noting(shared, keys=claim.has_keys(found))
    if judged is Whose.NOBODYS:
        yield StringCommand(f"{before_taken(folders)}\n{noting}".rstrip())
    elif noting:
        differs(MANIFEST, "does not name what this deploy writes beside files of others")
        yield StringCommand(f"set -eu; umask 077\n{noting}")
    if not claim.kept():
        yield FunctionCommand(_keep, (claim,), {})
    if not marked:
        yield change([claim.file])


def _judge(claim: Claim, shared: Shared, *, listed: bool) -> tuple[Marked, Whose]:
    found = look(HostMark, directory=claim.directory, shared=list(shared.paths), above=shared.above)
    # A run of keys.py has no preflight.
    require_root(found.user, "")
    judged = claim.judge(found)
    if judged in (Whose.ANOTHERS, Whose.UNREADABLE):
        claim.opened.anothers.add(claim.host)
        raise HostError(claim.refusal(found, listed=listed))
    if others := found.shared.others(shared, keys=claim.has_keys(found)):
        raise HostError(refusal(others, shared))
    return found, judged


def _keep(state: State, host: Host, claim: Claim) -> bool:
    try:
        claim.keep()
    except SettingsError as error:
        return fail(state, host, "; ".join(error.problems))
    if claim.opened.store.encrypted:
        host.log(f"    {shown(claim.opened.store.path)} now records this host: commit it")
    return True
