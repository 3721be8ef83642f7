"""What documents and advice tell people to type is taken by the command line."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from unittest.mock import patch

import click
import pytest

from tests.unit.projects import ROOT
from vllm_hosts.cli.main import main
from vllm_hosts.doctor.diagnoses import texts
from vllm_hosts.verify.promises import promises

#: Up to what ends a command in a shell, in a document or in a sentence.
_TYPED = re.compile(r"(?<![\w./-])vllm-hosts [a-z](?:(?!\. [A-Z])[^`|;&>)\n#…])*")
_SOURCES = {path.name: path.read_text() for path in [ROOT / "README.md", *ROOT.glob("docs/*.md")]}
# Usages are nothing to type; their examples are.
_SOURCES["commands.md"] = "\n".join(re.findall(r"(?m)^Example: .*$", _SOURCES["commands.md"]))
_REMEDIES = [text.remedy for text in texts().values()]
_REMEDIES += [promise.remedy for promise in promises().values()]


def refused(typed: str) -> str | None:
    """Why the command line does not take this; None: it does. A command may be named alone."""
    command: click.Command = main
    context: click.Context | None = None
    args = [word.strip("\"'.,:") for word in typed.split()[1:]]
    try:
        # Their inventories are the readers'.
        with patch.object(Path, "is_file", lambda path: True):
            while isinstance(command, click.Group):
                context = command.make_context(command.name, args, parent=context)
                rest = [*context._protected_args, *context.args]
                _, found, args = command.resolve_command(context, rest)
                assert found is not None
                command = found
            command.make_context(command.name, args, parent=context)
    except (click.MissingParameter, click.exceptions.NoArgsIsHelpError, click.exceptions.Exit):
        return None
    except click.UsageError as error:
        return error.format_message()
    return None


def wrong(text: str) -> dict[str, str]:
    """Commands in a text that are refused. A sentence may go on behind one, without a mark."""
    found = {typed: refused(typed) for typed in _TYPED.findall(text)}
    return {typed: why for typed, why in found.items() if why and "unexpected extra" not in why}


@pytest.mark.parametrize("name", sorted(_SOURCES))
def test_what_a_document_says_can_be_typed(name: str) -> None:
    assert wrong(_SOURCES[name]) == {}


def test_advice_can_be_typed() -> None:
    advice = "\n".join(_REMEDIES)
    assert len(re.findall("vllm-hosts agents INVENTORY (?:start|restart)", advice)) > 12
    assert wrong(advice) == {}


def test_a_mistake_is_seen() -> None:
    assert refused("vllm-hosts drift inventory/prod.py --hots x") is not None
    assert refused("vllm-hosts agents inventory/prod.py begin") is not None
    assert refused("vllm-hosts agents inventory/prod.py --host x status --json") is None


def test_the_watch_s_script_prints_only_what_is_wrong(tmp_path: Path) -> None:
    """The one in docs/upkeep.md, with stand-ins for the commands."""
    [script] = re.findall(r"^```sh\n(.*?)^```$", _SOURCES["upkeep.md"], re.M | re.S)
    program = tmp_path / "vllm-hosts"
    script = script.replace("cd /srv/vllm-hosts || exit 1", f"cd {tmp_path}")
    script = script.replace("PATH=/srv/vllm-hosts/.venv/bin:", f"PATH={tmp_path}:")
    for says, wanted in {
        "exit 0": (0, ""),
        'echo "$1 said"; [ "$1" != tls ] || exit 2': (
            1,
            "== vllm-hosts tls inventory/prod.py status\ntls said\n",
        ),
    }.items():
        program.write_text(f"#!/bin/sh\n{says}\n")
        program.chmod(0o755)
        done = subprocess.run(
            ["sh", "-c", script], env=os.environ, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stdout) == wanted, done.stderr
