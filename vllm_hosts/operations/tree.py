"""The one way in which files are written to a host."""

from __future__ import annotations

import base64
import hashlib
import io
import tarfile
import time
from collections.abc import Callable, Sequence
from shlex import quote
from typing import Any

from pyinfra.api.command import StringCommand

from vllm_hosts.facts import look
from vllm_hosts.facts.tree import TreeState
from vllm_hosts.host.files import (
    NEW,
    OLD,
    Absent,
    CopiedFile,
    Entry,
    File,
    Folder,
    Found,
    Kept,
    differing,
)
from vllm_hosts.host.paths import COPIES, DEPLOYED, PREVIOUS, STAMPS, STATE, WORK
from vllm_hosts.operations.base import Commands, host_operation
from vllm_hosts.operations.differences import differs, entries_differ, remember
from vllm_hosts.operations.foreseen import leads_to, may_have_changed, will_change
from vllm_hosts.operations.notes import NOTES

_FUNCTIONS = r"""
set -eu; umask 077
work=$(mktemp -d WORK)
former() { # PATH: where the version before waits, under a name that no `include *` takes
    former=${1%/*}/.${1##*/}$before
}
finish() { # whatever ends the script: all of the change is there, or none of it
    code=$?; trap - EXIT; said='what was there before is back in place'
    if [ -z "$finished" ]; then
        for path in $touched; do
            if [ -e "$work$path.absent" ]; then
                rm -f "$path"
            else
                former "$path"; mv -fT "$former" "$path"
            fi || said="$path could not be put back"
        done
        # Alone: where the connection is lost, whoever writes to it ends.
        [ -z "$touched" ] || ( echo "$said" >&2 ) || :
        [ ! -e "$work/.was" ] || noted "$work/.was" || :
        [ -z "$activated" ] || eval "$activated" >/dev/null 2>&1 || :
    fi
    for path in $touched; do former "$path"; rm -f "$former" || :; done
    rm -rf "$work" $unused
    exit $code
}
trap finish EXIT; trap 'exit 1' HUP INT TERM PIPE
swap() { # PATH: the new version takes its place, the old one waits beside it until all is well
    [ ! -d "$1" ] || [ -L "$1" ] || { echo "$1 is a folder; move it away" >&2; exit 1; }
    mkdir -p "$work$(dirname "$1")"
    if [ -e "$1" ] || [ -L "$1" ]; then
        # A second name for it: to come back takes one rename, and no room.
        former "$1"; rm -f "$former"
        ln -P "$1" "$former" 2>/dev/null || cp -dp "$1" "$former"
    else
        : >"$work$1.absent"
    fi
    touched="$touched $1"
    if [ -e "$1$suffix" ]; then mv -T "$1$suffix" "$1"; else rm -f "$1"; fi
}
folder() { # MODE OWNER GROUP PATH: a folder of its own, never one that a link leads to
    [ ! -L "$4" ] || { echo "$4 is a link; move it away, or name where it leads" >&2; exit 1; }
    install -d -m "$1" -o "$2" -g "$3" "$4"
}
bring() { # MODE SOURCE PATH: the new version is what another file holds
    install -m "$1" -o root -g root -T "$2" "$3$suffix"; sync "$3$suffix"
}
keep() { # PATH: the version before this change, for people to look at
    former "$1"
    if [ -e "$former" ] || [ -L "$former" ]; then
        mkdir -p "$previous$(dirname "$1")"; mv -fT "$former" "$previous$1"
    fi
}
""".replace("WORK", WORK)


@host_operation
def tree_synced(
    entries: Sequence[Entry] | Callable[[], Sequence[Entry]],
    *,
    watch: Sequence[str] = (),
    validate: str | None = None,
    activate: str | None = None,
    stamp: str | None = None,
    effect: str | None = None,
) -> Commands:
    """Give a host these files and folders, all or none, and let a service load them.

    Every new version is written beside its target (never readable by others), synced to disk
    and renamed. If ``validate`` or ``activate`` fails, the old versions are put back, the host
    fails with the program's own message, and the service continues with what it had.

    :param entries: what should be there, or a function that returns it.
    :param watch: further files that the service reads, written elsewhere.
    :param validate: shell command that rejects a bad configuration.
    :param activate: shell command that makes the service load the files. It also runs if an
        earlier run was cut off between writing and activating.
    :param stamp: name under which the host records what was last activated; needs ``activate``.
    :param effect: what clients notice of ``activate``, for people who have to confirm it.
    """
    wanted = entries() if callable(entries) else entries
    remember(wanted)
    paths = [entry.path for entry in wanted]
    found = look(TreeState, paths=[*paths, *watch], stamp=stamp)
    different = differing(wanted, found.paths)
    digest = _digest(wanted, {path: found.paths[path] for path in watch})
    pending = stamp is not None and found.stamp != digest
    pending = pending or may_have_changed(watch)
    if not different and not pending:
        return
    if different:
        entries_differ(different, found.paths)
    else:
        differs(paths[0], "has not been loaded by its service")
    will_change([entry.path for entry in different])
    # If nothing was loaded before, nobody can lose it.
    if effect is not None and (stamp is None or found.stamp):
        leads_to(effect)
    yield change(
        different,
        validate=validate,
        activate=activate,
        stamp=(f"{STAMPS}/{stamp}", digest) if stamp else None,
    )


