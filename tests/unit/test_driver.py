"""Which driver a host gets, what speaks against it, and what is written for it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.golden import check_golden
from tests.unit.driver_hosts import (
    B200,
    DEBIAN_12,
    DEBIAN_13,
    FUTURE,
    GH200,
    GTX_680,
    H100,
    RTX_5090,
    T4,
    UBUNTU_24,
    V100,
    bare,
    card,
    refused,
)
from tests.unit.test_gpu import smi
from vllm_hosts.errors import HostError
from vllm_hosts.host.apt_sources import extended, read
from vllm_hosts.host.files import Absent, Entry, File
from vllm_hosts.host.gpus import GpuHost
from vllm_hosts.host.nvidia_smi import parse
from vllm_hosts.host.release import Release
from vllm_hosts.roles.nvidia_driver.packages import (
    install,
)
from vllm_hosts.roles.nvidia_driver.plan import (
    driver_files,
    flavour,
    needs_install,
    persistence_unit,
    reboot_needed,
    reboot_reason,
)
from vllm_hosts.settings import Nvidia


@pytest.mark.parametrize(
    ("devices", "kind"),
    [
        ([V100], "proprietary"),
        ([T4], "open"),
        ([H100, H100], "open"),
        ([GH200], "open"),
        ([B200], "open"),
        ([FUTURE], "open"),
        ([V100, T4], "proprietary"),
        ([V100, H100], "proprietary"),
    ],
)
def test_the_kernel_module_fits_all_cards(devices: list[int], kind: str) -> None:
    assert flavour(bare(*devices).cards) == kind


@pytest.mark.parametrize("new", [B200, GH200, FUTURE])
def test_cards_that_no_module_serves_together_are_refused(new: int) -> None:
    with pytest.raises(HostError, match="no kernel module serves both"):
        flavour(bare(V100, new).cards)
    [problem] = refused(bare(V100, new), driver_source="nvidia")
    assert "10de:1db1" in problem
    assert f"10de:{new:04x}" in problem


class TestSecureBoot:
    SECURE = bare(H100, kernel="6.8.0-45-generic", secure_boot=True)

    @pytest.mark.parametrize(
        ("release", "source"),
        [(DEBIAN_12, "distro"), (DEBIAN_13, "nvidia"), (UBUNTU_24, "nvidia")],
    )
    def test_a_module_that_the_firmware_would_reject_is_not_built(
        self, release: Release, source: str
    ) -> None:
        [problem] = refused(self.SECURE, release, driver_source=source)
        assert problem.startswith("Secure Boot is on")
        assert "Key was rejected by service" in problem
        assert "docs/driver.md" in problem
        enrolled = replace(self.SECURE, key_enrolled=True)
        assert refused(enrolled, release, driver_source=source) == []

    def test_ubuntus_own_modules_are_signed(self) -> None:
        assert refused(self.SECURE, UBUNTU_24) == []
        assert install(Nvidia(), UBUNTU_24, self.SECURE).packages == (
            "linux-modules-nvidia-580-server-open-generic",
            "nvidia-headless-no-dkms-580-server-open",
            "nvidia-utils-580-server",
        )
        enrolled = replace(self.SECURE, key_enrolled=True)
        assert "nvidia-headless-580-server-open" in install(Nvidia(), UBUNTU_24, enrolled).packages


class TestRefusals:
    def test_a_good_box_is_taken(self) -> None:
        assert refused(bare(H100)) == []

    @pytest.mark.parametrize(
        ("host", "release", "nvidia", "words"),
        [
            (bare(), DEBIAN_13, {}, "the PCI bus shows no GPU"),
            (bare(GTX_680), DEBIAN_13, {}, "0000:18:00.0 (10de:1180) is older than Maxwell"),
            (
                bare(B200),
                DEBIAN_13,
                {},
                "needs driver 570 or newer, and Debian GNU/Linux 13 (trixie) has 550;"
                " set nvidia.driver_source = 'nvidia'",
            ),
            (bare(RTX_5090), UBUNTU_24, {"driver_series": 535}, "nvidia.driver_series is 535"),
            (bare(FUTURE), DEBIAN_12, {}, "(newer) needs driver 570"),
            (
                bare(V100),
                UBUNTU_24,
                {"driver_series": 590},
                "not known to drivers after 580; set nvidia.driver_series = 580",
            ),
            (bare(H100), DEBIAN_13, {"driver_series": 580}, "has driver 550 and no other"),
            (bare(H100, nvswitch=True), DEBIAN_13, {}, "no Fabric Manager"),
        ],
    )
    def test_each_obstacle_gets_one_sentence(
        self, host: GpuHost, release: Release, nvidia: dict[str, Any], words: str
    ) -> None:
        [problem] = refused(host, release, **nvidia)
        assert words in problem

    def test_more_cards_than_there_are_are_refused_before_anything_is_installed(self) -> None:
        [problem] = refused(bare(H100, H100), gpus=(0, 2))
        assert problem == (
            "an agent asks for GPU 2, and the PCI bus shows 2, numbered from 0; correct the agent's"
            " gpus, or make sure that the card is passed through to this machine"
        )

    def test_a_driver_that_works_is_kept_whoever_installed_it(self) -> None:
        host = bare(H100, smi=smi("h200"), module="590.48.01")
        assert not needs_install(Nvidia(), host)
        assert not needs_install(Nvidia(driver_series=590), host)
        assert refused(host) == []

    def test_another_series_replaces_a_working_driver_only_with_a_reboot(self) -> None:
        host = bare(H100, smi=smi("h200"), module="590.48.01")
        assert needs_install(Nvidia(driver_series=580), host)
        [problem] = refused(host, UBUNTU_24, driver_series=580)
        assert "driver 590.48.01 runs, and series 580 in its place needs a reboot" in problem
        assert refused(host, UBUNTU_24, driver_series=580, allow_reboot=True) == []

    WARNED = ("0, NVIDIA A10G, GPU-1, 23028, 550.163.01, 8.6, [N/A], Disabled",
              "WARNING: infoROM is corrupted at gpu 0000:00:1E.0", "exit 14")  # fmt: skip

    def test_a_warning_replaces_no_driver(self) -> None:
        host = bare(H100, smi=parse(self.WARNED), module="550.163.01")
        assert not needs_install(Nvidia(), host)
        assert refused(host) == []
        assert reboot_reason(host, [0]) is None

    @pytest.mark.parametrize(
        "said",
        [
            ["exit 124"],
            ["something that nobody knows", "exit 3"],
            ["exit 1"],
            ["exit -"],
            ["No devices were found", "exit 6"],
        ],
    )
    def test_a_module_that_is_loaded_is_not_replaced_unasked(self, said: list[str]) -> None:
        host = bare(H100, smi=parse(said), module="550.163.01")
        assert not needs_install(Nvidia(), host)
        [problem] = refused(host, allow_reboot=True)
        assert problem.startswith("NVIDIA's kernel module 550.163.01 is loaded, and nvidia-smi")
        assert "reboot the host or repair it, or set nvidia.driver_series" in problem
        # Named, it is what the operator wants.
        assert needs_install(Nvidia(driver_series=580), host)
        [problem] = refused(host, UBUNTU_24, driver_series=580)
        assert "driver 550.163.01 runs, and series 580 in its place needs a reboot" in problem
        assert refused(host, UBUNTU_24, driver_series=580, allow_reboot=True) == []

    def test_a_card_that_the_driver_holds_is_enough(self) -> None:
        host = replace(bare(), devices=(card(H100, "nvidia"),), smi=smi("no-driver"))
        assert not needs_install(Nvidia(), host)

    def test_a_lost_card_matters_to_those_who_ask_for_it(self) -> None:
        host = bare(H100, H100, smi=smi("one-lost"), module="570.172.08")
        assert refused(host, gpus=(0,)) == []
        [problem] = refused(host, gpus=(0, 1))
        assert problem.startswith("a reboot is needed: GPU 1: GPU is lost")
        assert refused(host, gpus=(1,), allow_reboot=True) == []
        assert str(reboot_reason(host, [1])) == "GPU 1: GPU is lost"
        assert reboot_reason(host, [0]) is None

    @pytest.mark.parametrize("answer", ["mismatch", "lost", "handle"])
    def test_what_only_a_reboot_mends_is_said_before_agents_are_touched(self, answer: str) -> None:
        host = bare(H100, smi=smi(answer))
        assert not needs_install(Nvidia(), host)
        [problem] = refused(host)
        assert problem.startswith("a reboot is needed: ")
        assert "set nvidia.allow_reboot = True, or reboot the host yourself" in problem
        assert refused(host, allow_reboot=True) == []


class TestReboot:
    def test_nouveau_lets_go_at_a_reboot_only(self) -> None:
        host = replace(bare(), devices=(card(H100, "nouveau"),), smi=smi("no-driver"))
        assert str(reboot_reason(host)) == "the open-source driver nouveau holds the GPUs"

    def test_a_driver_that_answers_needs_none(self) -> None:
        assert reboot_reason(bare(H100, smi=smi("h200"))) is None

    def test_a_reboot_is_no_cure_for_everything(self) -> None:
        assert reboot_reason(bare(H100, smi=smi("no-driver"))) is None
        assert reboot_reason(bare(H100, smi=smi("no-devices"))) is None

    def test_a_mismatch_is_its_own_reason(self) -> None:
        reason = reboot_reason(bare(H100, smi=smi("mismatch")))
        assert reason is not None
        assert reason == smi("mismatch").failure
        assert "(the driver was updated" in reboot_needed(reason)


def content(entry: Entry) -> str:
    assert isinstance(entry, File)
    return entry.content.decode()


def test_golden_files() -> None:
    nouveau, upgrades = driver_files()
    check_golden("nvidia_driver/nouveau.conf", content(nouveau))
    check_golden("nvidia_driver/unattended-upgrades", content(upgrades))
    check_golden("nvidia_driver/nvidia-persistenced.service", content(persistence_unit()))


class TestAptSources:
    NON_FREE = ("contrib", "non-free", "non-free-firmware")
    DEB822 = (
        "# Debian\nTypes: deb\nURIs: http://mirror.example.com/debian\n"
        "Suites: trixie trixie-updates\nComponents: main\n"
        "Signed-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n x\n"
        "\n"
        "Types: deb deb-src\nURIs: http://security.debian.org/debian-security\n"
        "Suites: trixie-security\nComponents: main non-free-firmware\n"
        "Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n"
        "\n"
        "Types: deb\nEnabled: no\nURIs: http://off.example/debian\nSuites: trixie\n"
        "Components: main\n"
    )
    DOCKER = (
        "Types: deb\nURIs: https://download.docker.com/linux/debian\nSuites: trixie\n"
        "Components: stable\nSigned-By: /etc/apt/keyrings/docker.asc\n"
    )
    LINES = (
        "# comment\n"
        "deb [signed-by=/k.gpg arch=amd64] http://mirror.example.com/debian bookworm main # x\n"
        "deb-src http://mirror.example.com/debian bookworm main\n"
        "deb http://mirror.example.com/debian bookworm contrib\n"
        "deb http://security.debian.org/debian-security bookworm-security main contrib non-free"
        " non-free-firmware\n"
    )

    def test_golden_of_stanzas(self) -> None:
        files = {
            "/etc/apt/sources.list.d/debian.sources": self.DEB822,
            "/etc/apt/sources.list.d/docker.sources": self.DOCKER,
        }
        lines, stanzas = extended(read(files, but="ours"), "trixie", self.NON_FREE, "ours")
        assert lines == Absent("/etc/apt/sources.list.d/ours.list")
        check_golden("nvidia_driver/ours.sources", content(stanzas))

    def test_golden_of_lines(self) -> None:
        files = {"/etc/apt/sources.list": self.LINES}
        lines, stanzas = extended(read(files, but="ours"), "bookworm", self.NON_FREE, "ours")
        assert stanzas == Absent("/etc/apt/sources.list.d/ours.sources")
        check_golden("nvidia_driver/ours.list", content(lines))

    def test_our_own_file_does_not_make_itself_superfluous(self) -> None:
        files = {"/etc/apt/sources.list.d/debian.sources": self.DEB822}
        first = extended(read(files, but="ours"), "trixie", self.NON_FREE, "ours")
        files[first[1].path] = content(first[1])
        assert extended(read(files, but="ours"), "trixie", self.NON_FREE, "ours") == first

    def test_what_is_offered_already_is_not_named_twice(self) -> None:
        text = self.DOCKER.replace("stable", "main contrib non-free non-free-firmware")
        files = {"/etc/apt/sources.list.d/all.sources": text}
        for entry in extended(read(files, but="ours"), "trixie", self.NON_FREE, "ours"):
            assert isinstance(entry, Absent)
