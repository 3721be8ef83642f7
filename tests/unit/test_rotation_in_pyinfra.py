"""Hosts that change behind gateways, in pyinfra's own runs: who is connected to, and when."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.projects import Project
from tests.unit.ssh_server import SshServer, ssh_server
from tests.unit.test_drains_cli import SOCAT
from vllm_hosts.settings.fleet import host_label

DEPLOY = """
from dataclasses import replace
from pyinfra.context import ctx_host, ctx_state
from vllm_hosts.host import balancer
from vllm_hosts.operations.base import StringCommand, host_operation
from vllm_hosts.operations.one_by_one import announce, announced, turn_taken
from vllm_hosts.project import run

M = frozenset({{"m"}})
balancer.SAVE_SCRIPT = "true"

@host_operation
def known():
    if ctx_state.get().is_executing:
        announce(M, M)
    yield from ()

@host_operation
def changed(rotation):
    if not ctx_state.get().is_executing:
        yield StringCommand("true")
        return
    with turn_taken(announced()):
        rotation.out(["one"])
        yield StringCommand(f"echo {{ctx_host.get().name}} changes >>{folder}/told")
        rotation.back(["one"])

current = run.current()
if current.settings.behind_gateways:
    known(name="Known")
    changed(replace(current.rotation, answers=lambda agent: None), name="Changed")
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    with ssh_server(tmp_path_factory.mktemp("server")) as running:
        yield running


def run(
    folder: Path, server: SshServer, *words: str, **of_gw2: object
) -> tuple[int, str, list[str]]:
    made = Project(folder)
    (folder / "deploy.py").unlink()
    made.write("deploy.py", DEPLOY.format(folder=folder))
    edge = {"edge": {"https_port": 9}}
    hosts = [(f"gpu{n}", server.data(n, **edge)) for n in (1, 2)]
    front = [("gw1", server.data(3, **edge)), ("gw2", server.data(4, **edge) | of_gw2)]
    made.write("inventory/prod.py", f"gateways = {front!r}\ngpu_hosts = {hosts!r}\n")
    servers = [f"one.{host_label(name)} UP 0" for name, _ in hosts]
    (folder / "servers").write_text("\n".join([*servers, ""]))
    server.program("systemctl", "exit 0")
    server.program("socat", SOCAT.format(folder=folder).partition("\n")[2])
    done = made.run("pyinfra", "-y", *words, "inventory/prod.py", "deploy.py")
    assert "Traceback" not in done.stdout, done.stdout
    told = folder / "told"
    return done.returncode, done.stdout, told.read_text().splitlines() if told.exists() else []


def story(told: list[str]) -> list[str]:
    names = {f"one.{host_label(name)}": name for name in ("gpu1", "gpu2")}
    return [
        re.sub(r"set server one/(\S+) state (\w+)", lambda m: f"{names[m[1]]} {m[2]}", line)
        for line in told
    ]


def test_each_host_is_drained_at_all_gateways_in_its_turn(
    tmp_path: Path, server: SshServer
) -> None:
    code, said, told = run(tmp_path, server)
    assert code == 0, said
    assert story(told) == [
        line
        for host in ("gpu1", "gpu2")
        for line in (*[f"{host} drain"] * 2, f"{host} changes", *[f"{host} ready"] * 2)
    ]
    assert "[gpu1]     gw1, gw2: no new requests to one" in said
    assert "[gpu2]     gw1, gw2: requests go to one again" in said


def test_gateways_are_told_though_the_run_is_for_another_host(
    tmp_path: Path, server: SshServer
) -> None:
    code, said, told = run(tmp_path, server, "--limit", "gpu2")
    assert code == 0, said
    assert story(told) == [*["gpu2 drain"] * 2, "gpu2 changes", *["gpu2 ready"] * 2]
    assert "[gw1]" not in said.partition("Results")[2]


def test_a_gateway_that_is_down_does_not_stop_it(tmp_path: Path, server: SshServer) -> None:
    code, said, told = run(tmp_path, server, "--limit", "gpu2", ssh_port=1)
    assert code == 0, said
    assert story(told) == ["gpu2 drain", "gpu2 changes", "gpu2 ready"]
    assert "[gpu2]     gw2 counts as down: neither SSH nor port 9 answers" in said


def test_the_key_of_a_gateway_that_changed_is_not_taken(tmp_path: Path, server: SshServer) -> None:
    other = tmp_path / "known_hosts"
    key = "AAAAC3NzaC1lZDI1NTE5AAAAIGN0ZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZm"
    other.write_text(f"[127.0.0.4]:{server.port} ssh-ed25519 {key}\n")
    more = {"ssh_known_hosts_file": str(other), "edge": {"https_port": server.port}}
    code, said, told = run(tmp_path, server, "--limit", "gpu2", **more)
    assert code == 1, said
    assert told == []
    assert "gateway gw2 answers clients and cannot be asked" in said
