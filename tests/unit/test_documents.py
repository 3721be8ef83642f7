"""What documents say of commands and of themselves is so."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from tests.unit.projects import ROOT
from vllm_hosts.cli.main import main
from vllm_hosts.verify.promises import promises

README = ROOT / "README.md"
DOCUMENTS = [README, *sorted((ROOT / "docs").glob("*.md"))]
#: Where commands stand as they are typed; commands.md is made from the command line.
TYPED = [path for path in DOCUMENTS if path.name != "commands.md"]
#: A command in a block or in backquotes, up to what ends it.
_COMMAND = re.compile(r"vllm-hosts ((?:[a-z]|--)[^`|#;&>)\n]*)")


def commands(path: Path) -> Iterator[str]:
    """In blocks and in backquotes; prose that only names the toolkit is not meant."""
    text = path.read_text()
    for block in re.findall(r"(?m)^(?: {4}|\t).*$|`[^`\n]+`", text):
        for found in _COMMAND.findall(block):
            yield found.split("  ")[0].strip(' "')


def parse(words: list[str]) -> str | None:
    """What is wrong with a command, by its names and options alone."""
    command: click.Command = main
    left = list(words)
    while isinstance(command, click.Group) and left:
        names = [word for word in left if not word.startswith("-") and word in command.commands]
        if not names:
            # A group is named as a whole: an inventory at most follows.
            return None if len(left) <= 1 and command is not main else f"no command in {words}"
        left.remove(names[0])
        command = command.commands[names[0]]
    known = {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
    given = [word.partition("=")[0] for word in left if word.startswith("-")]
    unknown = [word for word in given if word not in {*known, "-h", "--help"}]
    return f"{words}: no option {unknown}" if unknown else None


@pytest.mark.parametrize("path", TYPED, ids=lambda path: path.name)
def test_commands_of_documents_exist(path: Path) -> None:
    assert [wrong for said in commands(path) if (wrong := parse(said.split()))] == []


def test_the_check_itself() -> None:
    assert sum(len(list(commands(path))) for path in DOCUMENTS) > 100
    assert parse(["agents", "inventory/prod.py", "status", "--json"]) is None
    assert parse(["agents", "inventory/prod.py", "--host", "gpu1", "stop", "-y"]) is None
    for said in ("no-such inventory/prod.py", "agents inventory/prod.py begin", "check x --host y"):
        assert parse(said.split())


def test_every_page_is_listed_in_the_readme() -> None:
    text = README.read_text()
    listed = text.partition("\n## More\n")[2]
    for path in DOCUMENTS[1:]:
        assert f"(docs/{path.name})" in listed, path


def test_links_lead_somewhere() -> None:
    for path in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", path.read_text()):
            assert (path.parent / target).exists(), f"{path.name}: {target}"
        for target, heading in re.findall(r"\]\(([^)#:\s]*)#([^)]+)\)", path.read_text()):
            text = (path.parent / target if target else path).read_text()
            headings = {
                re.sub(r"[^a-z0-9_ -]", "", line.lstrip("# ").lower()).replace(" ", "-")
                for line in text.splitlines()
                if line.startswith("#")
            }
            assert heading in headings, f"{path.name}: {target}#{heading}"


def test_the_readme_counts_promises() -> None:
    assert f"checks {len(promises())} promises on every host" in README.read_text()
