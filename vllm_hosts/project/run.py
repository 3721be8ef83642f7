"""Between pyinfra and the roles: validation before anything connects, and what a role asks for."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import click
from pyinfra.api.exceptions import PyinfraError
from pyinfra.api.host import Host
from pyinfra.api.inventory import Inventory
from pyinfra.api.state import State
from pyinfra.context import ctx_config, ctx_host, ctx_state

from vllm_hosts.connect import pyinfra_output, sudo
from vllm_hosts.connect.lock import Purpose
from vllm_hosts.connect.reach import Reaching
from vllm_hosts.errors import SettingsError
from vllm_hosts.host.marks import DEPLOY_SINCE, deploy_mark
from vllm_hosts.keys import ClientKey, HostKeys, KeyStore, OpenedStore
from vllm_hosts.keys.beside import shown
from vllm_hosts.keys.ownership import Claim
from vllm_hosts.keys.pki import utc_now
from vllm_hosts.keys.places import client_ca_file
from vllm_hosts.operations import one_by_one
from vllm_hosts.operations.locked import Releasing
from vllm_hosts.operations.one_by_one import Serving
from vllm_hosts.project import deploy_output, ending, left_behind, outlook, pyinfra_command
from vllm_hosts.project.inventory import (
    LEFT,
    deployed,
    load_problem,
    require_hosts,
    validate,
)
from vllm_hosts.project.site import belongs_to, held_for, import_from
from vllm_hosts.settings import HostSettings


@dataclass(frozen=True)
class Current:
    """What a role needs to know of the current host."""

    settings: HostSettings
    keys: HostKeys
    store: OpenedStore

    @property
    def serving(self) -> Serving:
        """What other hosts of the run may serve as well."""
        settings = self.settings
        return Serving(
            {agent.name: agent.client_model_name for agent in settings.agents},
            settings.vllm.directory,
            settings.vllm.health_timeout,
            settings.vllm.change_together,
        )

    @property
    def ca_file(self) -> str | None:
        """The CA that signed the edge's certificate; None: one that everybody knows."""
        return client_ca_file(self.settings, self.store.folder)


@dataclass(frozen=True)
class AtHand:
    """What is known of a host that need not be in the inventory any more.

    :param listed: whether it is.
    """

    claim: Claim
    clients: tuple[ClientKey, ...]
    listed: bool

    @property
    def agents(self) -> tuple[str, ...]:
        """Names of the agents that the host has."""
        return self.claim.way.agents


@dataclass
class _Run:
    inventory: Path
    #: Nothing will be executed.
    dry: bool
    #: Whether a command of ours runs it: that one writes nothing, and has named who was taken out.
    ours: bool
    #: It is about keys alone, and so for hosts that were taken out as well.
    keys_only: bool = False
    opened: OpenedStore | None = None
    settings: dict[str, HostSettings] | None = None
    #: Hosts that this run is for, once their settings are known to be valid.
    chosen: tuple[Host, ...] = ()


_run: _Run | None = None


def install(inventory_file: Path | None = None) -> None:
    """Have everything validated before the first connection. Called by ``config.py``.

    pyinfra loads ``config.py`` before the inventory, and has no other place for this.

    :param inventory_file: where no pyinfra command says it.
    :raises SystemExit: an option with which failures would go unnoticed.
    """
    global _run
    pyinfra_output.install()
    context = click.get_current_context(silent=True)
    options = pyinfra_command.options()
    pyinfra_command.check_options(options)
    pyinfra_command.ask_somebody()
    named = inventory_file or options.get("inventory")
    if named is None:
        pyinfra_command.misused(
            "the inventory's file is not known; run pyinfra INVENTORY deploy.py"
        )
    _run = _Run(
        Path(named),
        dry=bool(options.get("dry")),
        ours=inventory_file is not None,
        keys_only=pyinfra_command.only_keys(options.get("operations") or ()),
    )
    one_by_one.begin()
    if not _run.ours:
        pyinfra_command.check_site(options, _run.inventory)
        outlook.install(dry=_run.dry)
    _host_run.cache_clear()
    if context and not options.get("dry") and "operations" in options:
        # Of pyinfra's own command alone: what only looks is no deploy. config.ENV would be lost:
        # pyinfra copies the configuration for each file that it runs, without that.
        config = ctx_config.get()
        os.environ[DEPLOY_SINCE] = deploy_mark(utc_now())
        config.INHERIT_ENV = (*config.INHERIT_ENV, DEPLOY_SINCE)
    state = ctx_state.get()
    if _run.inventory.is_file():
        # pyinfra looks there for group data and for SSH keys with relative names.
        state.cwd = import_from(_run.inventory)
    state.init = partial(_initialise, _run, state, state.init)
    if context and not _run.ours:
        _load_our_way()
    run = _run
    if context and not run.ours:
        ending.listen()
    if context and not (run.ours or run.dry or run.keys_only):
        file = " ".join(Path(str(name)).name for name in options.get("operations") or ())
        context.call_on_close(
            lambda: ending.say_how_to_retry(lambda: run.chosen, state, run.inventory, file)
        )
    if context and run.keys_only and not run.dry:
        context.call_on_close(
            lambda: pyinfra_command.say_who_has_old_keys(run.chosen, state, run.inventory)
        )


