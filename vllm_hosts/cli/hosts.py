"""`vllm-hosts hosts`: hosts that hold an inventory's keys; adopting and releasing one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from shlex import quote

import click

from vllm_hosts.cli.command import Group, agreed, yes_option
from vllm_hosts.cli.common import identity_option, inventory_argument, name_left, only, opened
from vllm_hosts.connect.connections import Connections, ask_host, carry_out
from vllm_hosts.connect.lock import Purpose, holding
from vllm_hosts.errors import HostError, SettingsError
from vllm_hosts.facts.mark import HostMark
from vllm_hosts.keys import KeyStore
from vllm_hosts.keys.hosts import released
from vllm_hosts.keys.ownership import Claim
from vllm_hosts.keys.places import pyinfra_line
from vllm_hosts.keys.store_content import Content, DeployedHost
from vllm_hosts.keys.store_marks import Marked, Whose
from vllm_hosts.keys.store_marks import inventory_of as inventory_named
from vllm_hosts.operations.tree import change
from vllm_hosts.project.loaded import Project
from vllm_hosts.project.site import held_for
from vllm_hosts.text import clean

host_argument = click.argument("host")


@click.group(cls=Group, problems="Nothing was changed:")
def hosts() -> None:
    """List, adopt and release hosts that hold an inventory's keys."""


@hosts.command("list", problems="The hosts cannot be listed:")
@inventory_argument
@click.option("--json", "as_json", is_flag=True, help="Print JSON, a list of objects.")
@identity_option
def list_hosts(inventory: Path, as_json: bool, identity: Path | None) -> None:
    """List the hosts that hold this inventory's keys, and their logins.

    Example: vllm-hosts hosts list inventory/prod.py
    """
    project = opened(inventory, identity)
    content = project.store.read()
    listed = set(project.hosts)
    names = [*project.hosts, *project.left(content)]
    found = [_shown(name, content, name in listed) for name in names]
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    for entry in found:
        click.secho(clean(entry["host"]), bold=True, nl=False)
        click.echo(f"  {_state(entry)}, {_way(content.hosts.get(str(entry['host'])))}")


def _shown(name: str, content: Content, listed: bool) -> dict[str, object]:
    way = content.hosts.get(name)
    return {
        "host": name,
        "in_inventory": listed,
        "has_keys": way is not None or name in content.internal,
        "reached_by": dict(way.data) if way else None,
        "agents": list(way.agents) if way else None,
    }


def _state(entry: Mapping[str, object]) -> str:
    if not entry["in_inventory"]:
        return "no longer in the inventory"
    return "deployed" if entry["has_keys"] else "not deployed yet"


def _way(way: DeployedHost | None) -> str:
    if way is None:
        return "its login is not recorded"
    said = [f"{name} {value}" for name, value in sorted(way.data.items())]
    return clean(f"reached with {', '.join(said)}") if said else "reached by its name"


@hosts.command()
@inventory_argument
@host_argument
@yes_option
@identity_option
def adopt(inventory: Path, host: str, yes: bool, identity: Path | None) -> None:
    """Take over a host that belongs to another inventory's store.

    The next deploy gives it this store's keys and a certificate from its CA. Every client of the
    host then needs a new key and the new CA.

    Example: vllm-hosts hosts adopt inventory/staging.py gpu1.example.com
    """
    project = opened(inventory, identity)
    claim = _claim(project, host)
    connections = Connections(project.inventory)
    try:
        found = connections.at(host, partial(ask_host, HostMark, directory=claim.directory))
        judged = claim.judge(found)
        if judged is Whose.OURS and found.is_right(claim.mark):
            click.echo(f"{host} already belongs to {inventory}")
            return
        if judged is Whose.NOBODYS:
            click.echo(f"{host} belongs to no inventory; deploy to it: {_deploy(inventory, host)}")
            return
        if judged is not Whose.OURS:
            _ask(host, inventory, found, yes)
        claim.keep()
        connections.at(host, partial(_take_over, claim, held_for("hosts adopt", inventory)))
    except HostError as error:
        raise SettingsError([f"{host}: {error}"]) from error
    click.echo(f"{host} now belongs to {inventory}. To replace its keys and certificate, run")
    click.echo(f"  {_deploy(inventory, host)}")
    click.echo("Remove it from the inventory that had it, and from that inventory's store with")
    click.echo(f"  vllm-hosts hosts release INVENTORY {quote(host)}")


def _take_over(claim: Claim, purpose: Purpose) -> None:
    with holding(purpose, "takeover of the host"):
        carry_out([change([claim.file])])


def _claim(project: Project, host: str) -> Claim:
    only(project, [host])
    project.opened.make_key(host)
    return project.claim(host)


def _ask(host: str, inventory: Path, found: Marked, yes: bool) -> None:
    name = inventory_named(found)
    whose = f"the inventory {clean(name)!r}" if name else "another inventory"
    click.echo(
        f"{host} has the keys and the CA of {whose}. Once {inventory} is deployed to it, its"
        " clients are refused until each has a new key and the new CA, and its agents restart.",
        err=True,
    )
    agreed("Take it over?", yes=yes)


def _deploy(inventory: Path, host: str) -> str:
    return pyinfra_line(inventory, options=f"--limit {quote(host)}")


@hosts.command()
@inventory_argument
@host_argument
@identity_option
def release(inventory: Path, host: str, identity: Path | None) -> None:
    """Forget a host that was removed from the inventory.

    Nothing changes on the host: its edge keeps accepting the keys that it has.

    Example: vllm-hosts hosts release inventory/prod.py gpu2.example.com
    """
    store = KeyStore(inventory, identity)
    project = Project.load(inventory, store)
    if host in project.hosts:
        raise SettingsError(
            [
                f"{host} is in {inventory}, and its next deploy would record it again; remove it"
                " there first"
            ]
        )
    try:
        content = store.read()
        known = sorted({*content.hosts, *content.internal})
        if host not in known:
            there = ", ".join(known) or "none yet"
            raise click.UsageError(f"the store has no host {host!r}; it has {there}")
        store.update(partial(released, name=host))
    finally:
        # Afterwards, so that nobody is told to release what is being released.
        name_left(project)
    click.echo(f"{host} is released: keys.py no longer reaches it")
    click.echo("Its edge keeps accepting the keys that it has. To stop that, run there:")
    click.echo("  systemctl disable --now nginx")
