"""Writes docs/commands.md from the command line itself.

python -m vllm_hosts.cli.commands_docs
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from textwrap import fill

import click

from vllm_hosts.cli.command import Exit
from vllm_hosts.cli.main import main as program

_FILE = Path(__file__).resolve().parents[2] / "docs" / "commands.md"
_NAME = "vllm-hosts"
_WIDTH = 120
_HEAD = """\
# Commands

What `vllm-hosts` does besides `pyinfra INVENTORY deploy.py`. `vllm-hosts COMMAND --help` prints
the same.

This file is generated from the command line: `python -m vllm_hosts.cli.commands_docs`.

## Exit codes

The same for every command:

| code | meaning |
|---|---|
"""
_DEPLOY = """\

`pyinfra INVENTORY deploy.py`, `keys.py`, `rollback.py` and `remove.py` have codes of their own:
[reliability.md](reliability.md#exit-codes-of-pyinfra).
"""


def commands_md() -> str:
    """The text of docs/commands.md."""
    codes = "".join(f"| {code.value} | {code.meaning} |\n" for code in Exit)
    return "\n".join([_HEAD + codes + _DEPLOY, *_sections(program, _NAME)])


def every_command(command: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    """A command and all below it, by what is typed."""
    yield name, command
    if isinstance(command, click.Group):
        for below in sorted(command.commands):
            yield from every_command(command.commands[below], f"{name} {below}")


def _sections(command: click.Command, name: str) -> Iterator[str]:
    for typed, one in every_command(command, name):
        if one is not command:
            yield _section(one, typed)


def _section(command: click.Command, name: str) -> str:
    context = click.Context(command, info_name=name)
    usage = " ".join([*_typed(name), *command.collect_usage_pieces(context)])
    parts = [f"## `{name}`", *_paragraphs(command), f"    {usage}"]
    if options := list(_options(command, context)):
        parts.append("\n".join(["| option | meaning |", "|---|---|", *options]))
    return "\n\n".join(parts) + "\n"


def _typed(name: str) -> Iterator[str]:
    """What stands before a command's own arguments: groups have some too, such as an inventory."""
    first, *below = name.split()
    yield first
    command: click.Command = program
    for word in below:
        assert isinstance(command, click.Group)
        context = click.Context(command)
        arguments = [one for one in command.params if isinstance(one, click.Argument)]
        yield from (piece for one in arguments for piece in one.get_usage_pieces(context))
        command = command.commands[word]
        yield word


def _paragraphs(command: click.Command) -> Iterator[str]:
    for paragraph in inspect.cleandoc(command.help or "").split("\n\n"):
        text = " ".join(paragraph.split())
        label, _, example = text.partition(": ")
        yield f"Example: `{example}`" if label == "Example" else fill(text, _WIDTH)


def _options(command: click.Command, context: click.Context) -> Iterator[str]:
    for option in command.params:
        record = option.get_help_record(context) if isinstance(option, click.Option) else None
        if record is not None:
            spelt, meaning = (part.replace("|", "\\|") for part in record)
            yield f"| `{spelt}` | {' '.join(meaning.split())} |"


def main() -> None:
    """Write the file."""
    _FILE.write_text(commands_md())


if __name__ == "__main__":
    main()
