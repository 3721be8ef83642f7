"""The words of vllm_words.yaml are those of the vLLM that runs: nothing new goes unseen."""

from __future__ import annotations

import json
from shlex import quote
from typing import Any

import pytest

from lab import hosts as lab_hosts
from tests.lab.conftest import Deployed
from vllm_hosts.settings.vllm_words import Words, arguments, meant, variables

#: What the parser of `vllm serve` takes, and every variable of vLLM. Modules move between versions.
_DUMP = """
import importlib, json
from vllm import envs
from vllm.utils.argparse_utils import FlexibleArgumentParser
for name in ("launchers", "openai"):
    try:
        made = importlib.import_module("vllm.entrypoints." + name + ".cli_args").make_arg_parser
        break
    except ImportError:
        pass
parser = made(FlexibleArgumentParser())
actions, beginnings = parser._actions, {}
for option in sorted(parser._option_string_actions):
    for end in range(3, len(option)):
        word = option[:end]
        taken = [match[1] for match in parser._get_option_tuples(word)]
        if word not in parser._option_string_actions and len(taken) == 1:
            beginnings[word] = taken[0]
print(json.dumps({"options": [action.option_strings for action in actions],
                  "beginnings": beginnings,
                  "variables": sorted(envs.environment_variables)}))
"""


@pytest.fixture(scope="module")
def vllm(deployed: Deployed) -> dict[str, Any]:
    command = f"docker exec tiny python3 -c {quote(_DUMP)} 2>/dev/null | tail -n 1"
    found: dict[str, Any] = json.loads(lab_hosts.run("gpu1", command).stdout)
    return found


def compared(there: set[str], words: Words, what: str) -> None:
    assert not (new := sorted(there - words.known)), (
        f"vLLM has {what} that nobody has judged: {', '.join(new)}. For each, say in"
        " vllm_hosts/data/vllm_words.yaml whether it lets a request, a model's files or others do"
        " more: refused, accepted in words, or neutral"
    )


def test_every_argument_of_vllm_serve_is_judged(vllm: dict[str, Any]) -> None:
    names = {name for names in vllm["options"] for name in names if name.startswith("--")}
    # Not to do something is as harmless as leaving it out, unless it is listed itself.
    positive = {
        "--" + name[5:] if name.startswith("--no-") and "--" + name[5:] in names else name
        for name in names
    }
    compared(positive, arguments(), "arguments")
    gone = arguments().known - names
    assert not gone, f"vLLM has no {', '.join(sorted(gone))} any more; take it out of the list"


def test_every_short_name_stands_for_what_the_list_says(vllm: dict[str, Any]) -> None:
    for names in vllm["options"]:
        for short in names:
            if short.startswith("-") and not short.startswith("--") and short != "-h":
                assert arguments().short.get(short) in names, f"{short} stands for {names}"


def test_beginnings_are_taken_for_what_vllm_takes_them_for(vllm: dict[str, Any]) -> None:
    judged = arguments().refused.keys() | arguments().accepted.keys()
    taken = {word: option for word, option in vllm["beginnings"].items() if option in judged}
    assert len(taken) > 500
    assert {word: option for word, option in taken.items() if option not in meant(word)} == {}


def test_every_variable_of_vllm_is_judged(vllm: dict[str, Any]) -> None:
    compared(set(vllm["variables"]), variables(), "variables")
