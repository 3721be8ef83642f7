"""`vllm-hosts keys`: who may call the models. Takes effect with `pyinfra INVENTORY keys.py`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path
from shlex import quote

import click

from vllm_hosts.cli.command import Duration, Group, Names
from vllm_hosts.cli.common import (
    identity_option,
    inventory_argument,
    name_those_left_behind,
    opened,
    opened_with,
)
from vllm_hosts.cli.new_ca import new_ca
from vllm_hosts.cli.recipients import recipients
from vllm_hosts.errors import SettingsError
from vllm_hosts.keys import KeyStore, store_content
from vllm_hosts.keys.age import own_recipients
from vllm_hosts.keys.hosts import rotate_secrets
from vllm_hosts.keys.pki import utc_now
from vllm_hosts.keys.places import pyinfra_line
from vllm_hosts.keys.store_content import ApiKey, ClientRecord
from vllm_hosts.project.loaded import Project

client_argument = click.argument("client")


@click.group(cls=Group, problems="The keys cannot be changed or shown:")
def keys() -> None:
    """Manage clients' API keys: add, list, show, rotate, revoke."""


keys.add_command(new_ca)
keys.add_command(recipients)


@keys.command()
@inventory_argument
@click.option(
    "--recipient",
    "given",
    multiple=True,
    help="age recipient or SSH public key that may decrypt the keys. May be repeated. Default:"
    " your own.",
)
@identity_option
def init(inventory: Path, given: tuple[str, ...], identity: Path | None) -> None:
    """Encrypt the keys with age, in a file safe to commit.

    Example: vllm-hosts keys init inventory/prod.py --recipient "$(cat ~/.ssh/id_ed25519.pub)"
    """
    store = opened(inventory, identity).store
    store.encrypt(given or own_recipients(identity))
    click.echo(f"{store.encrypted_path} holds the keys and the CA; commit it")
    click.echo(f"{store.recipients_path} lists who can open it; commit it too")


@keys.command()
@inventory_argument
@client_argument
@click.option("--agents", type=Names(), help="Agents that the client may call. Default: all.")
@click.option("--hosts", type=Names(), help="Hosts that get the key. Default: all.")
@click.option("--expires", type=Duration(), help="How long the key is valid, such as 30d.")
@identity_option
def add(
    inventory: Path,
    client: str,
    agents: tuple[str, ...] | None,
    hosts: tuple[str, ...] | None,
    expires: timedelta | None,
    identity: Path | None,
) -> None:
    """Add a client with a key of its own.

    Example: vllm-hosts keys add inventory/prod.py alice --agents coder --expires 30d
    """
    project = opened(inventory, identity)
    _check_known("host", hosts, project.hosts)
    _check_edges(hosts, project)
    if agents is not None:
        settings = project.settings.values()
        _check_known("agent", agents, {agent.name for host in settings for agent in host.agents})
    store = project.store
    new = not store.path.exists()
    content = store.update(
        lambda content: store_content.add_client(
            content, client, utc_now(), agents=agents, hosts=hosts, lifetime=expires or None
        ),
        start=store_content.new_content(utc_now()),
    )
    if new:
        click.echo(f"{inventory} had no key store; {store.path} was created", err=True)
    click.echo(f"{client} has a key; to print it: {_show(inventory, client)}")
    _say_next(inventory, hosts or _reached(project, content))


@keys.command("list")
@inventory_argument
@click.option("--json", "as_json", is_flag=True, help="Print JSON, a list of objects.")
@click.option("--names", is_flag=True, help="Print names only, one per line.")
@identity_option
def list_keys(inventory: Path, as_json: bool, names: bool, identity: Path | None) -> None:
    """List clients, their scopes and keys' fingerprints. Prints no key."""
    now = utc_now()
    store = KeyStore(inventory, identity)
    name_those_left_behind(store, inventory)
    clients = sorted(store.read().clients.items())
    if as_json:
        shown = [_as_json(name, record, now) for name, record in clients]
        click.echo(json.dumps(shown, indent=2))
        return
    for name, record in clients:
        if names:
            click.echo(name)
            continue
        click.secho(name, bold=True, nl=False)
        click.echo(f"  agents: {_scope(record.agents)}; hosts: {_scope(record.hosts)}")
        for key in record.keys:
            until = _end(key)
            state = "" if key.valid(now) else "  EXPIRED"
            click.echo(f"  ...{key.fingerprint}  from {key.created:%Y-%m-%d}  {until}{state}")


@keys.command()
@inventory_argument
@client_argument
@click.option("--force", is_flag=True, help="Print even if the output is not a terminal.")
@identity_option
def show(inventory: Path, client: str, force: bool, identity: Path | None) -> None:
    """Print a client's newest key. No other command prints keys.

    Example: export OPENAI_API_KEY="$(vllm-hosts keys show --force inventory/prod.py default)"
    """
    if not (force or sys.stdout.isatty()):
        raise SettingsError(
            ["keys are printed to a terminal only; add --force to print one elsewhere"]
        )
    store = KeyStore(inventory, identity)
    name_those_left_behind(store, inventory)
    key = store.client_key(client)
    click.echo(key.get_secret_value(), nl=sys.stdout.isatty())


