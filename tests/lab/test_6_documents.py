"""What the documents and `vllm-hosts endpoints` tell people to paste works when it is pasted."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from lab.settings import AGENTS
from tests.lab.conftest import HOSTS, Deployed
from tests.lab.deploys import BIN, ROOT, command
from tests.lab.examples import DOCUMENTS, EXAMPLES, blocks, pasted, run


def in_the_lab(deployed: Deployed) -> dict[str, str]:
    """The names of the example's host, agent and inventory become the lab's."""
    agent = AGENTS[0]["name"]
    return {
        "https://llm.example.com/qwen3-8b": f"https://{deployed.settings['gpu1'].address}/{agent}",
        "https://llm.example.com/v1": f"https://{deployed.settings['gpu1'].address}/v1",
        "inventory/prod.py": "inventory/lab.py",
        ".vllm-hosts/prod/": ".vllm-hosts/lab/",
        "qwen3-8b": agent,
    }


@pytest.mark.parametrize(("document", "number"), EXAMPLES)
def test_an_example_works(deployed: Deployed, document: str, number: int) -> None:
    assert deployed.leaks(pasted(document, number, in_the_lab(deployed))) == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_there_is_an_example_for_each_client(document: str) -> None:
    text = "".join(text for _, text in blocks(document))
    assert "curl" in text
    assert "from openai import OpenAI" in text
    assert "import requests" in text


def sections_of_keys_md() -> dict[str, str]:
    """The commands of each section, as one script for the lab."""
    text = (ROOT / "docs" / "keys.md").read_text()
    names = {"inventory/prod.py": "inventory/lab.py", "prod.age": "lab.age", "qwen3-8b": "tiny"}
    for example, real in {**names, "prod.recipients": "lab.recipients"}.items():
        text = text.replace(example, real)
    found = {}
    for part in text.split("\n## ")[1:]:
        title, _, body = part.partition("\n")
        lines = [line[4:] for line in body.splitlines() if line.startswith("    ")]
        found[title] = "\n".join(map(_without_a_terminal, lines))
    return found


def _without_a_terminal(line: str) -> str:
    """`show` prints to one only, and `new-ca` asks somebody there."""
    if " keys show inventory" in line:
        return f"script -qec '{line}' /dev/null"
    return f"{line} --yes" if " keys new-ca " in line else line


@pytest.mark.nightly
def test_keys_md_as_written(deployed: Deployed, tmp_path: Path) -> None:
    """From a first key to a restore, in a clone of the project with a user of its own."""
    clone, home = tmp_path / "clone", tmp_path / "home"
    (home / ".ssh").mkdir(parents=True, mode=0o700)
    for path, comment in ((home / ".ssh/id_ed25519", "me@desk"), (tmp_path / "a", "alice@laptop")):
        words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path)]
        subprocess.run(words, check=True)
    subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
    (clone / "alice.pub").write_text((tmp_path / "a.pub").read_text())
    environment = {"PATH": f"{BIN}:{os.environ['PATH']}", "HOME": str(home)}
    sections = sections_of_keys_md()
    names = ["The store", "A first key", "A rotation", "An emergency", "A lost laptop"]
    for name in [*names, "A restore from git", "A new CA", "A leaked CA key"]:
        script = sections[name]
        if name == "The store":
            # As in the text: what was made is committed, and alice comes back for what follows.
            script += '\nvllm-hosts keys recipients add inventory/lab.py "$(cat alice.pub)"'
            script += "".join(
                f"\nvllm-hosts hosts adopt --yes inventory/lab.py {host}" for host in HOSTS
            )
            script += "\ngit add keys && git -c user.name=t -c user.email=t@t commit -qm keys"
        if name == "An emergency":
            script = script.replace(
                "\nvllm-hosts keys rotate",
                "\nvllm-hosts keys add inventory/lab.py alice\nvllm-hosts keys rotate",
            )
        said = run(["bash", "-e", "-c", script], environment, cwd=clone, timeout=600)
        assert "Traceback" not in said
        assert deployed.leaks(said) == []
    # The restored store is the committed one: without the clients that were made since then.
    listed = run(
        ["vllm-hosts", "keys", "list", "--names", "inventory/lab.py"], environment, cwd=clone
    )
    assert listed.split() == ["default"]
    # And back: until then the hosts are the clone's.
    refused = command("pyinfra", "-y", "inventory/lab.py", "keys.py")
    assert (refused.code, "whose store is not here" in refused.output) == (1, True)
    for host in HOSTS:
        assert command("vllm-hosts", "hosts", "adopt", "--yes", "inventory/lab.py", host).code == 0
    assert command("pyinfra", "-y", "inventory/lab.py", "deploy.py").code == 0


def test_the_printed_curl_lines_work(deployed: Deployed) -> None:
    said = command("vllm-hosts", "endpoints", "inventory/lab.py").output
    lines = re.findall(r"^  try +(.*)$", said, re.M)
    assert len(lines) == sum(len(deployed.settings[host].agents) for host in HOSTS)
    # Without the environment on the PATH, as after `make demo`.
    plain = {"PATH": "/usr/local/bin:/usr/bin:/bin"}
    for line in lines:
        answer = json.loads(run(["sh", "-c", line], plain, cwd=Path("/")))
        assert answer["usage"]["completion_tokens"] > 0
