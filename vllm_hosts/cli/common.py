"""What all commands of `vllm-hosts` share."""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from datetime import timedelta
from enum import IntEnum
from pathlib import Path
from typing import Any

import click

from vllm_hosts.errors import HostError, SettingsError
from vllm_hosts.keys import KeyStore
from vllm_hosts.project import left_behind
from vllm_hosts.project.loaded import Project
from vllm_hosts.settings import HostSettings


class Exit(IntEnum):
    """How every command ends. docs/commands.md has the same words."""

    OK = (0, "All is well.")
    WRONG = (1, "Something is wrong, or could not be checked.")
    MISUSE = (2, "The command was misused: an unknown option, host or agent.")
    DIFFERS = (
        3,
        "Everything was checked, and the answer is that something differs, is due for renewal or"
        " does not fit.",
    )

    meaning: str

    def __new__(cls, code: int, meaning: str) -> Exit:
        made = int.__new__(cls, code)
        made._value_ = code
        made.meaning = meaning
        return made


inventory_argument = click.argument(
    "inventory", type=click.Path(path_type=Path), metavar="INVENTORY"
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


class Command(click.Command):
    """Ends with one sentence for each problem that it finds, and exit code 1.

    :param problems: the line above them; None: that of its group, or of the group above.
    """

    def __init__(self, *args: Any, problems: str | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.problems = problems

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except SettingsError as error:
            click.secho(_heading(ctx), fg="red", bold=True, err=True)
            for problem in error.problems:
                click.echo(f"  - {problem}", err=True)
            sys.exit(Exit.WRONG)


class Group(click.Group):
    """:param problems: the line above the problems that its commands find."""

    command_class = Command

    def __init__(self, *args: Any, problems: str | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.problems = problems


def _heading(context: click.Context | None) -> str:
    while context is not None:
        command = context.command
        if isinstance(command, (Command, Group)) and command.problems is not None:
            return command.problems
        context = context.parent
    return "The settings cannot be deployed:"


class NobodyAnswersError(click.ClickException):
    """A question where there is no terminal. The command lacks ``-y``, and so is misused."""

    exit_code = Exit.MISUSE

    def __init__(self) -> None:
        super().__init__(
            "confirmation is needed, and there is no terminal to ask on; nothing was changed. Add"
            " -y to go on without being asked"
        )


yes_option = click.option("--yes", "-y", is_flag=True, help="Do not ask for confirmation.")


def agreed(question: str, *, yes: bool) -> None:
    """Continue if somebody confirms.

    :raises click.Abort: somebody says no.
    :raises NobodyAnswersError: there is no terminal.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        click.echo(question, err=True)
        raise NobodyAnswersError
    click.confirm(question, abort=True, err=True)


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


def say_errors(found: Mapping[str, object]) -> bool:
    """One sentence for each host that failed; whether there was one."""
    failed = {host: seen for host, seen in found.items() if isinstance(seen, HostError)}
    for host, error in failed.items():
        click.secho(f"{host}: {error}", fg="red", err=True)
    return bool(failed)


def show_lines(lines: Iterable[str], *, err: bool = False) -> None:
    """The lines of a difference, below what they are about."""
    for line in lines:
        colour = {"-": "red", "+": "green"}.get(line[:1])
        click.secho(f"      {line}", fg=colour, err=err)


_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


class Duration(click.ParamType[timedelta]):
    """A length of time such as ``90m``, ``24h`` or ``30d``; 0 is none."""

    name = "duration"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> timedelta:
        if isinstance(value, timedelta):
            return value
        if value == "0":
            return timedelta()
        match = re.fullmatch(r"([1-9][0-9]{0,5})([smhdw])", str(value))
        if match is None:
            self.fail(f"{value!r} is not a duration; write it as 90m, 24h or 30d", param, ctx)
        return timedelta(**{_UNITS[match[2]]: int(match[1])})


class Names(click.ParamType[tuple[str, ...]]):
    """Names with commas between them."""

    name = "name,name"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        found = tuple(word.strip() for word in str(value).split(",") if word.strip())
        if not found:
            self.fail("name at least one", param, ctx)
        return found