@keys.command()
@inventory_argument
@client_argument
@click.option(
    "--overlap",
    type=Duration(),
    default="24h",
    show_default=True,
    help="How long the old key stays valid beside the new one.",
)
@click.option(
    "--expires",
    type=Duration(),
    help="How long the new key is valid; 0: no expiry. Default: as long as the old one was.",
)
@identity_option
def rotate(
    inventory: Path,
    client: str,
    overlap: timedelta,
    expires: timedelta | None,
    identity: Path | None,
) -> None:
    """Create a new key for a client. The old one expires after the overlap.

    Example: vllm-hosts keys rotate inventory/prod.py alice --overlap 24h
    """
    store = KeyStore(inventory, identity)
    content = store.update(
        lambda content: store_content.rotate(content, client, utc_now(), overlap, expires)
    )
    click.echo(f"{client} has a new key, {_end(content.client(client).keys[-1])}")
    click.echo(f"to print it: {_show(inventory, client)}")
    hosts = content.client(client).hosts
    _say_next(inventory, hosts or _reached(opened_with(store, inventory), content))


@keys.command()
@inventory_argument
@client_argument
@click.option(
    "--expires", type=Duration(), required=True, help="Time from now, such as 30d; 0: no expiry."
)
@identity_option
def extend(inventory: Path, client: str, expires: timedelta, identity: Path | None) -> None:
    """Change when a client's newest key expires. The key stays the same.

    Example: vllm-hosts keys extend inventory/prod.py alice --expires 30d
    """
    store = KeyStore(inventory, identity)
    content = store.update(
        lambda content: store_content.extend(content, client, utc_now(), expires)
    )
    click.echo(f"{client}'s key is valid {_end(content.client(client).keys[-1])}")
    hosts = content.client(client).hosts
    _say_next(inventory, hosts or _reached(opened_with(store, inventory), content))


@keys.command()
@inventory_argument
@client_argument
@identity_option
def revoke(inventory: Path, client: str, identity: Path | None) -> None:
    """Revoke a client's keys. Hosts refuse them once keys.py has run.

    Example: vllm-hosts keys revoke inventory/prod.py alice && pyinfra -y inventory/prod.py keys.py
    """
    hosts: list[tuple[str, ...] | None] = []

    def change(content: store_content.Content) -> store_content.Content:
        hosts.append(content.client(client).hosts)
        return store_content.revoke(content, client)

    # Before the inventory is loaded: nothing in it may hold up a revocation.
    store = KeyStore(inventory, identity)
    content = store.update(change)
    click.echo(f"{client} is revoked in the store; no host refuses its keys yet")
    _say_next(inventory, hosts[0] or _reached(opened_with(store, inventory), content))


@keys.command("rotate-internal")
@inventory_argument
@click.option("--hosts", type=Names(), help="Only these hosts. Default: all.")
@identity_option
def rotate_internal(inventory: Path, hosts: tuple[str, ...] | None, identity: Path | None) -> None:
    """Create new keys between edges and agents. Client keys are unaffected."""
    project = opened(inventory, identity)
    _check_known("host", hosts, project.hosts)
    chosen = hosts or project.hosts
    project.store.update(
        lambda content: rotate_secrets(content, chosen, project.gateways, utc_now())
    )
    click.echo(f"new internal keys for {', '.join(chosen)}; agents restart with the next deploy:")
    click.echo(f"  {pyinfra_line(inventory)}")


def _reached(project: Project, content: store_content.Content) -> list[str]:
    """Hosts that keys.py brings clients' keys to: the inventory's, or its gateways, and those that
    only the store remembers."""
    known = content.hosts
    left = [name for name in project.left(content) if name in known and not known[name].behind]
    return [*project.edges, *left]


def _check_edges(hosts: Iterable[str] | None, project: Project) -> None:
    """A client's key belongs where clients connect."""
    if behind := [name for name in hosts or () if name not in project.edges]:
        raise SettingsError(
            [
                f"{behind[0]} is behind gateways, and takes no client's key; name gateways"
                f" ({', '.join(project.edges)}), or leave --hosts out"
            ]
        )


def _check_known(kind: str, names: Iterable[str] | None, known: Iterable[str]) -> None:
    known = sorted(known)
    if unknown := [name for name in names or () if name not in known]:
        raise click.UsageError(f"there is no {kind} {unknown[0]!r}; there is {', '.join(known)}")


def _show(inventory: Path, client: str) -> str:
    return f"vllm-hosts keys show {quote(str(inventory))} {quote(client)}"


def _say_next(inventory: Path, hosts: Iterable[str]) -> None:
    click.echo(f"{', '.join(hosts)}: takes effect with")
    click.echo(f"  {pyinfra_line(inventory, 'keys.py', '-y')}")


def _end(key: ApiKey) -> str:
    return f"until {key.expires:%Y-%m-%d %H:%M} UTC" if key.expires else "without expiry"


def _scope(names: tuple[str, ...] | None) -> str:
    return ", ".join(names) if names is not None else "all"


def _as_json(name: str, record: ClientRecord, now: datetime) -> dict[str, object]:
    return {
        "client": name,
        "agents": record.agents,
        "hosts": record.hosts,
        "created": record.created.isoformat(),
        "keys": [
            {
                "fingerprint": key.fingerprint,
                "created": key.created.isoformat(),
                "expires": key.expires.isoformat() if key.expires else None,
                "valid": key.valid(now),
            }
            for key in record.keys
        ],
    }
