"""Conversations stay where their prefix is cached: by vLLM's own count of what it found there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from lab import hosts as lab_hosts
from tests.lab.deploys import command
from tests.lab.fleet import CHAT, DRAFT, FLEET, GPU_HOSTS, Fleet, asked, deploy, key_of, keys, well

pytestmark = pytest.mark.nightly
#: No multiple of the hosts: in turn, each turn of a conversation would go to another host.
CONVERSATIONS, TURNS = 13, 5
#: Of one application: each has so many conversations, which all begin with the same instructions.
CLIENTS, EACH = ("cache-1", "cache-2", "cache-3", "cache-4"), 3
#: Longer than a block of the cache of vLLM's CPU build, which has 128 tokens.
_SENTENCE = "The quick brown fox jumps over the lazy dog while it rains in the harbour town. "
_CONF = "/etc/vllm-hosts/balancer/haproxy.cfg"


def hits(fleet: Fleet, agent: str = "chat", hosts: Sequence[str] = GPU_HOSTS) -> float:
    """Tokens that agents have found in their caches."""
    total = 0.0
    for host in hosts:
        address = fleet.settings[host].cell(agent).address
        said = lab_hosts.run(
            host,
            f"bash -c 'exec 3<>/dev/tcp/{address}/8000;"
            ' printf "GET /metrics HTTP/1.0\\r\\n\\r\\n" >&3; cat <&3\'',
        ).stdout
        found = [line for line in said.splitlines() if line.startswith("vllm:prefix_cache_hits")]
        total += sum(float(line.split()[-1]) for line in found if "_created" not in line)
    return total


def conversations(fleet: Fleet, title: str) -> tuple[float, int]:
    """Have some through gw1, turn by turn. What was found in caches, of how many tokens."""
    before, tokens = hits(fleet), 0
    said: list[list[dict[str, Any]]] = [[] for _ in range(CONVERSATIONS)]
    for turn in range(TURNS):
        for number, messages in enumerate(said):
            text = f"{title} {number}, {turn}: " + _SENTENCE * 7
            messages.append({"role": "user", "content": text})
            answer = asked(fleet, "gw1", messages=messages, max_tokens=4)
            assert answer.status_code == 200, answer.text
            found = answer.json()
            tokens += found["usage"]["prompt_tokens"]
            messages.append(
                {"role": "assistant", "content": found["choices"][0]["message"]["content"]}
            )
    return hits(fleet) - before, tokens


@contextmanager
def in_turn(fleet: Fleet) -> Iterator[None]:
    """gw1 asks the hosts one after the other; afterwards as deployed."""
    lab_hosts.run(
        "gw1",
        "sed -i -E '/^ *hash-(type|balance-factor) /d; s/^( *)balance .*/\\1balance roundrobin/'"
        f" {_CONF} && grep -q roundrobin {_CONF}"
        " && systemctl reload vllm-hosts-balancer && sleep 3",
    )
    try:
        yield
    finally:
        well(deploy("--limit", "gw1"))
        fleet.wait_whole()


def test_prefixes_are_found_twice_as_often_as_in_turn(fleet: Fleet) -> None:
    fleet.wait_whole()
    ours, tokens = conversations(fleet, "ours")
    with in_turn(fleet):
        theirs, of = conversations(fleet, "theirs")
    print(f"found in caches of {CHAT}: {ours:.0f} of {tokens} tokens; in turn {theirs:.0f} of {of}")
    assert ours > 0.3 * tokens, f"only {ours:.0f} of {tokens} tokens"
    assert ours >= 2 * theirs, (ours, theirs)


def with_instructions(fleet: Fleet, title: str) -> float:
    """Conversations of four clients at one agent. The share of their tokens found in its cache."""
    before, tokens = hits(fleet, "draft", ["gpu1"]), 0
    rules = {"role": "system", "content": f"{title}. " + _SENTENCE * 16}
    for number in range(EACH):
        for client in CLIENTS:
            question = f"{client} {number} asks: " + _SENTENCE
            answer = asked(
                fleet,
                "gw1",
                key=key_of(client),
                model=DRAFT,
                messages=[rules, {"role": "user", "content": question}],
                max_tokens=4,
            )
            assert answer.status_code == 200, answer.text
            tokens += answer.json()["usage"]["prompt_tokens"]
    return (hits(fleet, "draft", ["gpu1"]) - before) / tokens


def test_what_it_costs_that_clients_have_caches_of_their_own(fleet: Fleet) -> None:
    """Each client's first conversation computes the instructions once more, and no other does."""
    try:
        for client in CLIENTS[1:]:
            well(command("vllm-hosts", "keys", "add", FLEET, client))
        keys("add", CLIENTS[0])
        fleet.wait_whole()
        apart = with_instructions(fleet, "apart")
        group = {"edge": {"cache_groups": [list(CLIENTS)]}}
        well(deploy("--limit", "gw1", settings=group))
        together = with_instructions(fleet, "together")
    finally:
        for client in CLIENTS:
            command("vllm-hosts", "keys", "revoke", FLEET, client)
        well(deploy("--limit", "gw1", "--limit", "gw2"))
    print(f"found in caches: {apart:.2f} of all tokens; with one cache {together:.2f}")
    assert 0 < apart < together
    # Of twelve conversations eight find the instructions, with one cache eleven.
    assert abs(apart / together - 8 / 11) < 0.05, (apart, together)