def _load_our_way() -> None:
    """Have pyinfra's inventory hold the hosts that were taken out of it, where a run is for them as
    well: before --limit is read. A file that cannot be loaded is one sentence."""
    cli = sys.modules.get("pyinfra_cli.cli")
    make = getattr(cli, "make_inventory", None)
    if cli is None or make is None or getattr(make, "is_ours", False):
        return

    def made(*args: object, **kwargs: object) -> Inventory:
        assert _run is not None
        with _refused():
            try:
                inventory: Inventory = make(*args, **kwargs)
            except Exception as error:
                raise SettingsError([load_problem(_run.inventory, error)]) from error
            belongs_to(inventory, _run.inventory)
            if _run.keys_only and (content := KeyStore(_run.inventory).peek()) is not None:
                left_behind.join(inventory, content)
        return inventory

    made.is_ours = True  # type: ignore[attr-defined]
    cli.make_inventory = made  # type: ignore[attr-defined]


@contextmanager
def _refused() -> Iterator[None]:
    """Ends the run with every problem, before anything connects."""
    try:
        yield
    except SettingsError as error:
        click.secho("--> The settings cannot be deployed:", fg="red", bold=True, err=True)
        for problem in error.problems:
            click.echo(f"    - {problem}", err=True)
        click.echo("    No host was changed.", err=True)
        raise SystemExit(ending.BAD_INPUT) from None


def _initialise(
    run: _Run,
    state: State,
    initialise: Callable[..., None],
    inventory: Inventory,
    *args: object,
    initial_limit: Sequence[Host] | None = None,
    **kwargs: object,
) -> None:
    """In the place of ``state.init``: the one step between loading an inventory and connecting."""
    with _refused():
        if not inventory.groups.get(LEFT):
            require_hosts(run.inventory, inventory)
    if not run.ours:
        pyinfra_command.check_limit(pyinfra_command.options(), inventory, run.inventory)
    chosen = [
        host
        for host in (*deployed(inventory), *inventory.groups.get(LEFT, ()))
        if initial_limit is None or host in initial_limit
    ]
    if not run.ours:
        pyinfra_command.check_chosen(chosen)
    initialise(inventory, *args, initial_limit=chosen, **kwargs)
    # Typed for --same-sudo-password: pyinfra would put it into arguments on hosts.
    sudo.take(state.config.SUDO_PASSWORD)
    state.config.SUDO_PASSWORD = None
    with _refused():
        run.settings = validate(inventory)
        _open_secrets(run, inventory)
        run.chosen = tuple(chosen)
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


def _open_secrets(run: _Run, inventory: Inventory) -> None:
    """Read every key and the CA now, or make them in memory: what is wrong with them stops no run
    half way."""
    assert run.settings is not None
    run.opened = OpenedStore(KeyStore(run.inventory))
    for name in run.settings:
        _host_run(name)
    if any(settings.tls.mode == "local-ca" for settings in run.settings.values()):
        run.opened.local_ca()
    if run.opened.new:
        who = "a deploy" if run.dry or run.ours else "this run"
        where = shown(run.opened.folder)
        click.echo(f"--> There is no key store yet; {who} creates one in {where}", err=True)
    elif not (run.dry or run.ours):
        run.opened.store.authority.settle()
    left = left_behind.of(run.opened.content, inventory)
    if left and not run.ours:
        said = left_behind.sentence(left, run.opened.content, run.inventory)
        click.secho(f"--> {said}", fg="yellow", err=True)


def _validated() -> tuple[_Run, OpenedStore, dict[str, HostSettings]]:
    if _run is None or _run.settings is None or _run.opened is None:
        raise PyinfraError(pyinfra_command.without_config())
    return _run, _run.opened, _run.settings


def current() -> Current:
    """Settings and secrets of the host that pyinfra is at.

    :raises PyinfraError: ``config.py`` was not loaded, as when run from another folder.
    """
    _validated()
    return _host_run(ctx_host.get().name)


def purpose() -> Purpose:
    """What hosts are held for by this run, as others there read it."""
    run, _, _ = _validated()
    what = "keys.py" if run.keys_only else "deploy.py"
    return held_for(what, run.inventory)


@cache
def _host_run(name: str) -> Current:
    _, opened, settings = _validated()
    return Current(settings[name], opened.host_keys(settings[name]), opened)


def at_hand() -> AtHand:
    """What is known of the host that pyinfra is at, also where only the store remembers it.

    :raises PyinfraError: as ``current``.
    """
    run, opened, all_settings = _validated()
    host = ctx_host.get()
    settings = all_settings.get(host.name)
    if settings is None:
        way = opened.content.hosts[host.name]
        return AtHand(
            Claim(host.name, run.inventory, opened, way), opened.client_keys(host.name), False
        )
    claim = claim_on(host, settings, run.inventory, opened)
    return AtHand(claim, _host_run(host.name).keys.clients, True)


def claim_on(host: Host, settings: HostSettings, inventory: Path, opened: OpenedStore) -> Claim:
    """An inventory's claim on a host that is in it."""
    given = settings.secrets
    return Claim(
        host.name,
        inventory,
        opened,
        left_behind.way_to(host, [agent.name for agent in settings.agents]),
        settings.vllm.directory,
        given.internal_key_env is None and given.internal_key_command is None,
    )
