"""What is done between pyinfra and a run: everything is validated before the first connection."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click
from pyinfra.api.config import Config
from pyinfra.api.host import Host
from pyinfra.api.inventory import Inventory
from pyinfra.api.state import State

from vllm_hosts.connect import pyinfra_speed, sudo
from vllm_hosts.connect.reach import Reaching
from vllm_hosts.errors import SettingsError
from vllm_hosts.facts import ahead, asked
from vllm_hosts.keys import KeyStore
from vllm_hosts.keys.beside import shown
from vllm_hosts.keys.hosts import nowhere
from vllm_hosts.operations import one_by_one
from vllm_hosts.operations.locked import Releasing
from vllm_hosts.project import deploy_output, ending, left_behind, pyinfra_command
from vllm_hosts.project.inventory import LEFT, deployed, load_problem, require_hosts
from vllm_hosts.project.loaded import Project
from vllm_hosts.project.site import belongs_to, commit_of


@dataclass
class Run:
    """A run of pyinfra's, or of a command of ours that prepares one to see what it would do.

    :param dry: nothing will be executed.
    :param ours: a command of ours runs it: that one writes nothing, and has named who was taken
        out.
    :param keys_only: it is about keys alone, and so for hosts that were taken out as well.
    :param removal: it takes away what others have put there.
    :param what: the file that it runs. Asked once: greenlets that change hosts do not see what was
        typed.
    :param project: known once the inventory is loaded.
    :param chosen: hosts that it is for, once their settings are known to be valid.
    """

    file: Path
    dry: bool
    ours: bool
    keys_only: bool = False
    removal: bool = False
    what: str = "deploy.py"
    project: Project | None = None
    chosen: tuple[Host, ...] = ()

    def loaded(self, inventory: Inventory) -> Project:
        """The project, with the inventory that pyinfra has loaded."""
        if self.project is None or self.project.inventory is not inventory:
            belongs_to(inventory, self.file)
            self.project = Project(self.file, inventory, KeyStore(self.file))
        return self.project


def load_our_way(run: Run) -> None:
    """Have pyinfra's inventory hold the hosts that were taken out of it, where a run is for them as
    well: before --limit is read. A file that cannot be loaded is one sentence."""
    cli = sys.modules.get("pyinfra_cli.cli")
    make = getattr(cli, "make_inventory", None)
    if cli is None or make is None:
        return
    # A run in the same process before this one leaves nothing behind.
    make = getattr(make, "original", make)

    def made(*args: object, **kwargs: object) -> Inventory:
        with refused():
            try:
                inventory: Inventory = make(*args, **kwargs)
            except ending.StoppedError:
                raise
            except (Exception, SystemExit) as error:
                raise SettingsError([load_problem(run.file, error)]) from error
            store = run.loaded(inventory).store
            if run.keys_only and (content := store.peek()) is not None:
                left_behind.join(inventory, content)
        return inventory

    made.original = make  # type: ignore[attr-defined]
    cli.make_inventory = made  # type: ignore[attr-defined]


@contextmanager
def refused() -> Iterator[None]:
    """Ends the run with every problem, before anything connects."""
    try:
        yield
    except SettingsError as error:
        click.secho("--> The settings cannot be deployed:", fg="red", bold=True, err=True)
        for problem in error.problems:
            click.echo(f"    - {problem}", err=True)
        click.echo("    No host was changed.", err=True)
        raise SystemExit(ending.BAD_INPUT) from None


def initialise(
    run: Run,
    state: State,
    original: Callable[..., None],
    inventory: Inventory,
    config: Config,
    *args: object,
    initial_limit: Sequence[Host] | None = None,
    **kwargs: object,
) -> None:
    """In the place of ``state.init``: the one step between loading an inventory and connecting."""
    with refused():
        if not inventory.groups.get(LEFT):
            require_hosts(run.file, inventory)
    if not run.ours:
        pyinfra_command.check_limit(pyinfra_command.options(), inventory, run.file)
    limit = None if initial_limit is None else set(initial_limit)
    chosen = [
        host
        for host in (*deployed(inventory), *inventory.groups.get(LEFT, ()))
        if limit is None or host in limit
    ]
    if not run.ours:
        pyinfra_command.check_chosen(chosen)
    pyinfra_speed.at_once(config, len(chosen))
    pyinfra_speed.many_connections()
    original(inventory, config, *args, initial_limit=chosen, **kwargs)
    # Typed for --same-sudo-password: pyinfra would put it into arguments on hosts.
    sudo.take(state.config.SUDO_PASSWORD)
    state.config.SUDO_PASSWORD = None
    with refused():
        _open_secrets(run, run.loaded(inventory))
        run.chosen = tuple(chosen)
    assert run.project is not None
    if not (run.dry or run.ours):
        # Asked once for all hosts, which would ask git side by side.
        commit_of(run.file)
    ahead.begin(run.project.opened.folder / asked.FILE, run.what)
    state.add_callback_handler(Reaching())
    deploy_output.install(state)
    state.add_callback_handler(one_by_one.Ending())
    state.add_callback_handler(Releasing())
    if run.dry:
        # There is nothing to ask: a host that cannot be reached is named, the others continue.
        state.should_raise_failed_hosts = _go_on


def _go_on(state: State) -> bool:
    """In the place of pyinfra's question."""
    return False


def _open_secrets(run: Run, project: Project) -> None:
    """Validate the settings, and read every key and the CA now, or make them in memory: what is
    wrong with them stops no run half way."""
    opened = project.opened
    modes = {project.settings[name].tls.mode for name in project.keys}
    if "local-ca" in modes or project.gateways:
        opened.local_ca()
    if opened.new:
        who = "a deploy" if run.dry or run.ours else "this run"
        where = shown(opened.folder)
        click.echo(f"--> There is no key store yet; {who} creates one in {where}", err=True)
    elif not (run.dry or run.ours):
        opened.store.authority.settle()
    for sentence in () if run.ours else nowhere(opened.content, project.gateways):
        click.secho(f"--> {sentence}", fg="yellow", err=True)
    left = project.left(opened.content)
    if left and not run.ours:
        said = left_behind.sentence(left, opened.content, run.file)
        click.secho(f"--> {said}", fg="yellow", err=True)
