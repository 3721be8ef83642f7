"""H18: hosts under names of an SSH configuration are connected to: HostName, Port, ProxyJump."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.projects import Project
from tests.unit.ssh_server import SshServer, ssh_server

#: Where the edge is checked, and that commands arrive.
DEPLOY = """
from vllm_hosts.project import run
from vllm_hosts.operations.base import StringCommand, host_operation

@host_operation
def touched(name, address):
    yield StringCommand(f"echo {{address}} >{folder}/{{name}}")

here = run.current()
touched(here.settings.name, here.settings.address, name="Touched")
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[SshServer]:
    with ssh_server(tmp_path / "ssh") as running:
        running.program("docker", "echo 'there is no Docker here' >&2; exit 1")
        yield running


def aliases(server: SshServer, folder: Path, *, bastion: int | None = None) -> Project:
    """``plain`` is an alias, ``behind`` one behind a jump host."""
    key, known = server.folder / "client", folder / "known_hosts"
    (folder / "ssh_config").write_text(
        f"Host plain\n  HostName 127.0.0.2\n  Port {server.port}\n"
        f"Host behind\n  HostName 127.0.0.3\n  Port {server.port}\n  ProxyJump bastion\n"
        f"Host bastion\n  HostName 127.0.0.4\n  Port {bastion or server.port}\n"
        f"Host *\n  User root\n  IdentityFile {key}\n  UserKnownHostsFile {known}\n"
        "  StrictHostKeyChecking accept-new\n"
    )
    project = Project(folder)
    (folder / "deploy.py").unlink()
    project.write("deploy.py", DEPLOY.format(folder=folder))
    shared = {"ssh_config_file": str(folder / "ssh_config"), "ssh_known_hosts_file": str(known)}
    hosts = [
        (name, shared | {"edge": {"names": [f"{name}.example.com"]}})
        for name in ("plain", "behind")
    ]
    project.write("inventory/prod.py", f"gpu_hosts = {hosts!r}\n")
    project.environment = {"HOME": str(folder)}
    return project


def test_a_deploy_goes_through_an_alias_and_a_jump_host(tmp_path: Path, server: SshServer) -> None:
    project = aliases(server, tmp_path)
    done = project.run("pyinfra", "-y", "inventory/prod.py", "deploy.py")
    assert done.returncode == 0, done.stdout
    # What the checks of the edge connect to.
    assert (tmp_path / "plain").read_text() == "127.0.0.2\n"
    assert (tmp_path / "behind").read_text() == "127.0.0.3\n"
    assert server.jumps() == [f"127.0.0.3:{server.port}"]


@pytest.mark.parametrize(
    "words",
    [
        ["vllm-hosts", "agents", "inventory/prod.py", "status"],
        ["vllm-hosts", "verify", "inventory/prod.py", "--promise", "HOST-01"],
    ],
    ids=lambda words: words[1],
)
def test_commands_do_too(tmp_path: Path, server: SshServer, words: list[str]) -> None:
    done = aliases(server, tmp_path).run(*words)
    assert "cannot be reached" not in done.stdout
    assert "Traceback" not in done.stdout
    if "agents" in words:
        for name in ("plain", "behind"):
            assert f"{name}: the agents' containers could not be read: there is no Docker here" in (
                done.stdout
            )
    assert server.jumps() == [f"127.0.0.3:{server.port}"]


def test_a_jump_host_that_cannot_be_reached_is_named(tmp_path: Path, server: SshServer) -> None:
    project = aliases(server, tmp_path, bastion=1)
    done = project.run("vllm-hosts", "agents", "inventory/prod.py", "status")
    assert done.returncode == 1
    assert "behind: cannot be reached: 127.0.0.4 refuses connections to port 1;" in done.stdout
    assert "plain: cannot be reached" not in done.stdout


def test_an_alias_that_refuses_connections_is_named_with_its_own_port(
    tmp_path: Path, server: SshServer
) -> None:
    project = aliases(server, tmp_path)
    config = tmp_path / "ssh_config"
    config.write_text(config.read_text().replace(f"Port {server.port}", "Port 1", 1))
    done = project.run("vllm-hosts", "agents", "inventory/prod.py", "status")
    assert "plain: cannot be reached: 127.0.0.2 refuses connections to port 1;" in done.stdout
