"""A rehearsal in a container of the lab's image, beside the agent that runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from lab import hosts as lab_hosts
from tests.lab.conftest import Deployed
from vllm_hosts.host.services import service
from vllm_hosts.rehearsal.answer import Answer
from vllm_hosts.rehearsal.command import Rehearsed, Request
from vllm_hosts.rehearsal.fact import Rehearsals
from vllm_hosts.rehearsal.verdict import Outcome, verdict
from vllm_hosts.settings import Agent

pytestmark = pytest.mark.nightly

#: For an agent on a host whose caches are cold; half of it is waiting for the lab's disk.
SECONDS = 60


def the_agent(deployed: Deployed) -> Agent:
    """The agent that runs, as settings have it."""
    return next(one for one in deployed.settings["gpu1"].agents if one.name == "tiny")


def container(deployed: Deployed) -> Rehearsed:
    """What its container is made of."""
    made = service(deployed.settings["gpu1"], the_agent(deployed), 8 << 30)
    return Rehearsed(
        agent=made.name,
        image=made.image,
        command=made.command,
        environment=made.environment,
        user=made.user,
        gpus=(),
        folders={one.source: one.target for one in made.volumes if one.read_only},
    )


@pytest.fixture
def rehearsed(deployed: Deployed) -> Callable[..., Answer]:
    """Rehearses the running agent with other words behind its own."""

    def rehearse(*words: str) -> Answer:
        given = container(deployed)
        fact = Rehearsals()
        command = fact.command(
            [replace(given, command=(*given.command, *words))], Request("mark-of-the-lab", None)
        )
        output = lab_hosts.run("gpu1", command, timeout=300).stdout
        return fact.process(output.splitlines())["tiny"]

    return rehearse


def running(host: str) -> str:
    """Identity and start of the agent's process."""
    return lab_hosts.run(
        host, "docker inspect --format '{{.Id}} {{.State.Pid}} {{.State.StartedAt}}' tiny"
    ).stdout


def test_vllm_accepts_the_agent_that_runs(rehearsed: Callable[..., Answer]) -> None:
    began = time.monotonic()
    answer = rehearsed()
    took = time.monotonic() - began
    assert answer.refused is None and not answer.unknown
    assert answer.max_model_len == 1024 and answer.weights and answer.cache
    assert took < SECONDS


@pytest.mark.parametrize(
    "words",
    [
        ("--no-such-argument",),
        ("--max-model-len", "9999999"),
        ("--tool-call-parser", "nobody"),
        ("--quantization", "none-such"),
        ("--reasoning-parser", "nobody"),
    ],
)
def test_what_is_rejected_touches_no_agent(
    deployed: Deployed, rehearsed: Callable[..., Answer], words: tuple[str, ...]
) -> None:
    before = running("gpu1")
    answer = rehearsed(*words)
    said = verdict(the_agent(deployed), answer)
    assert said.outcome is Outcome.REFUSED, said
    assert running("gpu1") == before
    left = lab_hosts.run("gpu1", "docker ps --all --format '{{.Names}}'; ls /run")
    assert "rehearsal" not in left.stdout and "vllm-hosts." not in left.stdout
