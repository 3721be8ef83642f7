"""The promises that a run ends with, and that each of them can fail."""

from __future__ import annotations

import pytest

from roles.assertions.plan import edge_problems, env_problems, reachable_problems
from tests.unit.samples import CODER, QWEN, settings
from vllm_hosts.host.files import NOTHING, Found
from vllm_hosts.host.probe import Answer

SETTINGS = settings(agents=[QWEN, CODER])
ROOT = ("root", "0")


def test_env_as_it_should_be() -> None:
    assert list(env_problems("/opt/vllm/.env", Found("f", 0o600, ROOT, ROOT, "x"))) == []


@pytest.mark.parametrize(
    "found",
    [
        NOTHING,
        Found("l", 0o777, ROOT, ROOT),
        Found("f", 0o640, ROOT, ROOT),
        Found("f", 0o604, ROOT, ROOT),
        Found("f", 0o600, ("vllm", "64101"), ROOT),
        Found("f", 0o600, ROOT, ("docker", "998")),
    ],
)
def test_any_other_env_is_a_problem(found: Found) -> None:
    assert len(list(env_problems("/opt/vllm/.env", found))) == 1


def edge(**answers: int) -> list[str]:
    def ask(path: str) -> Answer:
        return Answer(answers.get(path, 401), {}, b"")

    return list(edge_problems(SETTINGS, ask))


def test_a_closed_edge_has_no_problems() -> None:
    assert edge() == []


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/models", 200),
        ("/coder/v1/models", 404),
        ("/invocations", 200),
        ("/metrics", 404),
        ("/no-such-agent/v1/models", 404),
        ("/qwen/invocations", 422),
    ],
)
def test_any_other_answer_is_a_problem(path: str, status: int) -> None:
    [problem] = edge(**{path: status})
    assert path in problem and str(status) in problem


def test_an_edge_that_does_not_answer_is_a_problem() -> None:
    def ask(path: str) -> Answer:
        raise OSError("connection refused")

    [problem] = edge_problems(SETTINGS, ask)
    assert "connection refused" in problem


def test_an_agent_s_port_that_opens_is_a_problem() -> None:
    assert list(reachable_problems(SETTINGS, lambda address, port: False)) == []
    [problem] = reachable_problems(SETTINGS, lambda address, port: port == 8002)
    assert "8002" in problem
