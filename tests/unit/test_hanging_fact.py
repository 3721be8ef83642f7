"""A host where a program hangs does not hold a run for ever."""

from __future__ import annotations

import time

import pytest
from pyinfra.api.config import Config
from pyinfra.api.connect import connect_all
from pyinfra.api.inventory import Inventory
from pyinfra.api.state import State
from pyinfra.context import ctx_host, ctx_state

from vllm_hosts.errors import HostError
from vllm_hosts.facts import look
from vllm_hosts.facts.base import HostFact, ending


class Hanging(HostFact[str]):
    what = "the state of something that hangs"
    seconds = 1

    def command(self, for_seconds: float) -> str:
        return ending(f"sleep {for_seconds}; echo here")

    def parse(self, lines: list[str]) -> str:
        return lines[0]


def asked(for_seconds: float) -> str:
    state = State(Inventory((["@local"], {})), Config())
    connect_all(state)
    with ctx_state.use(state), ctx_host.use(state.inventory.get_host("@local")):
        return look(Hanging, for_seconds=for_seconds)


def test_what_hangs_is_told_and_is_not_waited_for() -> None:
    began = time.monotonic()
    with pytest.raises(HostError) as refused:
        asked(20)
    assert time.monotonic() - began < 10
    assert str(refused.value) == (
        "the state of something that hangs could not be read within 1 s: something on the host"
        " hangs; see what waits there (`ps -eo pid,stat,etime,args`), end it, and run this again"
    )


def test_what_takes_a_moment_is_read() -> None:
    assert asked(0.05) == "here"
