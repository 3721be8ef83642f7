"""A group whose commands are imported when they are asked for."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Collection, Mapping
from importlib import import_module
from typing import Any

import click
from click.shell_completion import CompletionItem

from vllm_hosts.cli.command import Group


class _Files(UserDict[str, click.Command]):
    """Commands by name; each is a file beside this one, of the same name.

    :param alone: those that have nothing to do with hosts.
    """

    def __init__(self, names: Collection[str], alone: Collection[str]) -> None:
        super().__init__()
        self.data = dict.fromkeys(names)  # type: ignore[assignment]
        self._alone = alone

    def __getitem__(self, name: str) -> click.Command:
        if name not in self.data:
            raise KeyError(name)
        if name not in self._alone:
            # It replaces the socket module by gevent's: before anybody uses ssl.
            import_module("pyinfra_cli")
        found: click.Command = getattr(import_module(f"vllm_hosts.cli.{name}"), name)
        return found


class LazyGroup(Group):
    """Nobody waits for what another command imports, nor for any of it to see the list.

    pyinfra and what it brings take most of the time of a command that does little.

    :param summaries: by name, the first line of the command's help, which a test compares.
    :param alone: commands that have nothing to do with hosts, and need no pyinfra.
    """

    def __init__(
        self,
        *args: Any,
        summaries: Mapping[str, str] | None = None,
        alone: Collection[str] = (),
        **kwargs: Any,
    ) -> None:
        self.summaries = dict(sorted((summaries or {}).items()))
        super().__init__(*args, commands=_Files(self.summaries, alone), **kwargs)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([*self.summaries.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        found = [
            CompletionItem(name, help=summary)
            for name, summary in self.summaries.items()
            if name.startswith(incomplete)
        ]
        # Not the group's own, which would import all of them.
        return [*found, *click.Command.shell_complete(self, ctx, incomplete)]
