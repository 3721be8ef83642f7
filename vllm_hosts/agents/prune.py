"""Images that agents used before: recorded, reported, and removed on request."""

from __future__ import annotations

from shlex import quote

from pyinfra.api.command import StringCommand
from pyinfra.context import ctx_host, ctx_state

from vllm_hosts.agents.images import Row, gigabytes, judged, next_record, old_ones
from vllm_hosts.connect.connections import ask_host, carry_out
from vllm_hosts.errors import HostError
from vllm_hosts.facts import look
from vllm_hosts.facts.docker import ImageVersion
from vllm_hosts.facts.vllm_images import ImageRoom, ImagesThere, ImagesUsed, Used
from vllm_hosts.host.files import File
from vllm_hosts.host.paths import IMAGES_RECORD
from vllm_hosts.operations.base import Commands, host_operation
from vllm_hosts.operations.differences import asked_for
from vllm_hosts.operations.tree import change


@host_operation
def images_noted(image: str) -> Commands:
    """Note which image agents use from now on, after those that they have used before."""
    if asked_for():
        return
    use, wanted = look(ImagesUsed), look(ImageVersion, image=image).id
    if not wanted:
        # It comes with this run, if it is not a dry one.
        return
    record = next_record(use, Used(wanted, image))
    if record != use.record:
        text = "".join(f"{used.id} {used.name}\n" for used in record)
        yield change([File(IMAGES_RECORD, text.encode(), mode=0o600)])


@host_operation
def old_images_named(image: str, inventory: str) -> Commands:
    """Say which images nobody needs any more. Changes nothing.

    :param inventory: its file, as a shell reads it.
    """
    if ctx_state.get().is_executing:
        try:
            before = {used.id for used in look(ImagesUsed).record}
            before -= {look(ImageVersion, image=image).id}
            # One stays, for going back. Docker is asked about all there is only if there are more.
            old = old_ones(judged(look(ImagesThere), image, keep=1)) if len(before) > 1 else []
        except HostError:
            # A container that ends meanwhile is no reason to fail a host that is well.
            old = []
        if old:
            names = ", ".join(f"{row.name} ({gigabytes(row.image.size)})" for row in old)
            ctx_host.get().log(
                f"    images that no agent uses any more: {names};"
                f" `vllm-hosts images {inventory} prune` removes them"
            )
    yield from ()


def remove(row: Row) -> int:
    """Remove an image of the current host that agents used before. Docker refuses where a container
    has come to use it meanwhile.

    :returns: bytes of the disk that are free since.
    :raises HostError: Docker does not remove it.
    """
    before = ask_host(ImageRoom)
    carry_out([StringCommand(remove_script(row))])
    return max(0, ask_host(ImageRoom) - before)


def remove_script(row: Row) -> str:
    """Shell: take our names away, then the image, then its line in the record."""
    identifier = row.image.id
    names = " ".join(quote(name) for name in row.image.names)
    lines = ["set -eu; umask 077"]
    if names:
        lines.append(f"docker image rm {names} >/dev/null")
    lines += [
        f"! docker image inspect {identifier} >/dev/null 2>&1 ||"
        f" docker image rm {identifier} >/dev/null",
        f"awk -v id={identifier} '$1 != id' {IMAGES_RECORD} >{IMAGES_RECORD}.new",
        f"mv -fT {IMAGES_RECORD}.new {IMAGES_RECORD}",
    ]
    return "\n".join(lines)
