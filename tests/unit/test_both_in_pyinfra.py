"""Machines that are gateways and GPU hosts, in pyinfra's own runs: each asks its own agents."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.projects import Project
from tests.unit.ssh_server import SshServer, ssh_server
from tests.unit.test_drains_cli import SOCAT
from tests.unit.test_rotation_in_pyinfra import DEPLOY, story
from vllm_hosts.settings.fleet import host_label, inner_name

#: The same, but that agents are asked; the certificate is some file that is there.
_ASKS = """
from vllm_hosts.host import inside
from vllm_hosts.operations import rotation
inside.script.__kwdefaults__["own"] = "/dev/null"
rotation._ASKED_EVERY = 0
"""
OWN = _ASKS + DEPLOY.replace(
    "changed(replace(current.rotation, answers=lambda agent: None), name=",
    "changed(current.rotation, name=",
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    with ssh_server(tmp_path_factory.mktemp("server")) as running:
        yield running


def run(folder: Path, server: SshServer, status: str) -> tuple[int, str, list[str]]:
    """A change of both machines' agents, whose own answers have this status."""
    assert OWN.count("current.rotation, name=") == 1
    made = Project(folder)
    (folder / "deploy.py").unlink()
    made.write("deploy.py", OWN.format(folder=folder))
    edge = {"edge": {"https_port": 9}}
    hosts = [(f"gpu{n}", server.data(n, **edge)) for n in (1, 2)]
    made.write("inventory/prod.py", f"gateways = {hosts!r}\ngpu_hosts = {hosts!r}\n")
    servers = [f"one.{host_label(name)} UP 0" for name, _ in hosts]
    (folder / "servers").write_text("\n".join([*servers, ""]))
    server.program("systemctl", "exit 0")
    server.program("socat", SOCAT.format(folder=folder).partition("\n")[2])
    server.program(
        "openssl",
        f'echo "$*" >>{folder}/asked\ncat >/dev/null\nprintf "HTTP/1.1 {status}\\r\\n\\r\\n"',
    )
    done = made.run("pyinfra", "-y", "inventory/prod.py", "deploy.py")
    assert "Traceback" not in done.stdout, done.stdout
    told = folder / "told"
    return done.returncode, done.stdout, told.read_text().splitlines() if told.exists() else []


def test_each_is_drained_at_both_and_asks_itself(tmp_path: Path, server: SshServer) -> None:
    code, said, told = run(tmp_path, server, "200 OK")
    assert code == 0, said
    assert story(told) == [
        line
        for host in ("gpu1", "gpu2")
        for line in (*[f"{host} drain"] * 2, f"{host} changes", *[f"{host} ready"] * 2)
    ]
    assert "[gpu1]     gpu1, gpu2: no new requests to one" in said
    assert "[gpu2]     gpu1, gpu2: requests go to one again" in said
    asked = (tmp_path / "asked").read_text().splitlines()
    names = [line.partition("-servername ")[2].split()[0] for line in asked]
    assert names == [inner_name("gpu1", "one"), inner_name("gpu2", "one")]
    assert all("-connect 127.0.0.1:8443 " in line for line in asked)


def test_one_that_does_not_answer_itself_ends_the_run(tmp_path: Path, server: SshServer) -> None:
    code, said, told = run(tmp_path, server, "502 Bad Gateway")
    assert code == 1
    assert story(told) == [*["gpu1 drain"] * 2, "gpu1 changes"]
    assert "answer for it: /v1/completions gives 502; see vllm-hosts doctor" in said
