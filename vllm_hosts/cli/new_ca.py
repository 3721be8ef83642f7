"""`vllm-hosts keys new-ca`: another local CA, without locking out clients by surprise."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from shlex import quote

import click

from vllm_hosts.cli.command import Command, Duration, agreed, yes_option
from vllm_hosts.cli.common import identity_option, inventory_argument, opened
from vllm_hosts.errors import SettingsError
from vllm_hosts.keys import KeyStore
from vllm_hosts.keys.ca import cancel as check_cancel
from vllm_hosts.keys.ca import phase, shown
from vllm_hosts.keys.pki import utc_now
from vllm_hosts.keys.places import CA_FILE, pyinfra_line
from vllm_hosts.keys.store_content import NextCa
from vllm_hosts.project.loaded import Project


@click.command("new-ca", cls=Command, problems="The CA cannot be replaced:")
@inventory_argument
@click.option(
    "--overlap",
    type=Duration(),
    default="30d",
    show_default=True,
    help="How long clients have to install the new ca.pem before hosts get certificates from the"
    " new CA; 0: no time, for a CA whose key has leaked.",
)
@click.option("--finish", is_flag=True, help="End the overlap now.")
@click.option("--cancel", is_flag=True, help="Withdraw the new CA before it takes over.")
@yes_option
@identity_option
def new_ca(
    inventory: Path,
    overlap: timedelta,
    finish: bool,
    cancel: bool,
    yes: bool,
    identity: Path | None,
) -> None:
    """Replace the local CA, with an overlap for clients.

    A new CA is created beside the present one. During the change ca.pem holds both, so that clients
    that have installed it keep working.

    Example: vllm-hosts keys new-ca inventory/prod.py --overlap 30d
    """
    if finish and cancel:
        raise click.UsageError("--finish and --cancel exclude each other; choose one")
    project = opened(inventory, identity)
    store = project.store
    try:
        # Nobody is asked to confirm what cannot be done.
        if cancel:
            check_cancel(store.read(), utc_now())
            agreed("Withdraw the new CA? Clients keep trusting the present one.", yes=yes)
            store.authority.cancel()
            click.echo("The new CA is withdrawn. Clients that installed it need not do anything.")
        elif finish:
            _finish(store, inventory, yes)
        else:
            _replace(project, inventory, overlap, yes)
    except SettingsError as error:
        file = quote(str(inventory))
        raise SettingsError([one.replace("INVENTORY", file) for one in error.problems]) from error


def _replace(project: Project, inventory: Path, overlap: timedelta, yes: bool) -> None:
    store = project.store
    store.authority.check_replace(overlap)
    if overlap:
        by = shown(utc_now() + overlap)
        click.echo(f"Every client needs the new {CA_FILE} by {by}. Until then nothing changes for")
        click.echo(
            "clients. Afterwards, a client without it refuses to connect to a host as soon as"
        )
        click.echo("the host has been deployed to.")
    else:
        click.echo(f"Every client needs the new {CA_FILE} at once: from the next deploy on, a")
        click.echo("client without it refuses to connect to hosts.")
        if project.gateways:
            click.echo("Until that deploy has ended, gateways and hosts may refuse each other.")
    agreed(f"Create a new CA for {inventory}?", yes=yes)
    following = store.authority.replace(overlap)
    if overlap:
        _say_what_clients_do(store, inventory, following)
        if project.gateways:
            click.echo("Deploy once before it takes over as well, with the same line: gateways and")
            click.echo("hosts know each other by this CA, and then accept both.")
    else:
        _say_at_once(store, inventory)


def _finish(store: KeyStore, inventory: Path, yes: bool) -> None:
    following = store.authority.following()
    if following is None:
        # Says what there is to do instead.
        store.authority.finish()
        return
    if phase(following, utc_now()) == "both":
        click.echo(f"From the next deploy on, clients without the new {CA_FILE} fail.")
        click.echo(f"They were given until {shown(following.takes_over)}.")
        agreed("End the overlap now?", yes=yes)
        following = store.authority.finish()
        click.echo("To give hosts certificates from the new CA, run")
        click.echo(f"  {pyinfra_line(inventory, options='-y')}")
        click.echo(f"The old CA stays in {CA_FILE} until {shown(following.old_ends)}, for hosts")
        click.echo("that have not been deployed to since; --finish drops it sooner.")
        return
    click.echo(f"The new {CA_FILE} no longer holds the old CA: clients with it refuse a host that")
    click.echo(f"has not been deployed to since {shown(following.takes_over)}.")
    agreed("Drop the old CA now?", yes=yes)
    store.authority.finish()
    click.echo(f"{store.folder / CA_FILE} holds only the new CA.")


def _say_what_clients_do(store: KeyStore, inventory: Path, following: NextCa) -> None:
    file = quote(str(inventory))
    by = shown(following.takes_over)
    click.echo(f"1. Now: give every client {store.folder / CA_FILE}, which holds both CAs")
    click.echo(f"   (vllm-hosts ca {file} prints it). They have until {by}.")
    click.echo("2. After that date: hosts get certificates from the new CA with the next")
    click.echo(f"   {pyinfra_line(inventory, options='-y')}")
    click.echo(f"   (to take over sooner: vllm-hosts keys new-ca {file} --finish)")
    click.echo(f"3. On {shown(following.old_ends)} the old CA is removed from {CA_FILE}.")
    if store.encrypted:
        click.echo(f"{store.path} holds the new CA; commit it")


def _say_at_once(store: KeyStore, inventory: Path) -> None:
    click.echo(f"Give every client {store.folder / CA_FILE}; then give hosts certificates from the")
    click.echo("new CA:")
    click.echo(f"  {pyinfra_line(inventory, options='-y')}")
    click.echo("Have clients remove the old CA: whoever has its key can still sign with it.")
    if store.encrypted:
        click.echo(f"{store.path} holds the new CA; commit it")
