"""What commands share that are about an inventory."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path

import click

from vllm_hosts.connect import pyinfra_output, pyinfra_speed
from vllm_hosts.errors import HostError, SettingsError
from vllm_hosts.keys import KeyStore
from vllm_hosts.project import left_behind
from vllm_hosts.project.inventory import require_file
from vllm_hosts.project.loaded import Project
from vllm_hosts.settings import HostSettings


def _there(context: click.Context, _: click.Parameter, path: Path) -> Path:
    if not context.resilient_parsing:
        try:
            require_file(path)
        except SettingsError as error:
            raise click.UsageError(str(error)) from error
    return path


inventory_argument = click.argument(
    "inventory", type=click.Path(path_type=Path), metavar="INVENTORY", callback=_there
)
identity_option = click.option(
    "--identity",
    type=click.Path(path_type=Path),
    help="age or SSH identity that decrypts the keys.",
)


def opened(inventory: Path, identity: Path | None = None) -> Project:
    """Load a project: the first line of every command that needs one. Hosts that were taken out of
    it are named.

    :raises SettingsError: as ``Project.load``.
    """
    return opened_with(KeyStore(inventory, identity), inventory)


def opened_with(store: KeyStore, inventory: Path) -> Project:
    """The same, for a command that had to do with the store before: what is done there must not
    depend on whether the inventory can be loaded.

    :raises SettingsError: as ``Project.load``.
    """
    pyinfra_output.install()
    pyinfra_speed.install()
    project = Project.load(inventory, store)
    name_left(project)
    return project


def name_those_left_behind(store: KeyStore, inventory: Path) -> None:
    """For what can be done without an inventory that loads."""
    with suppress(SettingsError):
        opened_with(store, inventory)


def name_left(project: Project) -> None:
    """Name the hosts that were taken out of an inventory: once in a command."""
    context = click.get_current_context(silent=True)
    if context is None or _SAID in context.meta:
        return
    context.meta[_SAID] = True
    try:
        content = project.store.peek()
    except SettingsError:
        # Whoever needs the store says what is wrong with it.
        return
    if content and (left := project.left(content)):
        said = left_behind.sentence(left, content, project.file)
        click.secho(said, fg="yellow", err=True)


_SAID = "vllm_hosts.project.left_behind"


def only(project: Project, hosts: Collection[str]) -> dict[str, HostSettings]:
    """The hosts that ``--host`` names, in the inventory's order; all of them where it names none.

    :raises SettingsError: the settings cannot be deployed.
    :raises click.UsageError: one of them is not in the inventory.
    """
    known = project.settings
    if unknown := [name for name in hosts if name not in known]:
        raise click.UsageError(
            f"{project.file} has no host {', '.join(unknown)}; it has {', '.join(known)}"
        )
    return {name: one for name, one in known.items() if not hosts or name in hosts}


def with_agents(chosen: Mapping[str, HostSettings]) -> dict[str, HostSettings]:
    """Without gateways, which run no agents.

    :raises click.UsageError: only gateways were chosen.
    """
    found = {name: one for name, one in chosen.items() if one.runs_agents}
    if not found:
        raise click.UsageError(
            f"{', '.join(chosen)} is a gateway and runs no agents; name one of the hosts behind it"
        )
    return found


def say_errors(found: Mapping[str, object]) -> bool:
    """One sentence for each host that failed; whether there was one."""
    failed = {host: seen for host, seen in found.items() if isinstance(seen, HostError)}
    for host, error in failed.items():
        click.secho(f"{host}: {error}", fg="red", err=True)
    return bool(failed)
