"""Runs that could do nothing, or hide failures, are refused before anything connects."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.projects import AGENT, Project


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


class Listener:
    """Counts connections to a port of this machine."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self.connections = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                self._socket.accept()[0].close()
            except OSError:
                return
            self.connections += 1

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def listener() -> Iterator[Listener]:
    listener = Listener()
    yield listener
    listener.close()


def test_pyinfra_itself_stops_before_it_connects(project: Project, listener: Listener) -> None:
    host = ("127.0.0.1", {"ssh_port": listener.port, "ssh_user": "nobody"})
    project.write("inventory/prod.py", f"gpu_hosts = [{host!r}]\n")
    project.group(agents=[dict(AGENT, port=80)])
    done = project.run("pyinfra", "-y", "inventory/prod.py", "deploy.py")
    assert done.returncode == 2, done.stdout
    assert "group_data/gpu_hosts.py: agents[0].port must be at least 1024, not 80" in done.stdout
    assert "No host was changed" in done.stdout
    assert "Traceback" not in done.stdout
    assert listener.connections == 0
    # The same run with good settings does connect, so the count above means something.
    project.group()
    done = project.run("pyinfra", "-y", "inventory/prod.py", "deploy.py")
    assert done.returncode != 0
    assert listener.connections > 0, done.stdout


def test_damaged_keys_stop_pyinfra_before_it_connects(project: Project, listener: Listener) -> None:
    host = ("127.0.0.1", {"ssh_port": listener.port, "ssh_user": "nobody"})
    project.write("inventory/prod.py", f"gpu_hosts = [{host!r}]\n")
    project.write("inventory/.vllm-hosts/prod/keys.json", "{")
    (project.folder / "inventory/.vllm-hosts/prod").chmod(0o700)
    (project.folder / "inventory/.vllm-hosts/prod/keys.json").chmod(0o600)
    done = project.run("pyinfra", "-y", "inventory/prod.py", "deploy.py")
    assert done.returncode == 2
    assert "keys.json is damaged; restore it from a backup" in done.stdout
    assert "Traceback" not in done.stdout
    assert listener.connections == 0


def test_a_run_that_would_hide_failures_is_refused(project: Project) -> None:
    done = project.run("pyinfra", "-y", "--no-wait", "inventory/prod.py", "deploy.py")
    assert done.returncode != 0
    assert "--no-wait exits with 0 after failures; leave it out" in done.stdout


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--limit", "gpu9"), "--limit gpu9 names no host that inventory/prod.py deploys to"),
        (("--limit", "192.0.2.1", "--limit", "gpu9"), "--limit gpu9 names no host"),
        (("--limit", "beside"), "--limit beside names no host that inventory/prod.py deploys to"),
        (("--exclude", "gpu9"), "--exclude gpu9 names no host of inventory/prod.py"),
        (("--exclude", "gpu_*"), "--exclude gpu_* names no host of inventory/prod.py"),
        (("--exclude", "gpu_hosts"), "--limit and --exclude leave no host to deploy to"),
    ],
)
def test_a_limit_that_names_nobody_is_refused(
    project: Project, options: tuple[str, ...], said: str
) -> None:
    """pyinfra warns, does nothing or too much, and ends with 0: a revoked key would go on."""
    project.write("inventory/prod.py", "gpu_hosts = ['192.0.2.1']\nneighbours = ['beside']\n")
    done = project.run("pyinfra", "-y", *options, "inventory/prod.py", "deploy.py")
    assert done.returncode == 2, done.stdout
    assert f"--> {said}" in done.stdout
    assert "onnecting" not in done.stdout
    assert not (project.folder / "inventory/.vllm-hosts").exists()


@pytest.mark.parametrize(
    ("words", "said", "code"),
    [
        (("inventory/nope.py", "deploy.py"), "inventory/nope.py is not a file; name an", 2),
        (("inventory/none.py", "deploy.py"), "inventory/none.py has no hosts; add one", 2),
        (("inventory/broken.py", "deploy.py"), "inventory/broken.py, line 2: cannot be loaded", 2),
        (("deploy.py", "inventory/prod.py"), "run: pyinfra inventory/prod.py deploy.py", 2),
        (("--data", "vllm", "inventory/prod.py", "deploy.py"), "as --data NAME=VALUE", 2),
    ],
)
def test_a_run_without_hosts_is_refused(
    project: Project, words: tuple[str, ...], said: str, code: int
) -> None:
    project.write("inventory/none.py", "gpu_hosts = []\n")
    project.write("inventory/broken.py", "gpu_hosts = []\nimport nope\n")
    done = project.run("pyinfra", "-y", *words)
    assert done.returncode == code, done.stdout
    assert said in done.stdout
    assert "key store" not in done.stdout and "Traceback" not in done.stdout


def test_an_inventory_without_group_data_says_where_it_belongs(
    project: Project, tmp_path: Path
) -> None:
    """H29: not where the command is typed, where there may be another site's."""
    lone = tmp_path / "lone"
    project.write("lone/inventory/prod.py", "gpu_hosts = ['192.0.2.1']\n")
    # The project would be its site: the nearest deploy.py above.
    (project.folder / "deploy.py").unlink()
    done = project.run("vllm-hosts", "check", "lone/inventory/prod.py")
    assert done.returncode == 1
    assert f"there is no group_data in {lone}, where it belongs for this inventory" in done.stdout


def test_a_dry_run_that_would_look_at_nothing_is_refused(project: Project) -> None:
    done = project.run("pyinfra", "-y", "--dry", "inventory/prod.py", "deploy.py")
    assert done.returncode == 2
    assert "--dry with -y (or PYINFRA_YES) checks nothing" in done.stdout
    assert "Traceback" not in done.stdout


@pytest.mark.parametrize("name", ["deploy.py", "keys.py"])
def test_a_deploy_from_another_folder_is_one_sentence(tmp_path: Path, name: str) -> None:
    """H29."""
    (tmp_path / "there").mkdir()
    project = Project(tmp_path / "there")
    (project.folder / "keys.py").symlink_to(Path(__file__).parents[2] / "keys.py")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "x.py").write_text("gpu_hosts = [('@local', {'ssh_hostname': '127.0.0.1'})]\n")
    project.folder = elsewhere
    done = project.run("pyinfra", "-y", "x.py", str(tmp_path / "there" / name))
    assert done.returncode != 0
    assert "pyinfra has not loaded config.py, so nothing was validated" in done.stdout
    assert f"cd {tmp_path}/there && pyinfra {elsewhere}/x.py {name}" in done.stdout
    assert "Traceback" not in done.stdout
