"""Tokens as the edge counts them, against what vLLM says to the client itself."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from lab import hosts as lab_hosts
from tests.lab.conftest import Deployed
from tests.lab.deploys import command
from tests.lab.test_2_clients import HELLO, client
from vllm_hosts.settings import Agent

pytestmark = pytest.mark.nightly
LOG = "/var/log/vllm-hosts/access.log"


def agent(deployed: Deployed) -> Agent:
    return deployed.settings["gpu1"].agents[0]


def counts(path: str) -> tuple[int, int]:
    """Prompt and completion tokens of the last request to this path, once it is logged."""
    time.sleep(0.5)
    lines = lab_hosts.run("gpu1", f'grep -F \'"path":"{path}"\' {LOG} | tail -n 1').stdout
    entry = json.loads(lines.splitlines()[-1])
    return entry["prompt_tokens"], entry["completion_tokens"]


@pytest.mark.parametrize("own", [True, False], ids=["/AGENT/v1", "/v1"])
@pytest.mark.parametrize("chat", [True, False], ids=["chat", "completion"])
def test_answers_and_streams_count_what_vllm_says(
    deployed: Deployed, own: bool, chat: bool
) -> None:
    one = agent(deployed)
    api = client(deployed, "gpu1", one.name if own else None)
    ask = api.chat.completions.create if chat else api.completions.create
    words: dict[str, Any] = {"messages": HELLO} if chat else {"prompt": "hello"}
    words |= {"model": one.client_model_name, "max_tokens": 12, "temperature": 0}
    words |= {"extra_body": {"ignore_eos": True}}
    prefix = f"/{one.name}" if own else ""
    path = f"{prefix}/v1/{'chat/' if chat else ''}completions"

    answer = ask(**words)
    said = answer.usage.prompt_tokens, answer.usage.completion_tokens
    assert counts(path) == said == (said[0], 12)

    chunks = [*ask(**words, stream=True)]
    assert all(chunk.choices and chunk.usage is None for chunk in chunks)
    assert counts(path) == said

    chunks = [*ask(**words, stream=True, stream_options={"include_usage": True})]
    *others, last = chunks
    assert all(chunk.choices and chunk.usage is None for chunk in others)
    assert (last.choices, last.usage.prompt_tokens, last.usage.completion_tokens) == ([], *said)
    assert counts(path) == said

    # Of several choices, all are counted.
    assert [*ask(**words | {"temperature": 1}, n=3, stream=True)]
    assert counts(path) == (said[0], 36)


def test_a_stream_that_is_hung_up_on_counts_as_far_as_it_came(deployed: Deployed) -> None:
    one = agent(deployed)
    words: dict[str, Any] = {"model": one.client_model_name, "messages": HELLO}
    whole = client(deployed, "gpu1").chat.completions.create(**words, max_tokens=1)
    stream = client(deployed, "gpu1").chat.completions.create(
        **words, max_tokens=400, stream=True, extra_body={"ignore_eos": True}
    )
    for _ in range(20):
        next(stream)
    stream.close()
    prompt, completion = counts("/v1/chat/completions")
    assert prompt == whole.usage.prompt_tokens
    assert 15 <= completion < 400


def test_other_apis_count_too(deployed: Deployed) -> None:
    one = agent(deployed)
    api = client(deployed, "gpu1")
    words: dict[str, Any] = {"model": one.client_model_name, "input": "hello"}
    answer = api.responses.create(**words, max_output_tokens=8)
    assert counts("/v1/responses") == (answer.usage.input_tokens, answer.usage.output_tokens)
    for event in api.responses.create(**words, max_output_tokens=8, stream=True):
        if event.type in ("response.completed", "response.incomplete"):
            usage = event.response.usage
    assert counts("/v1/responses") == (usage.input_tokens, usage.output_tokens)


def test_the_sums_are_those_of_the_log(deployed: Deployed) -> None:
    done = lab_hosts.run("gpu1", f"cat {LOG}; zcat -f {LOG}.* 2>/dev/null || true").stdout
    entries = [json.loads(line) for line in done.splitlines() if line.startswith("{")]
    mine = [entry for entry in entries if entry["client"] == "default"]
    run = command("vllm-hosts", "usage", "inventory/lab.py", "--host", "gpu1", "--json")
    assert run.code == 0
    [found] = [one for one in json.loads(run.output)["usage"] if one["client"] == "default"]
    for name in ("prompt_tokens", "completion_tokens"):
        assert found[name] == sum(entry.get(name) or 0 for entry in mine) > 0
