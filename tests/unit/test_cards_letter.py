"""What agents need from a host's cards, to the letter."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest

from tests.unit.samples import QWEN, settings
from vllm_hosts.host.gpus import GpuHost, not_there, turns, unusable
from vllm_hosts.host.nvidia_smi import Gpu, Smi
from vllm_hosts.host.pci import PciDevice
from vllm_hosts.settings import Agent

SHARED = {"a": [0], "b": [1], "c": [0, 1], "d": [2], "e": [1], "f": [0]}


def agent(*gpus: int) -> Agent:
    [found] = settings(agents=[QWEN | {"gpus": list(gpus)}]).agents
    return found


class TestTurns:
    @pytest.mark.parametrize(
        ("agents", "found"),
        [
            ("", []),
            ("a", [["a"]]),
            ("abd", [["a", "b", "d"]]),
            ("af", [["a"], ["f"]]),
            ("acef", [["a"], ["c"], ["e", "f"]]),
            ("abcdef", [["a", "b", "d"], ["c"], ["e", "f"]]),
            # None waits for one that it shares no card with.
            ("aefb", [["a", "e"], ["f", "b"]]),
            # Without a card nobody waits.
            ("axfy", [["a", "x", "y"], ["f"]]),
        ],
    )
    def test_no_two_on_one_card(self, agents: str, found: list[list[str]]) -> None:
        assert turns([*agents], SHARED) == found

    def test_three_of_one_card_are_three_turns(self) -> None:
        cards: dict[str, Collection[int]] = {name: {0} for name in "abc"}
        assert turns([*"abc"], cards) == [["a"], ["b"], ["c"]]


class TestUnusable:
    def test_one_that_does_not_answer(self) -> None:
        smi = Smi((), None, {0: "GPU is lost", 1: "something of tomorrow"})
        lost, odd, none = unusable([agent(0, 1, 2)], smi)
        begins = "agent 'qwen' asks for GPU {}, and nvidia-smi reports: "
        ends = "; reboot the host, or give the agent another GPU"
        assert lost == (
            f"{begins.format(0)}GPU is lost (the card has fallen off the bus; if it recurs, check"
            f" power and riser){ends}"
        )
        assert odd == f"{begins.format(1)}something of tomorrow (it does not answer){ends}"
        assert none == not_there(agent(2), 2, [])

    def test_one_that_is_not_there(self) -> None:
        said = (
            "agent 'qwen' asks for GPU 7, and this host has {}; correct the agent's gpus, or see on"
            " the host which cards it has: nvidia-smi -L"
        )
        assert not_there(agent(7), 7, [2, 0]) == said.format("0, 2")
        assert not_there(agent(7), 7, []) == said.format("none")


class TestLoaded:
    NOTHING = GpuHost("6.12", True, (), None, None, False, False, False, Smi((), None))
    CARD = PciDevice("0000:01:00.0", 0x030200, 0x2330, "")

    @pytest.mark.parametrize(
        "changes",
        [
            {"module": "595.1"},
            {"smi": Smi((Gpu(0, driver="595.1"),), None)},
            {"devices": (replace(CARD, driver="nouveau"), replace(CARD, driver="nvidia"))},
        ],
    )
    def test_whoever_says_so(self, changes: dict[str, Any]) -> None:
        assert replace(self.NOTHING, **changes).loaded

    def test_nobody_does(self) -> None:
        assert not self.NOTHING.loaded
        # An audio device of NVIDIA's is no GPU.
        other = replace(self.CARD, pci_class=0x040300, driver="nvidia")
        found = replace(self.NOTHING, devices=(self.CARD, other))
        assert not found.loaded and not found.nouveau
        assert found.cards == (self.CARD,)

    def test_the_free_driver(self) -> None:
        held = replace(self.CARD, driver="nouveau")
        assert replace(self.NOTHING, devices=(self.CARD, held)).nouveau

    def test_what_was_seen_stays(self) -> None:
        with pytest.raises(FrozenInstanceError):
            self.NOTHING.module = "595.1"  # type: ignore[misc]
