"""Turns in pyinfra's own runs: it closes generators, and works on as many hosts as it is told."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.projects import Project
from tests.unit.ssh_server import SshServer, ssh_server

DEPLOY = """
from pyinfra.api.command import FunctionCommand
from pyinfra.context import ctx_host, ctx_state
from vllm_hosts.operations.base import StringCommand, fail, host_operation
from vllm_hosts.operations.one_by_one import announce, announced, turn_taken

M = frozenset({{"m"}})

@host_operation
def known():
    if ctx_state.get().is_executing:
        announce(M, M)
    yield from ()

@host_operation
def changed(how):
    name = ctx_host.get().name
    with turn_taken(announced()):
        yield StringCommand(f"echo {{name}} begins >>{story}; sleep 0.3")
        if name in {bad!r} and how == "function":
            yield FunctionCommand(fail, ("does not come back",), {{}})
        yield StringCommand("false" if name in {bad!r} else f"echo {{name}} ends >>{story}")

known(name="Known")
changed({how!r}, name="Changed")
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    with ssh_server(tmp_path_factory.mktemp("server")) as running:
        yield running


def run(
    folder: Path, server: SshServer, *words: str, bad: str = "", how: str = "command"
) -> tuple[int, str, list[str]]:
    made = Project(folder)
    (folder / "deploy.py").unlink()
    story = folder / "story"
    made.write("deploy.py", DEPLOY.format(story=story, bad=bad.split(), how=how))
    hosts = [(f"gpu{number}", server.data(number)) for number in (1, 2, 3)]
    made.write("inventory/prod.py", f"gpu_hosts = {hosts!r}\n")
    done = made.run("pyinfra", "-y", *words, "inventory/prod.py", "deploy.py")
    assert "Traceback" not in done.stdout, done.stdout
    return done.returncode, done.stdout, story.read_text().splitlines()


def test_hosts_take_turns(tmp_path: Path, server: SshServer) -> None:
    code, said, story = run(tmp_path, server)
    assert code == 0, said
    assert story == [f"gpu{n} {what}" for n in (1, 2, 3) for what in ("begins", "ends")]
    assert "[gpu2]     waits until gpu1 serves m again" in said
    # By the time that it is asked, gpu1 may have ended.
    assert re.search(r"\[gpu3\]     waits until (gpu1, gpu2 serve|gpu2 serves) m again", said), said


@pytest.mark.parametrize("words", [("--parallel", "1"), ("--parallel", "2"), ("--serial",)])
def test_where_pyinfra_works_on_few_hosts_nobody_waits_for_ever(
    tmp_path: Path, server: SshServer, words: tuple[str, ...]
) -> None:
    code, said, story = run(tmp_path, server, *words)
    assert code == 0, said
    assert sorted(story) == sorted(
        f"gpu{n} {what}" for n in (1, 2, 3) for what in ("begins", "ends")
    )
    # One at a time all the same.
    assert [line.split()[0] for line in story[0::2]] == [line.split()[0] for line in story[1::2]]


@pytest.mark.parametrize("how", ["command", "function"])
def test_a_command_that_fails_ends_it_for_the_others(
    tmp_path: Path, server: SshServer, how: str
) -> None:
    code, said, story = run(tmp_path, server, bad="gpu1", how=how)
    assert code == 1
    assert story == ["gpu1 begins"]
    assert said.count("left as they are: gpu1 failed while its agents of m were down") == 2


def test_with_serial_the_next_host_stops_as_well(tmp_path: Path, server: SshServer) -> None:
    code, said, story = run(tmp_path, server, "--serial", bad="gpu1 gpu2 gpu3")
    assert code == 1
    assert len(story) == 1
    assert said.count("left as they are") == 2
