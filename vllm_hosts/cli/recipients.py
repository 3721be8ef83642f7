"""`vllm-hosts keys recipients`: who can decrypt the key store."""

from __future__ import annotations

from pathlib import Path
from shlex import quote

import click

from vllm_hosts.cli.command import Group
from vllm_hosts.cli.common import identity_option, inventory_argument, name_those_left_behind
from vllm_hosts.errors import SettingsError
from vllm_hosts.keys import KeyStore
from vllm_hosts.keys.age import named_recipients, parse_recipient


@click.group(cls=Group)
def recipients() -> None:
    """Manage who can decrypt the keys."""


@recipients.command("list")
@inventory_argument
def list_recipients(inventory: Path) -> None:
    """Print the recipients, one per line."""
    store = KeyStore(inventory)
    name_those_left_behind(store, inventory)
    for line in store.recipients():
        click.echo(line)


@recipients.command("add")
@inventory_argument
@click.argument("recipient")
@identity_option
def add_recipient(inventory: Path, recipient: str, identity: Path | None) -> None:
    """Add a recipient and re-encrypt the keys.

    Example: vllm-hosts keys recipients add inventory/prod.py "$(cat alice.pub)"
    """
    store = KeyStore(inventory, identity)
    name_those_left_behind(store, inventory)
    parse_recipient(recipient)
    lines = store.recipients()
    if named_recipients(lines, " ".join(recipient.split()[:2])):
        click.echo("can already decrypt the keys")
        return
    store.set_recipients([*lines, recipient.strip()])
    click.echo(f"{store.encrypted_path} is encrypted for {len(lines) + 1} recipients; commit it")


@recipients.command("remove")
@inventory_argument
@click.argument("recipient")
@identity_option
def remove_recipient(inventory: Path, recipient: str, identity: Path | None) -> None:
    """Remove a recipient and re-encrypt the keys. RECIPIENT: the line, its key, or its comment.

    Whoever had the file and their identity still knows all current keys: rotate them all.
    """
    store = KeyStore(inventory, identity)
    name_those_left_behind(store, inventory)
    lines = store.recipients()
    gone = named_recipients(lines, recipient)
    if len(gone) != 1:
        found = "matches several recipients" if gone else "is not one of the recipients"
        raise SettingsError([f"{recipient!r} {found} in {store.recipients_path}"])
    left = [line for line in lines if line != gone[0]]
    if not left:
        raise SettingsError(
            ["that is the last recipient, and nobody could decrypt the keys; add another one first"]
        )
    store.set_recipients(left)
    click.echo(f"{store.encrypted_path} is encrypted for {len(left)} recipients; commit it")
    click.echo("Whoever was removed still knows all current keys. Rotate every client's, and run")
    click.echo(f"  vllm-hosts keys rotate-internal {quote(str(inventory))}")
