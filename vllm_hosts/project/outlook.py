"""What pyinfra shows before it does anything: refused hosts, and the effects of the changes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import click
from pyinfra.api.state import State

from vllm_hosts.operations.foreseen import Changing, Foreseen, Outlook, begin, was_refused
from vllm_hosts.operations.one_by_one import in_turn
from vllm_hosts.text import clean


def install(*, dry: bool) -> None:
    """Put it in, where this is pyinfra's own command."""
    cli: Any = sys.modules.get("pyinfra_cli.cli")
    if cli is None:
        return
    outlook = begin(dry=dry)
    _wrap(cli, "print_meta", lambda show: lambda state: _shown(outlook, state, show))
    _wrap(cli, "print_run_json", lambda show: lambda state, dry: _json(outlook, state, dry, show))
    _wrap(cli, "print_results", lambda show: lambda state: _results(state, show))


def _wrap(module: Any, name: str, around: Callable[[Callable[..., None]], Any]) -> None:
    """A run in the same process before this one leaves nothing behind."""
    original = getattr(getattr(module, name), "original", getattr(module, name))
    wrapper = around(original)
    wrapper.original = original
    setattr(module, name, wrapper)


def _shown(outlook: Outlook, state: State, show: Callable[[State], None]) -> None:
    _settle(outlook, state)
    show(state)
    _say(outlook, state)
    if state.activated_hosts and not state.active_hosts and not outlook.dry:
        click.secho("--> Every host was refused; no host was changed.", fg="red", err=True)
        raise SystemExit(1)


def _json(outlook: Outlook, state: State, dry: bool, show: Callable[[State, bool], None]) -> None:
    if dry:
        _settle(outlook, state)
        _say(outlook, state)
    show(state, dry)


def _results(state: State, show: Callable[[State], None]) -> None:
    show(state)
    if refused := [host.name for host in state.inventory if was_refused(host.name)]:
        click.secho(
            f"--> Refused before the run, and unchanged: {', '.join(refused)}",
            fg="red",
            bold=True,
            err=True,
        )


def _settle(outlook: Outlook, state: State) -> None:
    """Take refused hosts out of the run, and mark what is decided while it runs."""
    for host in list(state.activated_hosts):
        foreseen = outlook.hosts.get(host.name, Foreseen())
        if foreseen.refused:
            # Not `fail_hosts`, which asks whether to continue, and ends the run where none is left.
            state.failed_hosts.add(host)
            state.active_hosts.discard(host)
            state.ops[host] = {}
        for operation in foreseen.conditional & state.ops[host].keys():
            data = state.ops[host][operation]
            # Where there is a condition, pyinfra's table counts a change as a conditional one.
            if not data.global_arguments["_if"]:
                data.global_arguments["_if"] = [lambda: True]


def _say(outlook: Outlook, state: State) -> None:
    names = [host.name for host in state.inventory if host in state.activated_hosts]
    hosts = {name: outlook.hosts.get(name, Foreseen()) for name in names}
    refused = {name: host for name, host in hosts.items() if host.refused}
    others = {name: host for name, host in hosts.items() if not host.refused}
    if others:
        click.echo(err=True)
        click.echo("--> Effects of the changes:", err=True)
        for line in effects(others):
            click.echo(f"    {line}", err=True)
    for name, host in refused.items():
        click.secho(
            f"--> {name} is refused, and will not be deployed to:", fg="red", bold=True, err=True
        )
        for problem in host.refused:
            click.echo(f"    - {clean(problem)}", err=True)


def effects(hosts: Mapping[str, Foreseen]) -> Iterator[str]:
    """A line for everything that clients could notice, host by host."""
    ahead = waits({name: host.changing for name, host in hosts.items() if host.changing})
    for name, host in hosts.items():
        lines = [
            *host.effects,
            *(f"cannot be determined before the run: {one}" for one in host.unknown),
        ]
        for line in lines or ["nothing is restarted, recreated or reloaded"]:
            yield f"{name}: {line}"
        if others := ahead.get(name):
            yield f"{name}: its agents change after those of {', '.join(others)}: same model"


def waits(changing: Mapping[str, Changing]) -> dict[str, Sequence[str]]:
    """By host, those whose agents change before its own do."""
    return in_turn(
        {name: (one.models, one.serving) for name, one in changing.items() if not one.together},
        {model for one in changing.values() for model in one.serving},
        {name: one.at_once for name, one in changing.items()},
    )
