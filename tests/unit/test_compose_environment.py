"""What Compose gets of a command's environment: a deploy's mark, and nothing that is secret."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from vllm_hosts.facts import compose
from vllm_hosts.host.compose import CLEAN_ENV, COMPOSE
from vllm_hosts.host.marks import DEPLOY_SINCE

MARK = "2026-11-26T08:00:00Z"


@pytest.fixture
def bin_folder(tmp_path: Path) -> Path:
    """With a docker that writes down what it gets."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "docker").write_text(
        f"#!/bin/sh\ncd {tmp_path}\ncat /proc/$$/environ >environ\nprintf '%s|' \"$@\" >words\n"
    )
    (folder / "docker").chmod(0o755)
    return folder


def environ(folder: Path, shell: str, script: str, **given: str) -> dict[str, str]:
    """Docker's own, as others on the host read it in /proc."""
    path = f"{folder}/bin:{os.environ['PATH']}"
    subprocess.run([shell, "-euc", script], env={"PATH": path, **given}, check=True)
    lines = (folder / "environ").read_text().split("\0")
    # A shell's own, which stands for docker here.
    return dict(line.split("=", 1) for line in lines if line and line[:2] not in ("_=", "PW"))


@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_the_mark_of_a_deploy_and_no_more(tmp_path: Path, bin_folder: Path, shell: str) -> None:
    given = {"HOME": "/home/it's mine", "VLLM_API_KEY_CODER": "secret", "DOCKER_HOST": "tcp://x"}
    clean = {"PATH": f"{bin_folder}:{os.environ['PATH']}", "HOME": "/home/it's mine"}
    up = f"printf x | {COMPOSE} --project-directory /opt/vllm up"
    for marks, kept in (
        ({DEPLOY_SINCE: MARK}, {DEPLOY_SINCE: MARK}),
        # Whatever stands there, it is one word, and none is run.
        ({DEPLOY_SINCE: 'a $(id) "b* c'}, {DEPLOY_SINCE: 'a $(id) "b* c'}),
        ({DEPLOY_SINCE: ""}, {}),
        ({}, {}),
    ):
        assert environ(tmp_path, shell, up, **given, **marks) == {**clean, **kept}
        words = (tmp_path / "words").read_text()
        assert words == "compose|--project-directory|/opt/vllm|up|"
    assert COMPOSE.startswith(CLEAN_ENV)


def test_so_it_is_where_compose_reads_a_file_that_is_given(
    tmp_path: Path, bin_folder: Path
) -> None:
    opt = tmp_path / "opt"
    command = compose._hashes(str(opt), "services: {}", ["A_KEY"], None)
    found = environ(tmp_path, "sh", command, **{DEPLOY_SINCE: MARK})
    assert (found[DEPLOY_SINCE], found["A_KEY"], found["HOME"]) == (MARK, "none", "/root")
