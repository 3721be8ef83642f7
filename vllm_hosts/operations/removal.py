"""Takes away from a host what deploys put there. Each step looks first, so that a run that was cut
off is continued by the next one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from shlex import quote

from pyinfra.api.command import FunctionCommand, StringCommand
from pyinfra.api.host import Host
from pyinfra.api.state import State
from pyinfra.context import ctx_host, ctx_state

from vllm_hosts.errors import HostError, SettingsError
from vllm_hosts.facts import look
from vllm_hosts.facts.tree import TreeState
from vllm_hosts.host import paths
from vllm_hosts.host.driver import INITRAMFS
from vllm_hosts.host.files import NEW
from vllm_hosts.keys.beside import shown
from vllm_hosts.keys.hosts import released
from vllm_hosts.keys.ownership import Claim
from vllm_hosts.operations.apt import purge
from vllm_hosts.operations.base import Commands, fail, host_operation, watched
from vllm_hosts.operations.differences import differs
from vllm_hosts.operations.foreseen import leads_to
from vllm_hosts.text import clean

_ETC = paths.STORE_MARK.rpartition("/")[0]
_UNITS = "/etc/systemd/system"
#: Says to the shell that holds the host where its last line goes: into the system's log.
_GONE = f"{paths.LOCK}.removed"
_TAGS = quote("{{range .RepoTags}}{{println .}}{{end}}")
#: Seconds that an agent has for what it is at.
_STOP = 30


def there(wanted: Collection[str]) -> list[str]:
    """Those of some paths at which there is something."""
    if not wanted:
        return []
    found = look(TreeState, paths=list(wanted)).paths
    return [path for path in wanted if found[path].kind != "-"]


def _as_before(path: str) -> str:
    """Shell: a file of ours goes, and what was there before comes back."""
    kept = f"{paths.BEFORE}/files{path}"
    there = quote(kept)
    back = _back(kept, path)
    return f"if [ -e {there} ] || [ -L {there} ]; then {back}; else rm -f {quote(path)}; fi"


def _back(kept: str, path: str) -> str:
    """Shell: whatever ends it, there is the file that is there now or the one that was kept."""
    new, kept, path = map(quote, (f"{path}{NEW}", kept, path))
    return (
        f"cp -a --remove-destination {kept} {new}; [ -L {new} ] || sync {new}; mv -fT {new} {path}"
    )


@host_operation
def outlook(describe: Callable[[], Sequence[str]]) -> Commands:
    """Say what goes and what stays: before the run where somebody is asked, else while it runs.
    Changes nothing."""
    for sentence in describe():
        leads_to(sentence)
        if ctx_state.get().is_executing:
            ctx_host.get().log(f"    {clean(sentence)}")
    yield from ()


@host_operation
def timers_stopped(names: Sequence[str]) -> Commands:
    """Stop units of ours, now and at boot."""
    if units := [path.rpartition("/")[2] for path in there([f"{_UNITS}/{one}" for one in names])]:
        for name in units:
            differs(name, "is there")
        yield StringCommand(f"systemctl disable --quiet --now {' '.join(units)}")


@host_operation
def containers_removed(
    containers: Callable[[], Sequence[str]], networks: Callable[[], Sequence[str]]
) -> Commands:
    """Stop and remove containers, then networks; what they are at has some seconds to end."""
    going, nets = containers(), networks()
    if not (going or nets):
        return
    differs("the agents", "are there")
    script = ["set -e"]
    if going:
        words = " ".join(going)
        script += [f"docker stop -t {_STOP} {words} >/dev/null", f"docker rm -f {words}"]
    if nets:
        # One with a container of somebody's in it fails the host, in Docker's words.
        script.append(f"docker network rm {' '.join(map(quote, nets))}")
    yield watched("stopping and removing the agents", "\n".join(script))


@host_operation
def images_removed(images: Callable[[], Sequence[str]]) -> Commands:
    """Remove images by their identifiers; one that a container of somebody's uses stays."""
    if not (going := images()):
        return
    for one in going:
        differs(f"image {one}", "is there")
    yield watched(
        "removing the agents' images",
        f"""
        for id in {" ".join(going)}; do
            docker image inspect $id --format {_TAGS} | grep . | xargs -r docker image rm
            ! docker image inspect $id >/dev/null 2>&1 || docker image rm $id || echo "$id stays"
        done
        """,
    )


@host_operation
def files_removed(
    files: Callable[[], Sequence[str]], had: Callable[[], Collection[str]]
) -> Commands:
    """Remove files of ours; one that was somebody's before becomes theirs again.

    :param had: of units that were somebody's, those that were to start at boot.
    """
    going = there(files())
    if not going:
        return
    for path in going:
        differs(path, "is there")
    script = ["set -eu"]
    units = [path for path in going if path.rpartition("/")[0] == _UNITS]
    if units:
        names = " ".join(quote(path.rpartition("/")[2]) for path in units)
        script.append(f"systemctl disable --quiet --now {names} || :")
    script += [_as_before(path) for path in going]
    if any(path.startswith("/etc/systemd/") for path in going):
        script.append("systemctl daemon-reload")
    for path in units:
        name = path.rpartition("/")[2]
        if name in had():
            script.append(f"systemctl enable --quiet --now {quote(name)}")
    if paths.NOUVEAU in going:
        script.append(INITRAMFS)
    yield watched("removing files", "\n".join(script))


@host_operation
def packages_removed(
    holds: Callable[[], Sequence[str]], names: Callable[[], Sequence[str]]
) -> Commands:
    """Release packages that deploys hold, and remove those that only deploys have brought."""
    if loose := holds():
        for name in loose:
            differs(f"package {name}", "is held")
        yield StringCommand(f"apt-mark unhold {' '.join(map(quote, loose))}")
    if going := names():
        for name in going:
            differs(f"package {name}", "is installed")
        yield watched("removing packages", purge(going))


