"""What the documents and `vllm-hosts endpoints` tell people to paste works when it is pasted."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest

from lab.settings import AGENTS
from tests.lab.conftest import HOSTS, Deployed
from tests.lab.deploys import BIN, ROOT, command

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


def for_the_lab(text: str, deployed: Deployed) -> str:
    """The names of the example's host, agent and inventory become the lab's."""
    agent = AGENTS[0]["name"]
    for example, real in {
        "https://llm.example.com/qwen3-8b": f"https://{deployed.settings['gpu1'].address}/{agent}",
        "inventory/prod.py": "inventory/lab.py",
        ".vllm-hosts/prod/": ".vllm-hosts/lab/",
        "qwen3-8b": agent,
    }.items():
        text = text.replace(example, real)
    return text


def run(argv: list[str], environment: dict[str, str]) -> str:
    done = subprocess.run(
        argv,
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.parametrize(("document", "number"), EXAMPLES)
def test_an_example_works(deployed: Deployed, document: str, number: int) -> None:
    first, *_ = blocks(document)
    assert first[0] == "sh"
    assert "export OPENAI_API_KEY" in first[1]
    plain = {"PATH": f"{BIN}:{os.environ['PATH']}", "HOME": "/root"}
    exported = run(["sh", "-e", "-c", for_the_lab(first[1], deployed) + "\nenv -0"], plain)
    environment = dict(line.split("=", 1) for line in exported.split("\0") if line)
    language, text = blocks(document)[number]
    program = ["sh", "-e", "-c"] if language == "sh" else [sys.executable, "-c"]
    said = run([*program, for_the_lab(text, deployed)], environment)
    assert said.strip()
    assert deployed.leaks(said) == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_there_is_an_example_for_each_client(document: str) -> None:
    text = "".join(text for _, text in blocks(document))
    assert "curl" in text
    assert "from openai import OpenAI" in text
    assert "import requests" in text


def test_the_printed_curl_lines_work(deployed: Deployed) -> None:
    said = command("vllm-hosts", "endpoints", "inventory/lab.py").output
    lines = re.findall(r"^  try +(.*)$", said, re.M)
    assert len(lines) == sum(len(deployed.settings[host].agents) for host in HOSTS)
    # Without the environment on the PATH, as after `make demo`.
    plain = {"PATH": "/usr/local/bin:/usr/bin:/bin"}
    for line in lines:
        answer = json.loads(run(["sh", "-c", line], plain))
        assert answer["usage"]["completion_tokens"] > 0
