"""The GPU driver: told where it is missing, installed where that is asked for, rebooted for."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab import bare
from lab import hosts as lab_hosts
from tests.lab.conftest import HOSTS, Deployed
from tests.lab.deploys import Run, changes, deploy
from tests.lab.test_1_converge import processes

NO_SSH = Path("/etc/systemd/system/ssh.service.d/lab.conf")
BOOT = "cat /proc/sys/kernel/random/boot_id"


def booted_anew(boots: dict[str, str]) -> list[str]:
    """Hosts that have another boot than this one: the run may end while one still goes down."""
    deadline = time.monotonic() + 180
    while True:
        now = {host: lab_hosts.run(host, BOOT, check=False).stdout for host in boots}
        found = [host for host, boot in now.items() if boot and boot != boots[host]]
        if found or time.monotonic() > deadline:
            return found
        time.sleep(1)


def deploy_gpu2(**nvidia: Any) -> Run:
    """A deploy to gpu2 with these settings of the driver."""
    return deploy("--limit", "gpu2", settings={"nvidia": nvidia})


def asked(host: str, query: str) -> list[str]:
    return lab_hosts.run(
        host, f"nvidia-smi --query-gpu={query} --format=csv,noheader"
    ).stdout.splitlines()


def installed(host: str) -> dict[str, tuple[str, bool]]:
    """Version of every package of the driver, and whether it is held."""
    listing = lab_hosts.run(
        host, "dpkg-query -W -f '${db:Status-Abbrev}|${Package}|${Version}\\n'"
    ).stdout
    split = [line.split("|") for line in listing.splitlines()]
    return {
        name: (version, status[0] == "h")
        for status, name, version in split
        if status[1] == "i"
        and re.match(r"(lib)?nvidia-(?!container)|libcuda1|libnvidia-nvvm", name)
        and "container" not in name
    }


@pytest.fixture
def gpu2(deployed: Deployed) -> Iterator[None]:
    """gpu2, which gets back afterwards what it came with."""
    yield
    bare.with_driver("gpu2")
    run = deploy("--limit", "gpu2")
    assert run.code == 0, run.output[-4000:]


def test_a_host_without_a_driver_is_told_how_to_get_one(gpu2: None) -> None:
    before = processes("gpu2")
    bare.without_driver("gpu2")
    run = deploy("--limit", "gpu2")
    assert run.code != 0
    assert "nvidia-smi is not installed: the driver is missing" in run.output
    assert "install a driver, or set nvidia.driver = 'install'" in run.output
    assert processes("gpu2") == before


def test_a_bare_box_gets_a_driver_and_its_agents_go_on(gpu2: None) -> None:
    before = processes("gpu2")
    bare.without_driver("gpu2")
    run = deploy_gpu2(driver="install")
    assert run.code == 0, run.output[-6000:]
    assert asked("gpu2", "driver_version") == ["550.163.01"] * 2
    packages = installed("gpu2")
    assert {name for name, (_, held) in packages.items() if not held} == set()
    assert {
        *("nvidia-open-kernel-dkms", "nvidia-smi", "libcuda1"),
        *("libnvidia-nvvm4", "nvidia-persistenced"),
    } <= set(packages)
    assert "nvidia-kernel-dkms" not in packages
    headers = lab_hosts.run("gpu2", "dpkg -s linux-headers-$(uname -r)").stdout
    assert "Status: install ok installed" in headers
    sources = lab_hosts.run("gpu2", "cat /etc/apt/sources.list.d/vllm-hosts-driver.sources").stdout
    assert sources.count("Components: contrib non-free non-free-firmware") == 2, sources
    for unit in ("is-active", "is-enabled"):
        lab_hosts.run("gpu2", f"systemctl {unit} nvidia-persistenced.service")
    avoided = lab_hosts.run("gpu2", "apt-config dump Unattended-Upgrade::Package-Blacklist").stdout
    assert '"nvidia-"' in avoided
    assert processes("gpu2") == before
    again = deploy_gpu2(driver="install")
    assert (again.code, changes(again)) == (0, {"gpu2": 0}), again.output[-6000:]


def test_a_needed_reboot_that_is_not_allowed_touches_no_agent(gpu2: None) -> None:
    before = processes("gpu2")
    boot = lab_hosts.run("gpu2", BOOT).stdout
    bare.failing("gpu2", "mismatch", until_reboot=True)
    run = deploy_gpu2(driver="install")
    assert run.code != 0
    assert "a reboot is needed: Failed to initialize NVML: Driver/library version" in run.output
    assert "set nvidia.allow_reboot = True, or reboot the host yourself" in run.output
    assert processes("gpu2") == before
    assert lab_hosts.run("gpu2", BOOT).stdout == boot


@pytest.mark.nightly
class TestReboots:
    def test_hosts_reboot_one_at_a_time_and_the_run_goes_on(self, gpu2: None) -> None:
        boots = {host: lab_hosts.run(host, BOOT).stdout for host in HOSTS}
        for host in HOSTS:
            bare.failing(host, "mismatch", until_reboot=True)
        try:
            run = deploy(settings={"nvidia": {"driver": "install", "allow_reboot": True}})
        finally:
            bare.with_driver("gpu1")
        assert run.code == 0, run.output[-6000:]
        steps = re.findall(r"\[(gpu\d)\]\s+(rebooting|is back)", run.output)
        assert [step for _, step in steps] == ["rebooting", "is back"] * 2, steps
        assert steps[0][0] == steps[1][0] != steps[2][0] == steps[3][0]
        for host in HOSTS:
            assert lab_hosts.run(host, BOOT).stdout != boots[host]
        names = lab_hosts.run("gpu1", "docker ps --format '{{.Names}} {{.Status}}'").stdout
        assert names.count("(healthy)") == 2
        back = deploy()
        assert back.code == 0, back.output[-4000:]

    def test_nouveau_gives_the_cards_back_at_a_reboot(self, gpu2: None) -> None:
        bare.without_driver("gpu2", nouveau=True)
        refused = deploy_gpu2(driver="install")
        assert refused.code != 0
        assert "a reboot is needed: the open-source driver nouveau holds the GPUs" in refused.output
        assert "nvidia-smi" in installed("gpu2"), "all but the reboot is done"
        boot = lab_hosts.run("gpu2", BOOT).stdout
        run = deploy_gpu2(driver="install", allow_reboot=True)
        assert run.code == 0, run.output[-6000:]
        assert lab_hosts.run("gpu2", BOOT).stdout != boot
        assert asked("gpu2", "index") == ["0", "1"]
        again = deploy_gpu2(driver="install", allow_reboot=True)
        assert (again.code, changes(again)) == (0, {"gpu2": 0}), again.output[-6000:]

    def test_a_card_that_stays_lost_fails_after_one_reboot(self, gpu2: None) -> None:
        bare.failing("gpu2", "lost")
        run = deploy_gpu2(driver="install", allow_reboot=True)
        assert run.code != 0
        assert run.output.count("rebooting:") == 1
        assert "after a reboot (Unable to determine the device handle" in run.output

    def test_a_host_that_does_not_come_back_stops_the_other_from_rebooting(
        self, gpu2: None
    ) -> None:
        """Both need a reboot; the first to go has no SSH afterwards."""
        boots = {host: lab_hosts.run(host, BOOT).stdout for host in HOSTS}
        for host in HOSTS:
            bare.failing(host, "mismatch", until_reboot=True)
            # Read at the next boot.
            lab_hosts.run(
                host,
                f"mkdir -p {NO_SSH.parent} &&"
                f" printf '[Unit]\\nConditionPathExists=/no\\n' >{NO_SSH}",
            )
        nvidia = {"driver": "install", "allow_reboot": True, "reboot_timeout": 40}
        try:
            run = deploy(settings={"nvidia": nvidia})
            rebooted = booted_anew(boots)
        finally:
            for host in HOSTS:
                lab_hosts.run(
                    host,
                    f"systemctl is-system-running --wait; rm {NO_SSH}; systemctl daemon-reload;"
                    " systemctl start ssh.service",
                )
            bare.with_driver("gpu1")
        assert run.code != 0
        assert len(rebooted) == 1, run.output[-4000:]
        assert "did not come back within 40 s from a reboot" in run.output
        # Both serve one model, so the other waited for its turn, which now does not come.
        assert f"are left as they are: {rebooted[0]} failed while its agents of" in run.output
        assert deploy("--limit", "gpu1").code == 0


@pytest.mark.nightly
class TestOtherBoxes:
    def test_nvidias_archive_and_the_fabric_manager_at_its_version(self, gpu2: None) -> None:
        bare.without_driver("gpu2", switches=1)
        run = deploy_gpu2(driver="install", driver_source="nvidia")
        assert run.code == 0, run.output[-6000:]
        assert asked("gpu2", "driver_version") == ["580.95.05"] * 2
        packages = installed("gpu2")
        assert packages["nvidia-fabricmanager-580"] == ("580.95.05-1", True)
        assert "nvidia-driver-pinning-580" in packages
        lab_hosts.run("gpu2", "systemctl is-active nvidia-fabricmanager.service")
        again = deploy_gpu2(driver="install", driver_source="nvidia")
        assert (again.code, changes(again)) == (0, {"gpu2": 0}), again.output[-6000:]

    @pytest.mark.parametrize(
        ("kind", "words"),
        [
            ("b200", "needs driver 570 or newer, and Debian GNU/Linux 13 (trixie) has 550"),
            ("h200", "Secure Boot is on, and would reject the kernel module"),
        ],
    )
    def test_what_cannot_work_is_refused_before_anything_is_installed(
        self, gpu2: None, kind: str, words: str
    ) -> None:
        bare.without_driver("gpu2", kind)
        if kind == "h200":
            lab_hosts.run(
                "gpu2",
                "printf '#!/bin/sh\\necho SecureBoot enabled\\n' >/usr/local/bin/mokutil"
                " && chmod 755 /usr/local/bin/mokutil",
            )
        try:
            run = deploy_gpu2(driver="install")
        finally:
            lab_hosts.run("gpu2", "rm -f /usr/local/bin/mokutil")
        assert run.code != 0
        assert words in run.output
        assert installed("gpu2") == {}
        left = lab_hosts.run("gpu2", "ls /etc/modprobe.d/vllm-hosts-nouveau.conf", check=False)
        assert left.returncode != 0

    def test_older_cards_get_the_proprietary_module(self, gpu2: None) -> None:
        bare.without_driver("gpu2", "v100")
        run = deploy_gpu2(driver="install")
        assert run.code == 0, run.output[-6000:]
        assert "nvidia-kernel-dkms" in installed("gpu2")
        assert "nvidia-open-kernel-dkms" not in installed("gpu2")

    def test_a_card_in_mig_mode_is_no_whole_card(self, gpu2: None) -> None:
        bare.without_driver("gpu2", "h100-mig")
        run = deploy_gpu2(driver="install")
        assert run.code != 0
        assert "asks for GPU 0, which is split (MIG)" in run.output
        assert "nvidia-smi -i 0 -mig 0" in run.output
