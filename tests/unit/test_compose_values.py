"""A Compose project as a value: what was seen of a host does not change under anybody's hands."""

from __future__ import annotations

import subprocess
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from vllm_hosts.host.compose import (
    COMPOSE,
    ComposeFound,
    Hashes,
    Network,
    final_name,
    without_halves,
)
from vllm_hosts.host.marks import DEPLOY_SINCE


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


@pytest.mark.parametrize("mark", [{}, {DEPLOY_SINCE: "2026-11-27"}])
def test_secrets_of_whoever_logs_in_reach_no_agent(tmp_path: Path, mark: dict[str, str]) -> None:
    """And the mark of a deploy does, where there is one."""
    program = tmp_path / "docker"
    program.write_text('#!/bin/sh\necho "$1"; env | grep -v -e ^PWD= -e ^SHLVL= -e ^_=\n')
    program.chmod(0o755)
    own = {"PATH": f"{tmp_path}:/usr/bin:/bin", "HOME": "/x", **mark}
    given = {**own, "VLLM_API_KEY_QWEN": "theirs", "HF_TOKEN": "theirs", "LANG": "C"}
    done = subprocess.run(
        ["sh", "-c", COMPOSE], env=given, capture_output=True, text=True, check=True
    )
    first, *found = done.stdout.splitlines()
    assert (first, sorted(found)) == ("compose", sorted(f"{a}={b}" for a, b in own.items()))


def test_the_name_that_a_container_will_have() -> None:
    assert final_name("6a145f9dbb26_qwen") == "qwen"
    for name in ("qwen", "6a145f9dbb2_qwen", "x6a145f9dbb26_qwen", "6A145F9DBB26_qwen"):
        assert final_name(name) == name


def test_what_a_replacement_has_left_is_removed_by_all_its_labels() -> None:
    assert [line.strip() for line in without_halves("C", ["qwen", "coder"]).splitlines()] == [
        "for agent in qwen coder; do",
        "half=$(docker ps --all --quiet --filter label=com.docker.compose.project=vllm \\",
        "--filter label=com.docker.compose.service=$agent --filter 'name=^/?[0-9a-f]{12}_')",
        '[ -z "$half" ] || C rm --stop --force $agent || exit 1',
        "done;",
    ]