@host_operation
def sources_restored(
    ours: Callable[[], Sequence[str]], back: Callable[[Mapping[str, str]], Sequence[str]]
) -> Commands:
    """Remove source files and keys of ours, then let those that gave way to them come back. What
    was at the path of one of ours before is there again.

    :param back: gets digests of what is there by path, and returns the paths that come back.
    """
    going = there(ours())
    found = _Digests()
    returning = [
        path
        for path in back(found)
        if f"{paths.PREVIOUS}{path}" in there([f"{paths.PREVIOUS}{path}"])
    ]
    if not (going or returning):
        return
    for path in (*going, *returning):
        differs(path, "is not as it was before")
    script = ["set -eu", *map(_as_before, going)]
    for path in returning:
        back_again = _back(f"{paths.PREVIOUS}{path}", path)
        script.append(f"mkdir -p {quote(path.rpartition('/')[0])}; {back_again}")
    script.append("apt-get indextargets >/dev/null")
    yield StringCommand("\n".join(script))


class _Digests(dict[str, str]):
    """Asks the host for each path."""

    def __missing__(self, path: str) -> str:
        found = look(TreeState, paths=[path]).paths[path]
        return found.sha256 if found.kind in "f-" else found.kind


@host_operation
def folders_removed(
    whole: Callable[[], Sequence[str]],
    groups: Callable[[], Sequence[str]] = list,
    short: Callable[[], Collection[str]] = tuple,
) -> Commands:
    """Remove folders with all that is in them, and with them groups that have no members.

    What a container could write into cannot lead out of them: rm follows no link, and no mount.

    :param short: of these, those of one or two parts. Others of so few are refused: whoever names
        them, such a folder is hardly ever ours.
    """
    going = _far_down(whole(), short)
    if not (going := there(going)):
        return
    script = ["set -u"]
    script += [f"! getent group {name} | grep -q ':$' || groupdel {name}" for name in groups()]
    for path in going:
        differs(path, "is there")
        path = quote(path)
        script.append(
            f"if mountpoint -q {path}; then find {path} -xdev -mindepth 1 -delete;"
            f" else rm -rf --one-file-system {path}; fi || exit 1"
        )
    yield watched("removing folders", "\n".join(script))


def _far_down(wanted: Sequence[str], short: Callable[[], Collection[str]]) -> Sequence[str]:
    """The folders, each with three parts or known to have fewer.

    :raises HostError: one has fewer, or is no plain path.
    """
    known = short()
    for path in wanted:
        parts = path.split("/")[1:]
        plain = path.startswith("/") and not {"", ".", ".."} & set(parts)
        if not plain or (len(parts) < 3 and path not in known):
            raise HostError(
                f"{path} would go with all that is in it, and is no folder that deploys make; take"
                f" it out of {paths.MANIFEST} on the host, and run again"
            )
    return wanted


@host_operation
def firewall_opened(left: Callable[[], Sequence[str]]) -> Commands:
    """Take our table away, once nothing is there any more that it protects.

    :param left: what is still there.
    """
    rules, unit = paths.FIREWALL_RULES, paths.FIREWALL_UNIT
    files = there([rules, f"{_UNITS}/{unit}"])
    if not files:
        return
    if ctx_state.get().is_executing and (found := left()):
        raise HostError(
            f"the firewall stays closed, since {', '.join(found)} is still there; stop it, and run"
            " again"
        )
    differs("table inet vllm_hosts", "is in force")
    leads_to("the firewall's table is removed last; what others listen on can then be reached")
    yield StringCommand(
        f"""
        set -eu
        systemctl disable --quiet --now {unit} 2>/dev/null || :
        ! command -v nft >/dev/null || nft 'table inet vllm_hosts; delete table inet vllm_hosts'
        rm -f {_UNITS}/{unit} {rules}
        systemctl daemon-reload
        """
    )


@host_operation
def forgotten(claim: Claim, if_empty: Callable[[], Sequence[str]]) -> Commands:
    """Remove our own records on the host, and the host from the store here. The very last.

    The host's mark goes first: from then on the host is nobody's, and whoever finds the rest knows
    that nobody needs it.

    :param if_empty: folders that go where nothing is left in them.
    """
    gone = f"{paths.STATE}.removed"
    going = there([_ETC, paths.STATE, gone, paths.UNDO])
    if going:
        differs(paths.STATE, "is there")
        script = [
            "set -eu",
            f": >{_GONE}",
            *(f"rmdir {quote(path)} 2>/dev/null || :" for path in if_empty()),
            f"rm -rf {_ETC} {paths.UNDO}",
            f"rm -rf --one-file-system {paths.PASSING}",
            # At once: half of the records would be none that anybody can go by.
            f"rm -rf {gone}; [ ! -e {paths.STATE} ] || mv -T {paths.STATE} {gone}",
            f"rm -rf {gone}",
        ]
        yield StringCommand("\n".join(script))
    content = claim.opened.store.peek()
    if content is not None and claim.host in {*content.hosts, *content.internal}:
        if not going:
            # A host that was never ours gets no history either.
            yield StringCommand(f": >{_GONE}")
        yield FunctionCommand(_release, (claim,), {})


def _release(state: State, host: Host, claim: Claim) -> bool:
    try:
        claim.opened.store.update(lambda content: released(content, claim.host))
    except SettingsError as error:
        return fail(state, host, "; ".join(error.problems))
    if claim.opened.store.encrypted:
        host.log(f"    {shown(claim.opened.store.path)} records this host no more: commit it")
    return True
