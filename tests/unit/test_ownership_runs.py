"""Runs of pyinfra and of `vllm-hosts hosts` against this machine, whose /etc is a folder of the
test."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.projects import AGENT, Project
from vllm_hosts.keys import KeyStore

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the mark belongs to root")

PROD, COPY = "inventory/prod.py", "inventory/copy.py"
#: Paths of the host, in a folder of the test.
_MOVED = """
import sys
import vllm_hosts.cli.hosts  # and with it all that knows a path
NAMES = ("STORE_MARK", "EDGE_FOLDER", "TLS_CERTIFICATE", "DEPLOYED", "COPIES", "STAMPS", "PREVIOUS")
NAMES = (*NAMES, "LOCK", "HISTORY", "UNDO", "BEFORE", "MANIFEST")
for module in [one for name, one in sys.modules.items() if name.startswith("vllm_hosts")]:
    for name in NAMES:
        path = getattr(module, name, None)
        if isinstance(path, str) and not path.startswith({folder!r}):
            setattr(module, name, {folder!r} + path)
"""
LOCAL = "('@local', {'ssh_hostname': '192.0.2.1'})"
DOWN = "('down', {'ssh_hostname': '127.0.0.1', 'ssh_port': 1, 'ssh_user': 'admin'})"


class Machine(Project):
    """A project whose only role is the one in question."""

    def __post_init__(self) -> None:
        super().__post_init__()
        (self.folder / "host/run").mkdir(parents=True)
        self.write("moved.py", _MOVED.format(folder=str(self.folder / "host")))
        for name in ("deploy.py", "config.py"):
            (self.folder / name).unlink()
        # Before anything of ours is imported.
        self.write(
            "config.py", "import moved\nfrom vllm_hosts.project import run\n\nrun.install()\n"
        )
        role = "from vllm_hosts.roles.ownership import ownership\n"
        self.write("deploy.py", f"{role}ownership()\n")
        self.write("keys.py", f"{role}ownership(first=False)\n")
        self.group(agents=[AGENT], vllm={"directory": str(self.folder / "host/opt")})
        self.environment = {"HOME": str(self.folder), "PYTHONPATH": str(self.folder)}
        self.inventory(PROD, LOCAL)

    def inventory(self, name: str, *hosts: str) -> None:
        self.write(name, f"gpu_hosts = [{', '.join(hosts)}]\n")

    @property
    def mark(self) -> Path:
        return self.folder / "host/etc/vllm-hosts/store"

    def pyinfra(self, *words: str, code: int = 0) -> str:
        done = self.run("pyinfra", *words)
        assert done.returncode == code, done.stdout
        assert "Traceback" not in done.stdout, done.stdout
        return done.stdout

    def hosts(self, *words: str, code: int = 0, streams: str = "both") -> str:
        """`vllm-hosts hosts`, or another command, in a process that knows of the folder."""
        # What the program patches stands in the project, as for pyinfra.
        program = self.patched(f"import sys; sys.path[0] = {str(self.folder)!r}", "import moved")
        done = self.run(program, *words, apart=streams != "both")
        assert done.returncode == code, done.stdout
        assert "Traceback" not in done.stdout, done.stdout
        return done.stdout if streams != "err" else done.stderr

    def state(self) -> list[str]:
        """Everything that stores are made of."""
        names = (".vllm-hosts", "keys")
        found = [path for path in self.folder.rglob("*") if set(names) & set(path.parts)]
        return sorted(str(path.relative_to(self.folder)) for path in found)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    (tmp_path / "p").mkdir()
    real = Path("/etc/vllm-hosts/store")
    before = real.exists()
    yield Machine(tmp_path / "p")
    assert real.exists() == before


def test_from_a_first_run_to_another_inventory(machine: Machine) -> None:
    """O1. A dry run makes nothing, a second run changes nothing, a copy is refused."""
    said = machine.pyinfra("--dry", PROD, "deploy.py")
    assert "There is no key store yet; a deploy creates one in inventory/.vllm-hosts/prod" in said
    assert machine.state() == []
    assert not machine.mark.exists()

    machine.pyinfra("-y", PROD, "deploy.py")
    store = KeyStore(machine.folder / PROD)
    content = store.read()
    assert machine.mark.read_text().endswith(f"store {content.id}\ninventory prod\n")
    assert machine.mark.stat().st_mode & 0o7777 == 0o644
    assert list(content.hosts) == ["@local"]
    before = store.path.read_bytes()
    assert "0 changed, 2 unchanged" in machine.pyinfra("-y", PROD, "deploy.py")
    assert "0 changed, 1 unchanged" in machine.pyinfra("-y", PROD, "keys.py")
    assert store.path.read_bytes() == before

    machine.inventory(COPY, LOCAL)
    there = machine.state()
    for words in (["-y", COPY, "deploy.py"], ["-y", COPY, "keys.py"]):
        said = machine.pyinfra(*words, code=1)
        assert "deploy it with inventory/prod.py" in said
        assert "mv inventory/.vllm-hosts/prod inventory/.vllm-hosts/copy" in said
        assert "vllm-hosts hosts adopt inventory/copy.py @local" in said
        assert machine.state() == there
    assert f"store {content.id}" in machine.mark.read_text()


def test_a_host_without_keys_is_not_keys_py_s(machine: Machine) -> None:
    machine.pyinfra("-y", PROD, "keys.py")
    assert machine.state() == []
    assert not machine.mark.exists()


def test_drift_makes_nothing_and_says_whose_a_host_is(machine: Machine) -> None:
    said = machine.hosts("drift", PROD, code=3)
    assert "etc/vllm-hosts/store does not name this inventory's store" in said
    assert machine.state() == []
    machine.pyinfra("-y", PROD, "deploy.py")
    assert "@local: nothing differs" in machine.hosts("drift", PROD)
    machine.inventory(COPY, LOCAL)
    there = machine.state()
    said = machine.hosts("drift", COPY, code=1)
    assert "Ownership: this host has the keys and the CA of inventory/prod.py" in said
    assert machine.state() == there


def test_adoption(machine: Machine) -> None:
    machine.pyinfra("-y", PROD, "deploy.py")
    machine.inventory(COPY, LOCAL)
    there = machine.state()
    said = machine.hosts("hosts", "adopt", COPY, "@local", code=2)
    assert "@local has the keys and the CA of the inventory 'prod'" in said
    assert "refused until each has a new key and the new CA" in said
    assert "Add -y to go on" in said
    assert machine.state() == there
    said = machine.hosts("hosts", "adopt", COPY, "@local", "--yes")
    assert "pyinfra --limit @local inventory/copy.py deploy.py" in said
    assert "inventory copy\n" in machine.mark.read_text()
    assert "already belongs to inventory/copy.py" in machine.hosts("hosts", "adopt", COPY, "@local")
    machine.pyinfra("-y", COPY, "deploy.py")
    # And once: what it belonged to is refused now.
    assert "inventory/copy.py" in machine.pyinfra("-y", PROD, "deploy.py", code=1)
    assert "has no host x; it has @local" in machine.hosts("hosts", "adopt", COPY, "x", code=2)


def test_nothing_to_adopt(machine: Machine) -> None:
    assert "belongs to no inventory" in machine.hosts("hosts", "adopt", PROD, "@local", "--yes")
    assert machine.state() == []


def test_a_host_that_was_taken_out(machine: Machine) -> None:
    """O4. It is named, keys.py reaches it, until it is released."""
    machine.inventory(PROD, LOCAL, DOWN)
    machine.pyinfra("-y", PROD, "deploy.py", code=1)
    [listed, down] = json.loads(machine.hosts("hosts", "list", PROD, "--json", streams="out"))
    assert listed["reached_by"] == {"ssh_hostname": "192.0.2.1"}
    assert (listed["agents"], listed["has_keys"], listed["in_inventory"]) == (["one"], True, True)
    # What was never reached has no keys.
    assert (down["has_keys"], down["reached_by"]) == (False, None)

    machine.inventory(PROD, DOWN)
    named = "@local is no longer in inventory/prod.py, and still accepts the keys"
    for words in (
        ["check", PROD],
        ["endpoints", PROD],
        ["keys", "list", PROD],
        ["hosts", "list", PROD],
    ):
        said = machine.hosts(*words, streams="err")
        assert said.count(named) == 1, words
        assert "vllm-hosts hosts release inventory/prod.py @local" in said
    assert "down, @local: takes effect with" in machine.hosts("keys", "add", PROD, "alice")
    # What its deploy left is what keys.py finds.
    machine.mark.unlink()
    edge = machine.folder / "host/etc/nginx/vllm-hosts"
    edge.mkdir(parents=True)
    key = machine.hosts("keys", "show", "--force", PROD, "alice", streams="out")
    (edge / "clients.map").write_text(f'"Bearer {key}" "alice Bearer {key}";\n')
    said = machine.pyinfra("-y", PROD, "keys.py", code=1)
    assert said.count(named) == 1
    assert "[@local]" in said
    assert machine.mark.exists()
    assert "Still with their old keys: down\n" in said
    machine.pyinfra("-y", "--limit", "@local", PROD, "keys.py")
    said = machine.pyinfra("-y", PROD, "deploy.py", code=1)
    assert "[@local]" not in said
    assert said.count(named) == 1
    assert machine.pyinfra("--dry", PROD, "deploy.py", code=1).count(named) == 1

    assert "remove it there first" in machine.hosts("hosts", "release", PROD, "down", code=1)
    said = machine.hosts("hosts", "release", PROD, "@local")
    assert "Its edge keeps accepting the keys that it has" in said
    # Nobody is told to type what was just typed.
    assert "until you run" not in said
    assert "any more" not in machine.hosts("check", PROD, streams="err")
    assert "[@local]" not in machine.pyinfra("-y", PROD, "keys.py", code=1)
    assert "has no host '@local'" in machine.hosts("hosts", "release", PROD, "@local", code=2)


def test_a_typo_makes_nothing(machine: Machine) -> None:
    typo = "inventory/typo.py"
    for words in (
        ["list", typo],
        ["show", "--force", typo, "default"],
        ["rotate", typo, "default"],
        ["revoke", typo, "default"],
        ["add", typo, "alice"],
        ["recipients", "list", typo],
    ):
        assert f"{typo} is not a file" in machine.hosts("keys", *words, code=2)
    assert "there is no key store" in machine.hosts("keys", "list", PROD, code=1)
    assert machine.state() == []
