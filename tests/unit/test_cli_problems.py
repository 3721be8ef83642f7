"""Problems that a command finds: its heading, a sentence for each, and exit code 1."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from vllm_hosts.cli.command import Command, Exit
from vllm_hosts.cli.commands_docs import every_command
from vllm_hosts.cli.main import main
from vllm_hosts.errors import SettingsError

COMMANDS = {
    name: command
    for name, command in every_command(main, "vllm-hosts")
    if not isinstance(command, click.Group)
}
KEYS = "The keys cannot be changed or shown:"
#: By how a command begins, the longest that fits; of all others, the settings cannot be deployed.
HEADINGS = {
    "": "The settings cannot be deployed:",
    "ca": "There is no CA certificate to print:",
    "doctor": "The settings are not valid:",
    "endpoints": "The endpoints cannot be listed:",
    "history": "The history cannot be shown:",
    "hosts": "Nothing was changed:",
    "init": "Nothing was written:",
    "hosts list": "The hosts cannot be listed:",
    "keys": KEYS,
    "keys new-ca": "The CA cannot be replaced:",
    "keys recipients": KEYS,
    "lock": "The locks cannot be shown or released:",
    "plan": "The plan cannot be made:",
    "tls": "The certificates cannot be shown or renewed:",
    "usage": "The usage cannot be shown:",
}


def needed(command: click.Command) -> list[str]:
    """What a command cannot do without, besides an inventory."""
    words = ["--expires", "30d"] if command is COMMANDS["vllm-hosts keys extend"] else []
    return words + [
        "x"
        for parameter in command.params
        if isinstance(parameter, click.Argument) and parameter.required
        if parameter.name != "inventory"
    ]


def typed(name: str, file: str) -> list[str] | None:
    """A command with its inventory; None: it takes none."""
    command = COMMANDS[name]
    below = name.removeprefix("vllm-hosts").split()
    # In `agents` and `tls`, the inventory stands in front of the command.
    group = main.commands[below[0]]
    at = 1 if group.params else len(below)
    if "inventory" not in {parameter.name for parameter in (*group.params, *command.params)}:
        return None
    return [*below[:at], file, *below[at:], *needed(command)]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_says_problems_below_its_heading(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    command = COMMANDS[name]
    assert isinstance(command, Command)

    def finds(*_: object, **__: object) -> None:
        raise SettingsError(["one", "two"])

    monkeypatch.setattr(command, "callback", finds)
    below = name.removeprefix("vllm-hosts").split()
    file = tmp_path / "prod.py"
    file.touch()
    words = typed(name, str(file)) or [*below, *needed(command)]
    done = CliRunner().invoke(main, words)
    fitting = [begin for begin in HEADINGS if " ".join(below).startswith(begin)]
    assert (done.exit_code, done.stdout) == (Exit.WRONG, ""), done.output
    assert done.stderr == f"{HEADINGS[max(fitting, key=len)]}\n  - one\n  - two\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_an_inventory_that_is_not_there_is_misuse(name: str, tmp_path: Path) -> None:
    words = typed(name, str(tmp_path / "typo.py"))
    if words is None:
        return
    done = CliRunner().invoke(main, words)
    assert (done.exit_code, done.stdout) == (Exit.MISUSE, "")
    assert f"{tmp_path}/typo.py is not a file; name an inventory" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_current_folder_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    done = CliRunner().invoke(main, ["settings"])
    assert (done.exit_code, done.stdout) == (Exit.WRONG, "")
    assert done.stderr == "Error: the current folder has been removed; change to another one\n"


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied", "/x"), OSError(5, "x")])
def test_a_file_that_cannot_be_used_is_a_sentence(
    error: OSError, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(COMMANDS["vllm-hosts settings"], "callback", fails)
    done = CliRunner().invoke(main, ["settings"])
    if error.filename is None:
        # None of a file's: whoever meets it has to see where.
        assert done.exception is error
    else:
        assert (done.exit_code, done.stdout) == (Exit.WRONG, "")
        assert done.stderr == "/x cannot be used: Permission denied\n"
