"""The examples of the documents, and running them as somebody would who pastes them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.lab.deploys import BIN, ROOT

_BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```$", re.M | re.S)

DOCUMENTS = ("README.md", "docs/clients.md")


def blocks(document: str) -> list[tuple[str, str]]:
    """Language and text of every example. The first one says what the others need."""
    found: list[tuple[str, str]] = _BLOCK.findall((ROOT / document).read_text())
    return found


EXAMPLES = [
    pytest.param(document, number, id=f"{document}-{number}")
    for document in DOCUMENTS
    for number in range(1, len(blocks(document)))
]


def run(
    argv: list[str], environment: dict[str, str], cwd: Path = ROOT, timeout: float = 120
) -> str:
    """What a program printed. It has to end well."""
    done = subprocess.run(
        argv,
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def pasted(document: str, number: int, in_the_lab: Mapping[str, str]) -> str:
    """What one of a document's examples prints, after the first one in the same shell.

    :param in_the_lab: the lab's names, by those of the example's host, agent and inventory.
    """

    def here(text: str) -> str:
        for example, real in in_the_lab.items():
            text = text.replace(example, real)
        return text

    first, *_ = blocks(document)
    assert first[0] == "sh"
    assert "export OPENAI_API_KEY" in first[1]
    plain = {"PATH": f"{BIN}:{os.environ['PATH']}", "HOME": "/root"}
    exported = run(["sh", "-e", "-c", here(first[1]) + "\nenv -0"], plain)
    environment = dict(line.split("=", 1) for line in exported.split("\0") if line)
    language, text = blocks(document)[number]
    program = ["sh", "-e", "-c"] if language == "sh" else [sys.executable, "-c"]
    # What was exported holds in any folder.
    said = run([*program, here(text)], environment, cwd=Path("/"))
    assert said.strip()
    return said
