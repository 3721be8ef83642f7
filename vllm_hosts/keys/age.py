"""age files: encrypted to recipients in a plain file, decrypted with the usual identities."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pyrage

from vllm_hosts.bounded import BoundError, read_file
from vllm_hosts.errors import SettingsError
from vllm_hosts.text import clean

#: Environment variable with the path of an age or SSH identity.
IDENTITY_ENV = "VLLM_HOSTS_IDENTITY"
_USUAL = (".config/age/keys.txt", ".ssh/id_ed25519", ".ssh/id_rsa")
#: First words of SSH public keys, by which nobody can be named.
_KINDS = ("ssh-ed25519", "ssh-rsa")
#: pyrage's own types: one for SSH, one for age.
Recipient = Any
Identity = Any


def read_whole(path: Path) -> bytes:
    """A file of keys or recipients.

    :raises SettingsError: it cannot be read, or is no file.
    """
    try:
        return read_file(path)
    except OSError as error:
        raise SettingsError([f"{path} cannot be read: {error.strerror}"]) from error
    except BoundError as error:
        raise SettingsError([f"{path} cannot be read: {error}; {_RESTORE}"]) from error


def parse_recipient(text: str) -> Recipient:
    """An age recipient or an SSH public key.

    :raises SettingsError: it is neither.
    """
    words = text.split()
    try:
        if words and words[0].startswith("age1"):
            return pyrage.x25519.Recipient.from_str(words[0])
        # The comment of an SSH key is for people only.
        return pyrage.ssh.Recipient.from_str(" ".join(words[:2]))
    except pyrage.RecipientError as error:
        shown = " ".join(words[:2])[:40]
        raise SettingsError(
            [
                f"{shown!r}... is not a recipient: it must be an age recipient (age1...) or an SSH"
                f" public key (ssh-ed25519 or ssh-rsa): {error}"
            ]
        ) from error


def read_recipients(path: Path) -> list[str]:
    """The lines of a recipients file that are not comments.

    :raises SettingsError: it cannot be read, or lists nobody.
    """
    stripped = [line.strip() for line in read_whole(path).decode(errors="replace").split("\n")]
    found = [line for line in stripped if line and not line.startswith("#")]
    if any(clean(line) != line or "\ufffd" in line for line in found):
        raise SettingsError([f"{path} has a line that is no text; {_RESTORE}"])
    if not found:
        raise SettingsError(
            [f"{path} lists no recipient, and nobody could decrypt the keys; add one"]
        )
    return found


def named_recipients(lines: Sequence[str], text: str) -> list[str]:
    """Recipients that a name refers to: the whole line, the key, or the comment with its spaces."""
    meant = " ".join(text.split())
    found = []
    for line in lines:
        words = line.split()
        comment = words[1:] if words[0].startswith("age1") else words[2:]
        shown = " ".join(comment)
        names = {" ".join(words), " ".join(words[:2]), *words[:2], shown, shown.lstrip("# ")}
        if meant and meant in names - {"", *_KINDS}:
            found.append(line)
    return found


def encrypt(content: bytes, recipients: Sequence[str]) -> bytes:
    """Encrypt to all of these recipients.

    :raises SettingsError: one of them is not a recipient.
    """
    encrypted: bytes = pyrage.encrypt(content, [parse_recipient(line) for line in recipients])
    return encrypted


@dataclass(frozen=True)
class _Found:
    """A file that may hold identities: the identities, or why there are none."""

    path: Path
    identities: tuple[Identity, ...]
    problem: str | None = None


def decrypt(path: Path, content: bytes, identity_file: Path | None) -> bytes:
    """Open an age file with the first identity that fits.

    :param identity_file: the only file to use; None: ``VLLM_HOSTS_IDENTITY``, or the usual
        places of age and SSH.
    :raises SettingsError: none fits, one has a passphrase, or the file is damaged.
    """
    if not content.startswith(b"age-encryption.org/"):
        raise SettingsError([f"{path} is damaged: it is not an age file; {_RESTORE}"])
    looked = list(_identities(identity_file))
    refusals = []
    for found in looked:
        for identity in found.identities:
            try:
                opened: bytes = pyrage.decrypt(content, [identity])
                return opened
            except pyrage.DecryptError as error:
                if "No matching keys" not in str(error):
                    raise SettingsError([f"{path} is damaged: {error}; {_RESTORE}"]) from error
        refusals.append(f"{found.path}: {found.problem or 'is not one of the recipients'}")
    if not looked:
        refusals.append("there is none in the usual places")
    raise SettingsError(
        [
            f"{path} cannot be decrypted: no identity fits ({'; '.join(refusals)});"
            f" {_how_to_name_one()}"
        ]
    )


def _how_to_name_one() -> str:
    """How to name an identity in the command that was typed: pyinfra has no options of ours."""
    context = click.get_current_context(silent=True)
    if context and any(parameter.name == "identity" for parameter in context.command.params):
        return f"name one with --identity or {IDENTITY_ENV}"
    return f"put {IDENTITY_ENV}=FILE, with your identity's file, before the command that you typed"


_RESTORE = "restore it, for instance with: git checkout -- FILE"


def _identities(chosen: Path | None) -> Iterator[_Found]:
    named = chosen or (Path(os.environ[IDENTITY_ENV]) if os.environ.get(IDENTITY_ENV) else None)
    if named is not None:
        yield _read(named.expanduser())
        return
    for place in _USUAL:
        path = Path.home() / place
        if path.is_file():
            yield _read(path)


def _read(path: Path) -> _Found:
    try:
        content = read_file(path)
    except OSError as error:
        return _Found(path, (), f"cannot be read: {error.strerror}")
    except BoundError as error:
        return _Found(path, (), f"cannot be read: {error}")
    try:
        if b"AGE-SECRET-KEY-" in content:
            lines = [line.strip() for line in content.decode().splitlines()]
            keys = [line for line in lines if line.startswith("AGE-SECRET-KEY-")]
            return _Found(path, tuple(pyrage.x25519.Identity.from_str(key) for key in keys))
        return _Found(path, (pyrage.ssh.Identity.from_buffer(content),))
    except (pyrage.IdentityError, ValueError) as error:
        if "must be decrypted" in str(error):
            return _Found(
                path,
                (),
                "has a passphrase, which only ssh-agent could use and age cannot; use an age"
                " identity (age-keygen -o ~/.config/age/keys.txt) added as a recipient, or a copy"
                " of the key without passphrase (ssh-keygen -p -N '')",
            )
        # The error's own text could contain a part of the identity.
        return _Found(path, (), "is neither an age nor an SSH identity")


def own_recipients(chosen: Path | None) -> list[str]:
    """The recipients of this user's own identities.

    :raises SettingsError: there is none, or none that could decrypt a file.
    """
    found: list[str] = []
    refusals = []
    for place in _identities(chosen):
        if place.problem:
            refusals.append(f"{place.path}: {place.problem}")
        for identity in place.identities:
            if isinstance(identity, pyrage.x25519.Identity):
                found.append(str(identity.to_public()))
            else:
                public = place.path.with_name(place.path.name + ".pub")
                if public.is_file():
                    found.append(public.read_text(errors="replace").strip())
                else:
                    refusals.append(f"{public} is missing")
    if not found:
        why = "; ".join(refusals) or "there is no identity in the usual places of age and SSH"
        raise SettingsError([f"no recipient is known: {why}; name one with --recipient"])
    return found
