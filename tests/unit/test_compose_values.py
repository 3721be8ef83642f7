"""A Compose project as a value: what was seen of a host does not change under anybody's hands."""

from __future__ import annotations

import subprocess
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from vllm_hosts.host.compose import COMPOSE, ComposeFound, Hashes, Network


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (Network("qwen", "vllm_qwen", "198.18.250.8/29", "vllm-8001", ()), "bridge"),
        (Hashes({}, None), "error"),
        (ComposeFound({}, (), None), "wanted"),
    ],
)
def test_what_was_seen_stays(value: object, name: str) -> None:
    with pytest.raises(FrozenInstanceError):
        setattr(value, name, "x")


def test_secrets_of_whoever_logs_in_reach_no_agent(tmp_path: Path) -> None:
    program = tmp_path / "docker"
    program.write_text(
        "#!/bin/sh\necho \"$1\"; env | sed 's/=.*//' | grep -v -e PWD -e SHLVL -e _\n"
    )
    program.chmod(0o755)
    given = {"PATH": f"{tmp_path}:/usr/bin:/bin", "VLLM_API_KEY_QWEN": "theirs", "HOME": "/x"}
    done = subprocess.run(
        ["sh", "-c", COMPOSE], env=given, capture_output=True, text=True, check=True
    )
    first, *names = done.stdout.split()
    assert (first, sorted(names)) == ("compose", ["HOME", "PATH"])
