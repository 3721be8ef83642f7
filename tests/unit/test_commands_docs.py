"""docs/commands.md says what the command line says, and --help reads well in 80 columns."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from vllm_hosts.cli.command import Exit
from vllm_hosts.cli.commands_docs import commands_md, every_command
from vllm_hosts.cli.main import main

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = dict(every_command(main, "vllm-hosts"))
GROUPS = [name for name, command in COMMANDS.items() if isinstance(command, click.Group)]


def test_commands_md_is_made_from_the_command_line() -> None:
    again = "out of date; run: python -m vllm_hosts.cli.commands_docs"
    assert (ROOT / "docs" / "commands.md").read_text() == commands_md(), again


def test_commands_md_has_every_command() -> None:
    assert {"vllm-hosts keys recipients add", "vllm-hosts drift"} <= set(COMMANDS)
    for name in [*COMMANDS][1:]:
        assert f"## `{name}`\n" in commands_md()


@pytest.mark.parametrize("name", GROUPS)
def test_no_summary_is_cut_off(name: str) -> None:
    command = COMMANDS[name]
    context = click.Context(command, info_name=name, terminal_width=80)
    _, _, listed = command.get_help(context).partition("\nCommands:\n")
    assert listed
    assert [line for line in listed.splitlines() if line.endswith("...")] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_is_described(name: str) -> None:
    assert COMMANDS[name].help
    for option in COMMANDS[name].params:
        assert not isinstance(option, click.Option) or option.help, option.name


def test_exit_codes_mean_one_thing() -> None:
    assert {code.name: code.value for code in Exit} == {
        "OK": 0,
        "WRONG": 1,
        "MISUSE": 2,
        "DIFFERS": 3,
    }


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_that_documents_exit_codes_documents_no_code_of_misuse(name: str) -> None:
    """2 is the same everywhere, and no answer."""
    text = " ".join((COMMANDS[name].help or "").split())
    _, _, codes = text.partition("Exit codes: ")
    assert " 2 " not in codes.partition(". ")[0]
