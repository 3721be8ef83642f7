"""`vllm-hosts lock` and `vllm-hosts history`, on this machine as a host."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from tests.unit.fakes import LocalHost
from tests.unit.projects import own_lock
from tests.unit.started import Begun

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the lock belongs to root")

PROD = "inventory/prod.py"


@pytest.fixture
def host(tmp_path: Path) -> LocalHost:
    return LocalHost.make(tmp_path)


def run(host: LocalHost, *words: str) -> tuple[int, str]:
    done = host.project.run("vllm-hosts", *words)
    assert "Traceback" not in done.stdout, done.stdout
    return done.returncode, done.stdout


def busy(host: LocalHost) -> Begun:
    """A command that holds the host until it is ended: Compose does not come to an end."""
    host.program("docker", (host.folder / "bin/docker").read_text().replace(
        '"compose "*)', f'"compose "*) : >{host.folder}/begun; sleep 60 ;;\n    "never "*)'
    ))  # fmt: skip
    process = host.project.begin("vllm-hosts", "agents", PROD, "stop", "one")
    while not (host.folder / "begun").exists():
        time.sleep(0.05)
        assert process.poll() is None
    return process


def test_a_host_that_nobody_holds(host: LocalHost) -> None:
    assert run(host, "lock", PROD, "status") == (0, "@local: free\n")
    code, said = run(host, "lock", PROD, "release", "--yes")
    assert (code, said) == (0, "@local: free\n")
    assert run(host, "history", PROD) == (0, "@local\n  nothing was changed since this is kept\n")


def test_who_holds_a_host_and_how_that_is_ended(host: LocalHost) -> None:
    process = busy(host)
    try:
        code, said = run(host, "lock", PROD, "status")
        assert code == 3
        assert said.startswith("@local: held by agents stop of prod.py of root@")
        code, said = run(host, "lock", PROD, "status", "--json")
        [found] = json.loads(said)
        assert (code, found["held"], found["owner"]["what"]) == (3, True, "agents stop of prod.py")
        code, said = run(host, "lock", PROD, "release")
        assert (code, process.poll()) == (2, None), said
        assert "Add -y to go on" in said
        code, said = run(host, "lock", PROD, "release", "--yes")
        assert (code, said.splitlines()[-1]) == (0, "@local is free")
        # It does not go on without the lock.
        assert process.wait(10) != 0
    finally:
        process.kill()
    [line] = (host.folder.parent / "history").read_text().splitlines()
    assert json.loads(line.split(" ", 2)[2])["ended"] == "cut off"


def test_the_history_of_a_host(host: LocalHost) -> None:
    run(host, "agents", PROD, "restart", "one")
    file = host.folder.parent / "history"
    file.write_text(f"odd \x1b[2J line\n{file.read_text()}")
    code, said = run(host, "history", PROD)
    assert code == 0
    assert "\x1b[2J" not in said
    assert "unknown by unknown" in said and "this line cannot be read" in said
    lines = said.splitlines()
    assert " agents restart of prod.py by root@" in lines[-2]
    assert lines[-2].endswith(": done")
    assert lines[-1] == "      restart of one"
    code, said = run(host, "history", PROD, "--json", "--lines", "1")
    [found] = json.loads(said)
    [line] = found["runs"]
    assert (line["changed"], line["ended"], line["commit"]) == (["restart of one"], "done", None)


def test_a_host_that_does_not_answer(host: LocalHost) -> None:
    host.project.write(
        PROD, f"{own_lock(host.folder.parent)}"
        "gpu_hosts = [('down', {'ssh_hostname': '127.0.0.1', 'ssh_port': 1})]\n",
    )  # fmt: skip
    for words in (("lock", PROD, "status"), ("history", PROD), ("lock", PROD, "release", "-y")):
        code, said = run(host, *words)
        assert code == 1
        assert "down: cannot be reached: 127.0.0.1 refuses connections" in said
