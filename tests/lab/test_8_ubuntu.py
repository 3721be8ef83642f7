"""The roles' Ubuntu branches, on a host that says it is Ubuntu 24.04 and is Debian 13 underneath.

The lab has no Ubuntu archive: names of packages, suites and archives are looked at, not what is in
Ubuntu's own packages.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from lab import bare, gpu
from lab import hosts as lab_hosts
from tests.lab.conftest import Deployed
from tests.lab.deploys import changes, command, deploy
from tests.lab.test_5_driver import installed

pytestmark = pytest.mark.nightly


@pytest.fixture(scope="module")
def ubuntu(deployed: Deployed) -> Iterator[str]:
    """gpu2, fresh, without a driver; as it was afterwards."""
    lab_hosts.reset(["gpu2"])
    bare.as_ubuntu("gpu2")
    bare.without_driver("gpu2")
    yield "gpu2"
    lab_hosts.reset(["gpu2"])
    run = deploy("--limit", "gpu2")
    assert run.code == 0, run.output[-4000:]


def test_ubuntus_own_docker_is_named_as_ubuntu_names_it(ubuntu: str) -> None:
    """docker-compose-v2 is no package of Debian's, so apt's refusal shows the name."""
    settings = {"docker": {"source": "distro"}, "nvidia": {"driver": "install"}}
    run = deploy("--limit", ubuntu, settings=settings)
    assert run.code != 0
    assert "Unable to locate package docker-compose-v2" in run.output


def test_a_fresh_ubuntu_host_gets_everything(ubuntu: str) -> None:
    settings: dict[str, Any] = {"nvidia": {"driver": "install"}}
    run = deploy("--limit", ubuntu, settings=settings)
    assert run.code == 0, run.output[-6000:]
    docker = lab_hosts.run(ubuntu, "cat /etc/apt/sources.list.d/docker.sources").stdout
    assert "URIs: https://archive.lab/docker/linux/ubuntu\n" in docker
    assert "Suites: noble\n" in docker
    packages = installed(ubuntu)
    assert {"nvidia-headless-580-server-open", "nvidia-utils-580-server"} <= set(packages)
    assert all(held for _, held in packages.values())
    held = lab_hosts.run(ubuntu, "apt-mark showhold").stdout.split()
    assert "nvidia-container-toolkit" in held
    found = command("vllm-hosts", "verify", "inventory/lab.py", "--host", ubuntu, settings=settings)
    assert found.code == 0, found.output[-4000:]
    again = deploy("--limit", ubuntu, settings=settings)
    assert (again.code, changes(again)) == (0, {ubuntu: 0}), again.output[-6000:]


def test_nvswitches_get_ubuntus_fabric_manager(ubuntu: str) -> None:
    gpu.write_cards(lab_hosts.root(ubuntu), 2, ubuntu, switches=2)
    run = deploy("--limit", ubuntu, settings={"nvidia": {"driver": "install"}})
    assert run.code == 0, run.output[-6000:]
    version, held = installed(ubuntu)["nvidia-fabricmanager-580"]
    assert version.startswith("580.95.05-")
    assert held
    lab_hosts.run(ubuntu, "systemctl is-active nvidia-fabricmanager.service")
