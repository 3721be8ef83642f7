"""`vllm-hosts keys new-ca`: another local CA, without a client that is locked out unawares."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from shlex import quote

import click

from vllm_hosts.cli.common import (
    Duration,
    agreed,
    identity_option,
    inventory_argument,
    opened,
    says_problems,
    yes_option,
)
from vllm_hosts.errors import SettingsError
from vllm_hosts.keys import KeyStore
from vllm_hosts.keys.ca import cancel as check_cancel
from vllm_hosts.keys.ca import phase, shown
from vllm_hosts.keys.model import NextCa
from vllm_hosts.keys.pki import utc_now
from vllm_hosts.keys.places import CA_FILE


@click.command("new-ca")
@inventory_argument
@click.option(
    "--overlap",
    type=Duration(),
    default="30d",
    show_default=True,
    help="How long clients have to take the new ca.pem, before hosts get certificates of the new"
    " CA; 0: no time, for a CA whose key got out.",
)
@click.option("--finish", is_flag=True, help="End the overlap now.")
@click.option("--cancel", is_flag=True, help="Take the new CA back, before it has taken over.")
@yes_option
@identity_option
@says_problems("The CA cannot be replaced:")
def new_ca(
    inventory: Path,
    overlap: timedelta,
    finish: bool,
    cancel: bool,
    yes: bool,
    identity: Path | None,
) -> None:
    """Make a new local CA beside the present one, which it replaces after an overlap.

    Clients are told to trust both meanwhile (ca.pem), so none of those that took it fails.

    Example: vllm-hosts keys new-ca inventory/prod.py --overlap 30d
    """
    if finish and cancel:
        raise click.UsageError("--finish and --cancel are two ways; choose one")
    opened(inventory, identity)
    store = KeyStore(inventory, identity)
    try:
        # Nobody is asked about what cannot be done.
        if cancel:
            check_cancel(store.read(), utc_now())
            agreed("Take the new CA back? Clients keep trusting the present one.", yes=yes)
            store.authority.cancel()
            click.echo("The new CA is taken back. Clients that took it need do nothing.")
        elif finish:
            _finish(store, inventory, yes)
        else:
            _replace(store, inventory, overlap, yes)
    except SettingsError as error:
        file = quote(str(inventory))
        raise SettingsError([one.replace("INVENTORY", file) for one in error.problems]) from error


def _replace(store: KeyStore, inventory: Path, overlap: timedelta, yes: bool) -> None:
    store.authority.check_replace(overlap)
    if overlap:
        by = shown(utc_now() + overlap)
        click.echo(f"Every client needs a new {CA_FILE} by {by}. Until then nothing changes for")
        click.echo("clients; one that does not have it then refuses to talk to hosts, as soon as")
        click.echo("they are deployed to.")
    else:
        click.echo(f"Every client needs the new {CA_FILE} at once: from the next deploy on, one")
        click.echo("without it refuses to talk to hosts.")
    agreed(f"Make a new CA for {inventory}?", yes=yes)
    following = store.authority.replace(overlap)
    if overlap:
        _say_what_clients_do(store, inventory, following)
    else:
        _say_at_once(store, inventory)


def _finish(store: KeyStore, inventory: Path, yes: bool) -> None:
    following = store.authority.following()
    if following is None:
        # Says what there is to do instead.
        store.authority.finish()
        return
    if phase(following, utc_now()) == "both":
        click.echo(f"From the next deploy on, clients that did not take the new {CA_FILE} fail.")
        click.echo(f"They were told that they have until {shown(following.takes_over)}.")
        agreed("End the overlap now?", yes=yes)
        following = store.authority.finish()
        click.echo("Hosts get certificates of the new CA with")
        click.echo(f"  pyinfra -y {quote(str(inventory))} deploy.py")
        click.echo(f"The old CA stays in {CA_FILE} until {shown(following.old_ends)}, for hosts")
        click.echo("that nobody has deployed to; --finish drops it before.")
        return
    click.echo("Clients are not told to trust the old CA any more: with a new")
    click.echo(
        f"{CA_FILE} they refuse a host that was not deployed to since"
        f" {shown(following.takes_over)}."
    )
    agreed("Drop the old CA now?", yes=yes)
    store.authority.finish()
    click.echo(f"{store.folder / CA_FILE} holds the new CA alone.")


def _say_what_clients_do(store: KeyStore, inventory: Path, following: NextCa) -> None:
    file = quote(str(inventory))
    by = shown(following.takes_over)
    click.echo(f"1. Now: give every client {store.folder / CA_FILE}, which holds both CAs")
    click.echo(f"   (vllm-hosts ca {file} prints it). They have until {by}.")
    click.echo("2. After that date: hosts get certificates of the new CA with the next")
    click.echo(f"   pyinfra -y {file} deploy.py")
    click.echo(f"   (before it, on your own word: vllm-hosts keys new-ca {file} --finish)")
    click.echo(f"3. On {shown(following.old_ends)} the old CA leaves {CA_FILE} by itself.")
    if store.encrypted:
        click.echo(f"{store.path} holds the new CA; commit it")


def _say_at_once(store: KeyStore, inventory: Path) -> None:
    click.echo(f"Give every client {store.folder / CA_FILE}; hosts get certificates of the new CA")
    click.echo("with")
    click.echo(f"  pyinfra -y {quote(str(inventory))} deploy.py")
    click.echo("Have clients remove the old one, which whoever has its key can use.")
    if store.encrypted:
        click.echo(f"{store.path} holds the new CA; commit it")
