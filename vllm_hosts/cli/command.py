"""What all commands of `vllm-hosts` are made of. Imports nothing that knows a host."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from datetime import timedelta
from enum import IntEnum
from errno import EPIPE
from pathlib import Path
from typing import Any

import click

from vllm_hosts.errors import SettingsError


class Exit(IntEnum):
    """How every command ends. docs/commands.md has the same words."""

    OK = (0, "All is well.")
    WRONG = (1, "Something is wrong, or could not be checked.")
    MISUSE = (2, "The command was misused: an unknown option, inventory, host or agent.")
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


class Command(click.Command):
    """Ends with one sentence for each problem that it finds, and exit code 1.

    :param problems: the line above them; None: that of its group, or of the group above.
    """

    def __init__(self, *args: Any, problems: str | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.problems = problems

    def invoke(self, ctx: click.Context) -> Any:
        _require_folder()
        try:
            return super().invoke(ctx)
        except SettingsError as error:
            click.secho(_heading(ctx), fg="red", bold=True, err=True)
            for problem in error.problems:
                click.echo(f"  - {problem}", err=True)
            sys.exit(Exit.WRONG)
        except OSError as error:
            # Without a name it is no file's, and a pipe's end is click's to tell.
            if not error.filename or error.errno == EPIPE:
                raise
            click.secho(f"{error.filename} cannot be used: {error.strerror}", fg="red", err=True)
            sys.exit(Exit.WRONG)


def _require_folder() -> None:
    """Paths are found from the current folder.

    :raises click.ClickException: it has been removed.
    """
    try:
        Path.cwd()
    except FileNotFoundError as error:
        raise click.ClickException(
            "the current folder has been removed; change to another one"
        ) from error


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


def show_lines(lines: Iterable[str], *, err: bool = False) -> None:
    """The lines of a difference, below what they are about."""
    for line in lines:
        colour = {"-": "red", "+": "green"}.get(line[:1])
        click.secho(f"      {line}", fg=colour, err=err)


#: A hundred years: what ends later has no date.
_LONGEST = timedelta(days=36500)
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
        found = timedelta(**{_UNITS[match[2]]: int(match[1])})
        if found > _LONGEST:
            self.fail(f"{value!r} is more than {_LONGEST.days} days; write less", param, ctx)
        return found


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
