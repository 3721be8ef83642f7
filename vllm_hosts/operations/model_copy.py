"""Copies models from the controller, for hosts that cannot reach a hub."""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from shlex import quote

import gevent
from pyinfra.api.command import FileUploadCommand, StringCommand

from vllm_hosts.errors import HostError, SettingsError
from vllm_hosts.facts import look
from vllm_hosts.facts.hub import CopyFound, ModelCopy
from vllm_hosts.host.files import File
from vllm_hosts.host.manifest import brought
from vllm_hosts.host.paths import MODEL_NOTES
from vllm_hosts.hub.hub_models import Copy
from vllm_hosts.hub.local import LocalFile, LocalModel, local_model
from vllm_hosts.operations.base import Commands, host_operation, note, watched
from vllm_hosts.operations.differences import differs
from vllm_hosts.operations.tree import change

#: Bytes per piece: held in memory here, and sent again after an interruption.
_PIECE = 64 << 20
#: Bytes that stay free on the host's disk.
_RESERVE = 1 << 30
_SAY_EVERY = 10.0


@host_operation
def models_copied(copies: Sequence[Copy]) -> Commands:
    """Copy these models into their folders on the host, completely or not at all.

    Files are sent piece by piece into a folder beside the target, so that the next run continues
    one that was cut off. Once every file's SHA-256 matches the controller's, the folder gets its
    name. An existing folder is never changed, since an agent may be reading it: if its content
    differs, the host fails before any container is touched.
    """
    for copy in copies:
        try:
            local = local_model(copy.source, allow_pickle=copy.allow_pickle)
        except SettingsError as error:
            raise HostError(str(error)) from error
        found = look(ModelCopy, folder=copy.target, staging=copy.staging, key=copy.key)
        if found.present is None:
            differs(f"model {copy.target}", "is not on the host")
            yield from _send(copy, local, found)
        else:
            yield from _compare(copy, local, found)


def _compare(copy: Copy, local: LocalModel, found: CopyFound) -> Commands:
    """Check that an existing folder has this model, reading no more than necessary."""
    assert found.present is not None
    for file in local.files:
        if found.present.get(file.name) != file.size:
            raise HostError(_another(copy, file.name))
    if local.fingerprint in found.sources:
        return
    if found.digests:
        digests = _digests(local)
        for name, digest in digests.items():
            if found.digests.get(name) != digest:
                raise HostError(_another(copy, name))
    else:
        # Somebody else put it there, or the last run was cut off right at its end.
        yield _manifest(copy, local)
        before, after = _another(copy, "\0").split("\0")
        yield watched(
            f"comparing {copy.target}",
            f"""
            cd {copy.target}
            different=$(sha256sum --check --quiet {MODEL_NOTES}/{copy.key}.new 2>/dev/null |
                sed -n 's/: FAILED.*$//p')
            rm -f {MODEL_NOTES}/{copy.key}.new
            [ -z "$different" ] || {{
                echo {quote(before)}"$(echo $different)"{quote(after)}; exit 1; }}
            """,
            tail=1,
        )
    differs(f"model {copy.target}", "has not been compared with this controller's")
    yield _stamp(copy, local, found.sources)


def _another(copy: Copy, what: str) -> str:
    return (
        f"{copy.target} on the host is not the model in {copy.source} (copy_from): {what} differs;"
        f" agents may be reading it, so give the new one a folder of its own, such as model ="
        f" '{copy.target}-2', or move the old one away"
    )


def _send(copy: Copy, local: LocalModel, found: CopyFound) -> Commands:
    total = sum(local.sizes.values())
    have = {name: size for name, size in found.staged.items() if size <= local.sizes.get(name, -1)}
    missing = total - sum(have.values())
    if missing + _RESERVE > found.free:
        raise HostError(
            f"{copy.target} needs {_gb(missing)} more and {_gb(_RESERVE)} of reserve, and"
            f" {_gb(found.free)} are free; make room"
        )
    yield StringCommand(_prepared(copy, local, set(found.staged) - set(have)))
    said = time.monotonic()
    sent = total - missing
    for file in local.files:
        at = have.get(file.name, 0)
        while at < file.size:
            piece = _piece(file, at)
            yield FileUploadCommand(io.BytesIO(piece), f"{copy.staging}/.piece")
            yield StringCommand(f"cd {copy.staging} && cat .piece >>{file.name} && rm -f .piece")
            at += len(piece)
            sent += len(piece)
            if time.monotonic() - said > _SAY_EVERY:
                said = time.monotonic()
                yield note(f"copying {copy.source}: {_gb(sent)} of {_gb(total)}")
    yield _manifest(copy, local)
    yield watched(f"checking {copy.target}", check_script(copy), tail=1)
    yield _stamp(copy, local, frozenset())


def _prepared(copy: Copy, local: LocalModel, unusable: set[str]) -> str:
    """The folders and empty files for what is about to be sent, and nothing else."""
    parent = copy.target.rpartition("/")[0] or "/"
    places = sorted({f"{copy.staging}/{file.name}".rpartition("/")[0] for file in local.files})
    lines = [
        "set -eu",
        f"(umask 022; mkdir -p {parent} {MODEL_NOTES}); umask 077; mkdir -p {' '.join(places)}",
        brought("model", [copy.target]),
        f"cd {copy.staging}",
    ]
    lines += [f"rm -f {quote(f'./{name}')}" for name in sorted(unusable)]
    lines += [f"touch {' '.join(file.name for file in local.files)}"]
    return "\n".join(lines)


def check_script(copy: Copy) -> str:
    """The shell script that compares the copy with its manifest, and gives it its name."""
    return f"""
        set -eu
        cd {copy.staging}
        damaged=$(sha256sum --check --quiet {MODEL_NOTES}/{copy.key}.new 2>/dev/null |
            sed -n 's/: FAILED.*$//p')
        rm -f {MODEL_NOTES}/{copy.key}.new
        if [ -n "$damaged" ]; then
            rm -f $damaged
            echo "$(echo $damaged) of {copy.target} arrived damaged and was removed; run again"
            exit 1
        fi
        chown -R root:root .; chmod -R u=rwX,go=rX .; sync -f .
        mv -T {copy.staging} {copy.target}
    """


def _piece(file: LocalFile, at: int) -> bytes:
    with file.open() as content:
        content.seek(at)
        piece = content.read(min(_PIECE, file.size - at))
    if not piece:
        raise HostError(f"{file.path} became shorter while it was copied; run again")
    return piece


def _digests(local: LocalModel) -> dict[str, str]:
    """SHA-256 by name, computed in a thread, so that other hosts continue meanwhile."""
    pool = gevent.get_hub().threadpool
    digests: dict[str, str] = pool.apply(lambda: {file.name: file.sha256 for file in local.files})
    return digests


def _manifest(copy: Copy, local: LocalModel) -> StringCommand:
    lines = [f"{digest}  {name}\n" for name, digest in _digests(local).items()]
    return change([File(f"{MODEL_NOTES}/{copy.key}.new", "".join(lines).encode())])


def _stamp(copy: Copy, local: LocalModel, sources: frozenset[str]) -> StringCommand:
    lines = [f"source {source}\n" for source in sorted({*sources, local.fingerprint})]
    lines += [f"file {digest} {name}\n" for name, digest in _digests(local).items()]
    return change([File(f"{MODEL_NOTES}/{copy.key}", "".join(lines).encode())])


def _gb(count: int) -> str:
    return f"{count / 1000**3:.2f} GB"
