"""What README and `vllm-hosts endpoints` tell people to paste works with one address for all."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.lab.deploys import command
from tests.lab.examples import EXAMPLES, pasted, run
from tests.lab.fleet import CHAT, DRAFT, FLEET, Fleet

pytestmark = pytest.mark.nightly


@pytest.mark.parametrize(("document", "number"), EXAMPLES)
def test_an_example_works(fleet: Fleet, document: str, number: int) -> None:
    names = {
        "https://llm.example.com/qwen3-8b": f"{fleet.url('gw1')}/chat",
        "https://llm.example.com/v1": f"{fleet.url('gw1')}/v1",
        "inventory/prod.py": FLEET,
        ".vllm-hosts/prod/": ".vllm-hosts/lab_fleet/",
        "qwen3-8b": CHAT,
    }
    said = pasted(document, number, names)
    assert fleet.client_key.get_secret_value() not in said


def test_the_printed_curl_lines_work(fleet: Fleet) -> None:
    """Each gateway has a line for each model, and hosts have none."""
    said = command("vllm-hosts", "endpoints", FLEET).output
    lines = re.findall(r"^  try +(.*)$", said, re.M)
    plain = {"PATH": "/usr/local/bin:/usr/bin:/bin"}
    answers = [json.loads(run(["sh", "-c", line], plain, cwd=Path("/"))) for line in lines]
    assert sorted(one["model"] for one in answers) == sorted([CHAT, DRAFT] * 2)
    assert all(one["usage"]["completion_tokens"] > 0 for one in answers)
    assert fleet.client_key.get_secret_value() not in said
