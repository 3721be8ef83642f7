"""Hosts that are not fresh: what others installed and configured is taken over, not lost."""

from __future__ import annotations

import json

import pytest

from lab import hosts as lab_hosts
from tests.lab.conftest import Deployed
from tests.lab.deploys import changes, command, deploy

pytestmark = pytest.mark.nightly

_APT = "DEBIAN_FRONTEND=noninteractive apt-get -qq -y"
#: An operator's own settings, one of them about what the toolkit sets too.
_DAEMON = {"mtu": 1400, "log-opts": {"max-size": "7m", "tag": "{{.Name}}"}, "debug": False}


@pytest.fixture
def fresh_gpu2(deployed: Deployed) -> None:
    lab_hosts.reset(["gpu2"])


def test_the_distribution_s_docker_and_its_settings(fresh_gpu2: None) -> None:
    """docker.io is replaced by docker-ce; daemon.json, a volume and foreign rules stay."""
    lab_hosts.run(
        "gpu2", f"{_APT} update && {_APT} install docker.io docker-cli nftables", timeout=200
    )
    lab_hosts.run(
        "gpu2",
        "mkdir -p /etc/docker && cat >/etc/docker/daemon.json <<'END'\n"
        + json.dumps(_DAEMON)
        + "\nEND\nsystemctl restart docker && docker volume create kept"
        " && nft 'add table inet theirs; add chain inet theirs c'"
        " && echo 'deb [trusted=yes] http://192.0.2.1/docker stable main'"
        " >/etc/apt/sources.list.d/docker.list",
    )
    run = deploy("--limit", "gpu2")
    assert run.code == 0, run.output[-6000:]
    packages = lab_hosts.run("gpu2", "dpkg-query -W -f '${db:Status-Abbrev}${Package}\\n'").stdout
    assert "ii docker-ce\n" in packages
    assert "ii docker.io\n" not in packages
    found = json.loads(lab_hosts.run("gpu2", "cat /etc/docker/daemon.json").stdout)
    assert (found["mtu"], found["debug"]) == (1400, False)
    assert found["log-opts"] == {"max-size": "50m", "max-file": "3", "tag": "{{.Name}}"}
    assert "nvidia" in found["runtimes"]
    assert "kept" in lab_hosts.run("gpu2", "docker volume ls -q").stdout
    assert "theirs" in lab_hosts.run("gpu2", "nft list tables").stdout
    previous = "/var/lib/vllm-hosts/previous"
    assert json.loads(lab_hosts.run("gpu2", f"cat {previous}/etc/docker/daemon.json").stdout)
    lab_hosts.run("gpu2", f"grep 192.0.2.1 {previous}/etc/apt/sources.list.d/docker.list")
    assert command("vllm-hosts", "verify", "inventory/lab.py", "-k", "gpu2").code == 0
    again = deploy("--limit", "gpu2")
    assert (again.code, changes(again)) == (0, {"gpu2": 0})


def test_docker_of_the_distribution_by_choice(fresh_gpu2: None) -> None:
    chosen = {"hosts": {"gpu2": {"docker": {"source": "distro"}}}}
    run = deploy("--limit", "gpu2", settings=chosen)
    assert run.code == 0, run.output[-6000:]
    packages = lab_hosts.run("gpu2", "dpkg-query -W -f '${db:Status-Abbrev}${Package}\\n'").stdout
    assert "ii docker.io\n" in packages
    again = deploy("--limit", "gpu2", settings=chosen)
    assert (again.code, changes(again)) == (0, {"gpu2": 0})
    # And back to what the inventory says, for the tests that follow.
    run = deploy("--limit", "gpu2")
    assert run.code == 0, run.output[-6000:]
