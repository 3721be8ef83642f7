"""Looking ahead in real runs of pyinfra over SSH: this machine in the place of a host."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.projects import Project
from tests.unit.ssh_server import SshServer, ssh_server
from tests.unit.test_sudo import install_sudo

#: Asks, changes one thing if it is not there, and asks again.
DEPLOY = """
from pyinfra.api.command import StringCommand
from vllm_hosts.facts import look
from vllm_hosts.facts.apt import AptPackages
from vllm_hosts.facts.release import OsRelease
from vllm_hosts.facts.tree import TreeState
from vllm_hosts.operations.base import host_operation
from vllm_hosts.operations.checks import say

PATH = {path!r}

@host_operation
def asked(number):
    look(OsRelease)
    look(AptPackages, names=["apt", "dpkg", f"none{{number}}"])
    yield from ()

@host_operation
def there():
    if look(TreeState, paths=[PATH]).paths[PATH].kind == "-":
        yield StringCommand(f"touch {{PATH}}")
    say([f"found {{look(TreeState, paths=[PATH]).paths[PATH].kind}}"])

for number in range(8):
    asked(number, name=f"Asked {{number}}")
there(name="It is there")
for number in range(8):
    asked(number, name=f"Asked {{number}} again")
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[SshServer]:
    with ssh_server(tmp_path / "ssh") as running:
        # This machine's own reads all package lists, each time: most of these tests' time.
        running.program("apt-mark", "exit 0")
        yield running


@pytest.fixture
def site(tmp_path: Path, server: SshServer) -> Project:
    folder = tmp_path / "site"
    folder.mkdir()
    made = Project(folder)
    (folder / "deploy.py").unlink()
    made.write("deploy.py", DEPLOY.format(path=str(tmp_path / "it")))
    made.write("inventory/prod.py", f"gpu_hosts = [('gpu1', {server.data()!r})]\n")
    # Which a first deploy makes for the keys.
    for private in ("inventory/.vllm-hosts", "inventory/.vllm-hosts/prod"):
        (folder / private).mkdir(mode=0o700)
    return made


def deploy(site: Project, server: SshServer) -> tuple[str, int]:
    """What it says of its host, and its executions there."""
    before = server.executions()
    done = site.run("pyinfra", "-y", "inventory/prod.py", "deploy.py")
    assert done.returncode == 0, done.stdout
    said = done.stdout[done.stdout.index("Beginning operation run") :]
    return said, server.executions() - before


def test_a_run_that_changes_nothing_is_one_execution(site: Project, server: SshServer) -> None:
    it = site.folder.parent / "it"
    first, asked = deploy(site, server)
    assert asked == 8 * 2 + 2 + 1 + 8 * 2
    unchanged, again = deploy(site, server)
    assert again == 1
    site.environment["VLLM_HOSTS_LOOKAHEAD"] = "0"
    assert deploy(site, server) == (unchanged, asked - 1)
    # And where something is to be changed: before it, and after it.
    it.unlink()
    plain, _ = deploy(site, server)
    del site.environment["VLLM_HOSTS_LOOKAHEAD"]
    it.unlink()
    assert deploy(site, server) == (plain, 1 + 1 + 1)
    assert plain == first != unchanged
    assert "found f" in plain


def test_a_sudo_that_asks_is_given_the_password(site: Project, server: SshServer) -> None:
    install_sudo(server.folder / "programs")
    password = (server.folder / "programs/password").read_text()
    site.environment["SUDO_OF_GPU1"] = password
    site.group(secrets={"sudo_password_env": "SUDO_OF_GPU1"})
    data = server.data(ssh_user="admin", _sudo=True)
    site.write("inventory/prod.py", f"gpu_hosts = [('gpu1', {data!r})]\n")
    _, first = deploy(site, server)
    _, again = deploy(site, server)
    # Whether sudo asks, and whether it takes the password, is seen on the way in.
    assert (first, again) == (35 + 2, 1 + 2)


def test_a_file_with_commands_in_it_runs_none(site: Project, server: SshServer) -> None:
    deploy(site, server)
    [file] = site.folder.glob("inventory/.vllm-hosts/prod/asked.json")
    kept = json.loads(file.read_text())
    evil = site.folder.parent / "evil"
    for number, (fact, given) in enumerate(kept["asked"]):
        if fact == "AptPackages":
            kept["asked"][number] = [fact, {"names": [*given["names"], f"$(touch {evil})"]}]
        if fact == "OsRelease":
            kept["asked"][number] = [f"touch {evil}", {}]
    file.write_text(json.dumps(kept))
    deploy(site, server)
    assert not evil.exists()