def _digest(entries: Sequence[Entry], watched: dict[str, Found]) -> str:
    lines = [f"{entry.path} {entry.sha256}" for entry in entries if isinstance(entry, File)]
    lines += [f"{path} {found.sha256}" for path, found in watched.items()]
    # A script on the host computes the same: see templates/client_keys/expire.sh.j2.
    return hashlib.sha256("".join(f"{line}\n" for line in sorted(lines)).encode()).hexdigest()


def noting(entries: Sequence[File | Absent]) -> StringCommand:
    """The command that records what is at these paths now as deployed."""
    paths = " ".join(entry.path for entry in entries)
    plain = [entry.path for entry in entries if isinstance(entry, File) and not entry.secret]
    script = [
        "suffix=; touched=; activated=; unused=; finished=yes",
        f"deployed={DEPLOYED}; copies={COPIES}",
        _FUNCTIONS.strip(),
        NOTES,
        f"note {paths}",
        *(f"copy {path} || :" for path in plain),
        'noted "$work/.now"',
    ]
    return StringCommand("\n".join(script))


def change(
    different: Sequence[Entry],
    *,
    copies: Sequence[CopiedFile] = (),
    validate: str | None = None,
    activate: str | None = None,
    stamp: tuple[str, str] | None = None,
) -> StringCommand:
    """The command that puts these entries in place, all or none.

    For operations that know what differs from a query of their own; others use ``tree_synced``.

    :param copies: files that get what another file of the host holds before this change.
    :param stamp: path and content of a file that is written at the very end.
    """
    files = [entry for entry in different if isinstance(entry, File)]
    folders = [entry for entry in different if isinstance(entry, Folder)]
    changed = [entry.path for entry in different if isinstance(entry, File | Absent)]
    changed += [copy.path for copy in copies]
    kept = [
        entry.path
        for entry in different
        if isinstance(entry, Absent) or (isinstance(entry, File) and not entry.secret)
    ]
    kept += [copy.path for copy in copies]
    brought = [*(entry.path for entry in files), *(copy.path for copy in copies)]
    # Our own records are not part of the host's configuration.
    known = [path for path in changed if not path.startswith(f"{STATE}/")]
    script = [
        f"suffix={NEW}; before={OLD}; previous={PREVIOUS}; touched=; activated=; finished=",
        f"deployed={DEPLOYED}; copies={COPIES}",
        "unused=" + quote(" ".join(f"{path}{NEW}" for path in brought)),
        _FUNCTIONS.strip(),
        NOTES,
    ]
    for folder in folders:
        script.append(f"folder {folder.mode:04o} {folder.owner} {folder.group} {folder.path}")
    if files:
        parents = sorted({entry.path.rpartition("/")[0] or "/" for entry in files})
        script += [
            f"(umask 022; mkdir -p {' '.join(parents)})",
            "base64 -d | tar -x -p -f - -C / --no-overwrite-dir || {"
            " echo 'the new versions cannot be written; is the disk full?' >&2; exit 1; }",
            f"sync {' '.join(entry.path + NEW for entry in files)}",
        ]
    script += [f"bring {copy.mode:04o} {copy.source} {copy.path}" for copy in copies]
    for entry in different:
        if isinstance(entry, Kept):
            script += [
                f"chown -h {entry.owner}:{entry.group} {entry.path}",
                f"chmod {entry.mode:04o} {entry.path}",
            ]
    if known:
        script.append(f"note {' '.join(known)}")
    script += [f"swap {path}" for path in changed]
    if changed:
        script.append(
            "sync " + " ".join(sorted({path.rpartition("/")[0] or "/" for path in changed}))
        )
    if validate:
        script.append(f'( {validate} ) >"$work/said" 2>&1 || {{ cat "$work/said" >&2; exit 1; }}')
    if activate:
        script += [
            f"activated={quote(activate)}",
            '( eval "$activated" ) >"$work/said" 2>&1 || { cat "$work/said" >&2; exit 1; }',
        ]
    script.append("finished=yes")
    script += [f"copy {path} || :" for path in kept if path in known]
    if known:
        script.append('noted "$work/.now"')
    script += [f"keep {path}" for path in kept]
    if stamp:
        script += [f"mkdir -p {STAMPS}", f"printf %s {stamp[1]} >{stamp[0]}"]
    # A host that reads none of it may be done before the last line was sent.
    given: dict[str, Any] = {"_stdin": archive(files)} if files else {}
    return StringCommand("\n".join(script), **given)


def archive(files: Sequence[File], *, suffix: str = NEW) -> list[str]:
    """The new versions as a tar in base64 lines: content never passes through an argument."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for entry in files:
            member = tarfile.TarInfo(f"{entry.path[1:]}{suffix}")
            member.size, member.mode = len(entry.content), entry.mode
            member.mtime = int(time.time())
            member.uname, member.gname = entry.owner, entry.group
            if entry.owner.isdigit():
                member.uid, member.uname = int(entry.owner), ""
            if entry.group.isdigit():
                member.gid, member.gname = int(entry.group), ""
            tar.addfile(member, io.BytesIO(entry.content))
    text = base64.b64encode(buffer.getvalue()).decode()
    return [text[start : start + 4096] for start in range(0, len(text), 4096)]
