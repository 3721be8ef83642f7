"""The main job on a real Debian 12: booted from its own archive, entered through sudo.

What is not its own: Docker's packages, which are Debian 13's with Debian 12's runc, and the GPU.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from lab import hosts as lab_hosts
from tests.lab.conftest import HOSTS
from tests.lab.deploys import INVENTORY, Run, changes, command, deploy
from tests.lab.test_1_converge import processes

pytestmark = pytest.mark.nightly

HOST = "debian12"
_APT = "DEBIAN_FRONTEND=noninteractive apt-get -qq -y"


@pytest.fixture(scope="module")
def host(lab: None) -> Iterator[str]:
    """Debian 12 beside the usual hosts, fresh; gone afterwards."""
    lab_hosts.up(len(HOSTS), [HOST])
    lab_hosts.reset([HOST])
    yield HOST
    lab_hosts.remove([HOST])


@pytest.fixture(scope="module")
def first(host: str) -> Run:
    return deploy("--limit", host)


def verified(host: str) -> None:
    run = command("vllm-hosts", "verify", INVENTORY, "--host", host)
    assert run.code == 0, run.output[-4000:]


def test_its_own_docker_is_refused_with_the_way_out(host: str) -> None:
    run = deploy("--limit", host, settings={"docker": {"source": "distro"}})
    assert run.code != 0
    assert "has no Compose v2 of its own; set docker.source = 'docker-ce'" in run.output
    assert lab_hosts.run(host, "command -v dockerd", check=False).stdout == ""


def test_a_fresh_host_gets_everything(host: str, first: Run) -> None:
    assert first.code == 0, first.output[-6000:]
    assert 'VERSION_ID="12"' in lab_hosts.run(host, "cat /etc/os-release").stdout
    sources = lab_hosts.run(host, "cat /etc/apt/sources.list.d/docker.sources").stdout
    assert "Suites: bookworm\n" in sources
    versions = lab_hosts.run(host, "dpkg-query -W docker-ce nginx nftables systemd").stdout
    assert "~debian.12~bookworm" in versions
    assert "nginx\t1.22." in versions
    assert "systemd\t252." in versions
    listing = lab_hosts.run(host, "docker ps --format '{{.Names}} {{.Status}}'").stdout
    assert "tiny Up" in listing and "(healthy)" in listing


def test_the_second_deploy_changes_nothing(host: str, first: Run) -> None:
    before = processes(host)
    run = deploy("--limit", host)
    assert (run.code, changes(run)) == (0, {host: 0}), run.output[-6000:]
    assert processes(host) == before


def test_every_promise_is_kept(host: str, first: Run) -> None:
    verified(host)


def test_drift_is_seen_and_mended(host: str, first: Run) -> None:
    def drift() -> tuple[int, list[dict[str, str]]]:
        run = command("vllm-hosts", "drift", INVENTORY, "--json", "--host", host)
        found = json.loads(run.output[run.output.index("{") :])
        return run.code, found[host]["drifted"]

    assert drift() == (0, [])
    lab_hosts.run(
        host,
        "nft insert rule inet vllm_hosts input tcp dport 1 accept; chmod 644 /opt/vllm/.env",
    )
    code, found = drift()
    assert code == 3
    assert {item["what"] for item in found} == {"/opt/vllm/.env", "table inet vllm_hosts"}
    assert deploy("--limit", host).code == 0
    assert drift() == (0, [])


def test_it_comes_back_from_a_reboot(host: str, first: Run) -> None:
    before = lab_hosts.run(host, "cat /proc/sys/kernel/random/boot_id").stdout
    lab_hosts.run(host, "systemctl reboot")
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        time.sleep(2)
        try:
            boot = lab_hosts.run(host, "cat /proc/sys/kernel/random/boot_id").stdout
            listing = lab_hosts.run(host, "docker ps --format '{{.Names}} {{.Status}}'").stdout
        except RuntimeError:
            continue
        if boot != before and "(healthy)" in listing:
            break
    again = deploy("--limit", host)
    assert (again.code, changes(again)) == (0, {host: 0}), again.output[-6000:]
    verified(host)


def test_its_own_docker_of_2020_gives_way_to_a_newer_one(host: str) -> None:
    """Docker 20.10 with containers of somebody else's, which run again under Docker CE."""
    lab_hosts.reset([host])
    lab_hosts.run(host, f"{_APT} update && {_APT} install docker.io busybox-static", timeout=200)
    assert "20.10" in lab_hosts.run(host, "docker version --format '{{.Server.Version}}'").stdout
    lab_hosts.run(
        host,
        "tar -C /usr -c bin/busybox | docker import - theirs:1 &&"
        " docker volume create kept && docker run -d --restart always --name theirs"
        " -v kept:/kept theirs:1 /bin/busybox sleep 1000000 &&"
        " docker run -d --name plain theirs:1 /bin/busybox sleep 1000000",
    )
    run = deploy("--limit", host)
    assert run.code == 0, run.output[-6000:]
    assert "kept" in lab_hosts.run(host, "docker volume ls -q").stdout
    states = lab_hosts.run(host, "docker ps --format '{{.Names}} {{.State}}'").stdout.splitlines()
    assert sorted(states) == ["plain running", "theirs running", "tiny running"]
    again = deploy("--limit", host)
    assert (again.code, changes(again)) == (0, {host: 0}), again.output[-6000:]
    verified(host)
