"""A disk that is full, has no inodes left or has become read-only: the host keeps what it had, the
deploy says so, and the next one, after somebody has made room, converges."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import pytest

from lab.settings import AGENTS
from tests.lab.conftest import Deployed
from tests.lab.deploys import changes, deploy
from tests.lab.faults import filled, run

pytestmark = pytest.mark.nightly

HOST = "gpu2"
#: Folder: a change for which a deploy has to write there.
WRITES: dict[str, dict[str, Any]] = {
    "/opt/vllm": {"hosts": {HOST: {"agents": [AGENTS[0] | {"max_model_len": 896}]}}},
    "/etc/nginx": {"edge": {"max_body_size": "31m"}},
    "/etc/docker": {"docker": {"log_max_size": "49m"}},
    "/var/lib/vllm-hosts": {"edge": {"max_body_size": "31m"}},
}
CASES = [
    *[(folder, "full") for folder in WRITES],
    ("/opt/vllm", "without inodes"),
    ("/etc/nginx", "without inodes"),
    ("/etc/nginx", "read-only"),
    ("/opt/vllm", "read-only"),
]
WORDS = {
    "full": "No space left on device",
    "without inodes": "No space left on device",
    "read-only": "Read-only file system",
}


@pytest.mark.parametrize(("folder", "kind"), CASES)
def test_a_folder_takes_nothing(deployed: Deployed, folder: str, kind: str) -> None:
    settings = WRITES[folder]
    before = run.agents(HOST)
    with filled.small(HOST, folder):
        with filled.unwell(HOST, folder, kind):
            done = deploy("--limit", HOST, settings=settings)
            assert done.code == 1, done.output[-6000:]
            assert WORDS[kind] in done.of_host(HOST), done.output[-6000:]
            assert run.broken(HOST) == []
            assert run.agents(HOST) == before
            assert deployed.leaks(done.output) == []
        again = deploy("--limit", HOST, settings=settings)
        assert again.code == 0, again.output[-6000:]
        assert changes(again)[HOST] > 0
        assert run.left(HOST) == []
        third = deploy("--limit", HOST, settings=settings)
        assert (third.code, changes(third)[HOST]) == (0, 0), third.output[-4000:]
    back = deploy("--limit", HOST)
    assert back.code == 0, back.output[-6000:]
    assert run.broken(HOST) == []


@pytest.mark.parametrize("folder", ["/tmp", "/run"])
def test_where_programs_keep_what_they_need_for_a_moment(deployed: Deployed, folder: str) -> None:
    """Docker cannot ask agents for their health without: a deploy says what is full, first."""
    settings = WRITES["/opt/vllm"]
    before = run.agents(HOST)
    with ExitStack() as full:
        if folder == "/run":
            full.enter_context(filled.full_run(HOST))
        else:
            full.enter_context(filled.small(HOST, folder))
            full.enter_context(filled.unwell(HOST, folder, "full"))
        done = deploy("--limit", HOST, settings=settings)
        assert run.broken(HOST) == []
        assert done.code == 1, done.output[-6000:]
        assert f"{folder} has 0 KiB free" in done.of_host(HOST), done.output[-6000:]
        assert changes(done).get(HOST, 0) == 0
        assert run.agents(HOST) == before
    again = deploy("--limit", HOST, settings=settings)
    assert again.code == 0, again.output[-6000:]
    assert run.left(HOST) == []
    assert deploy("--limit", HOST).code == 0
    third = deploy("--limit", HOST)
    assert (third.code, changes(third)[HOST]) == (0, 0), third.output[-4000:]
