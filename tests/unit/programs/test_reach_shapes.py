"""Every command of ours with inventories of every size, and on the way to edges."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.programs.test_reach import COMMANDS, Reached, faults, inventory, one_line
from tests.unit.projects import AGENT, ROOT, Project
from tests.unit.ssh_server import SshServer, hanging_up, ssh_server
from vllm_hosts.host.paths import EDGE_CONF
from vllm_hosts.roles import client_keys

#: What needs no host, with how it ends where there is no key store yet.
WITHOUT_HOSTS = {
    ("check", "inventory/prod.py"): 0,
    ("endpoints", "inventory/prod.py"): 0,
    ("hosts", "list", "inventory/prod.py"): 1,
    ("hosts", "release", "inventory/prod.py", "gone"): 1,
    ("keys", "list", "inventory/prod.py"): 1,
    ("tls", "inventory/prod.py", "renew"): 1,
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    with ssh_server(tmp_path_factory.mktemp("ssh")) as running:
        yield running


@pytest.fixture
def hang_up() -> Iterator[int]:
    with hanging_up() as port:
        yield port


def all_at_once(project: Project, *commands: list[str]) -> Iterator[tuple[str, int, str]]:
    """What each command was, how it ended and what it said; never a traceback."""
    for done in project.run_at_once(*commands):
        words = " ".join(done.args)
        assert "Traceback" not in done.stdout, f"{words}: {done.stdout}"
        assert "INTERNALERROR" not in done.stdout, f"{words}: {done.stdout}"
        assert "bug report" not in done.stdout, f"{words}: {done.stdout}"
        yield words, done.returncode, one_line(done.stdout)


def test_an_inventory_without_hosts(tmp_path: Path) -> None:
    project = Reached(tmp_path)
    project.write("inventory/prod.py", "gpu_hosts = []\n")
    without = [["vllm-hosts", *words] for words in WITHOUT_HOSTS]
    adopt = ["vllm-hosts", "hosts", "adopt", "inventory/prod.py", "gpu1"]
    status = ["vllm-hosts", "tls", "inventory/prod.py", "status"]
    for words, code, said in all_at_once(project, *COMMANDS, *without, adopt, status):
        assert code == 1 + words.startswith("pyinfra"), f"{words}: {said}"
        # Of the store, what only needs that says something first.
        assert "inventory/prod.py has no hosts" in said or "there is no key store" in said, (
            f"{words}: {said}"
        )


@pytest.mark.parametrize("count", [1, 50])
def test_hosts_that_refuse_connections(tmp_path: Path, server: SshServer, count: int) -> None:
    """One that has no GPU, and fifty."""
    project = Reached(tmp_path)
    names = [f"gpu{number}" for number in range(count)]
    data = {name: server.data(n + 1, ssh_port=1) for n, name in enumerate(names)}
    inventory(project, data)
    project.group(agents=[dict(AGENT, gpus=[])], edge={"names": ["llm.example.com"]})
    # doctor has its own test with fifty, and a plan without GPUs needs no host.
    some = {"start", "verify", "--dry"}
    chosen = [
        words for words in COMMANDS if (some & {*words} if count > 1 else "plan" not in words)
    ]
    for words, code, said in all_at_once(project, *chosen):
        assert code == 1, f"{words}: {said}"
        assert said.count("refuses connections to port 1") >= count or "--once" in words, (
            f"{words}: {said}"
        )
    without = [["vllm-hosts", *words] for words in WITHOUT_HOSTS]
    for (words, code, said), wanted in zip(
        all_at_once(project, *without), WITHOUT_HOSTS.values(), strict=True
    ):
        assert code == wanted, f"{words}: {said}"
        assert code == 0 or "there is no key store" in said, f"{words}: {said}"


def test_the_example_inventory_as_shipped(tmp_path: Path) -> None:
    """H21."""
    project = Reached(tmp_path)
    for name in ("inventory/prod.py", "group_data/all.py", "group_data/gpu_hosts.py"):
        shutil.copy(ROOT / name, tmp_path / name)
    project.environment = {"HOME": str(tmp_path)}
    assert project.check().returncode == 0
    for words, code, said in all_at_once(project, *COMMANDS):
        assert code == 1, f"{words}: {said}"
        sentence = "the SSH key ~/.ssh/id_ed25519 does not exist; correct ssh_key"
        # A table in a terminal cuts what does not fit; see test_reach.py.
        assert sentence in said or "doctor" in words, f"{words}: {said}"


def test_a_host_that_is_to_be_adopted_and_cannot_be_reached(
    tmp_path: Path, server: SshServer, hang_up: int
) -> None:
    project = Project(tmp_path)
    some = {"no-key", "passphrase", "changed-host-key", "refused-port", "hangs-up"}
    wrong = {
        name: fault for name, fault in faults(server, tmp_path, hang_up).items() if name in some
    }
    inventory(project, {name: data for name, (data, _) in wrong.items()})
    adopt = ["vllm-hosts", "hosts", "adopt", "inventory/prod.py"]
    ended = all_at_once(project, *([*adopt, name, "--yes"] for name in wrong))
    for (name, (_, sentence)), (words, code, said) in zip(wrong.items(), ended, strict=True):
        assert code == 1, f"{words}: {said}"
        assert f"{name}: cannot be reached: " in said, said
        assert sentence in said
    assert not (tmp_path / "inventory" / ".vllm-hosts").exists()


def test_edges_whose_certificate_cannot_be_seen(tmp_path: Path, hang_up: int) -> None:
    hosts = {
        "refuses": {"ssh_hostname": "127.0.0.1", "edge": {"https_port": 1}},
        "no-name": {"ssh_hostname": "no-such-host.invalid"},
        "hangs-up": {"ssh_hostname": "127.0.0.1", "ssh_port": 2, "edge": {"https_port": hang_up}},
    }
    project = Project(tmp_path)
    project.write("inventory/prod.py", f"gpu_hosts = {list(hosts.items())!r}\n")
    [[_, code, said]] = all_at_once(project, ["vllm-hosts", "tls", "inventory/prod.py", "status"])
    assert code == 1
    for name in hosts:
        assert f"{name}: its certificate could not be fetched from " in said
    done = project.run("vllm-hosts", "tls", "inventory/prod.py", "status", "--json")
    found = json.loads(done.stdout)
    assert [one["host"] for one in found] == list(hosts)
    assert all(
        one["error"].startswith("its certificate could not be fetched from ") for one in found
    )


def test_keys_go_to_an_edge_of_ours_only(tmp_path: Path) -> None:
    """A host that was never deployed to may have an nginx of its user's."""
    nginx = tmp_path / "nginx"
    nginx.write_text("#!/bin/sh\nexit 0\n")
    nginx.chmod(0o755)
    check = client_keys._CHECK.replace(EDGE_CONF, str(tmp_path / "ours.conf"))

    def checked() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["/bin/sh", "-c", check],
            env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
            capture_output=True,
            text=True,
            check=False,
        )

    done = checked()
    assert (done.returncode, done.stdout) == (1, "this host has no edge yet; run deploy.py\n")
    (tmp_path / "ours.conf").touch()
    assert checked().returncode == 0
