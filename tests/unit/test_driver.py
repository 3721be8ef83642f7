"""Which driver a host gets, what speaks against it, and what is written for it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from roles.nvidia_driver.packages import (
    fabric_manager,
    headers,
    holds,
    install,
    kernel_flavour,
)
from roles.nvidia_driver.plan import (
    driver_files,
    flavour,
    needs_install,
    persistence_unit,
    reboot_needed,
    reboot_reason,
    refusals,
)
from tests.golden import check_golden
from tests.unit.samples import QWEN, settings
from tests.unit.test_gpu import smi
from vllm_hosts.apt_sources import extended, read
from vllm_hosts.errors import HostError
from vllm_hosts.facts.gpu import GpuHost
from vllm_hosts.facts.release import Release
from vllm_hosts.operations.driver import matching, upstream
from vllm_hosts.pci import PciDevice
from vllm_hosts.settings import Nvidia
from vllm_hosts.tree import Absent, Entry, File

DEBIAN_12 = Release("debian", "12", "bookworm", "Debian GNU/Linux 12 (bookworm)", "amd64")
DEBIAN_13 = Release("debian", "13", "trixie", "Debian GNU/Linux 13 (trixie)", "amd64")
UBUNTU_22 = Release("ubuntu", "22.04", "jammy", "Ubuntu 22.04.5 LTS", "amd64")
UBUNTU_24 = Release("ubuntu", "24.04", "noble", "Ubuntu 24.04.3 LTS", "amd64")
KERNELS = {"debian": "6.12.48+deb13-amd64", "ubuntu": "6.8.0-45-generic"}

V100, T4, H100, GH200, B200, RTX_5090 = 0x1DB1, 0x1EB8, 0x2330, 0x2342, 0x2901, 0x2B85
GTX_680, FUTURE, NVSWITCH = 0x1180, 0x3F00, 0x22A3


def card(device: int, driver: str = "", slot: int = 0x18) -> PciDevice:
    return PciDevice(f"0000:{slot:02x}:00.0", 0x030200, device, driver)


def bare(*devices: int, kernel: str = KERNELS["debian"], **changes: Any) -> GpuHost:
    """A host with cards and no driver."""
    host = GpuHost(
        kernel=kernel,
        has_headers=False,
        devices=tuple(card(device, slot=0x18 + n) for n, device in enumerate(devices)),
        module=None,
        secure_boot=None,
        key_enrolled=False,
        nvswitch=False,
        has_persistenced=False,
        smi=smi("not-installed"),
    )
    return replace(host, **changes)


def refused(
    host: GpuHost, release: Release = DEBIAN_13, gpus: tuple[int, ...] = (0,), **nvidia: Any
) -> list[str]:
    asked = settings(agents=[QWEN | {"gpus": list(gpus)}], nvidia={"driver": "install"} | nvidia)
    return refusals(asked, release, host)


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


DEBIAN_USER = ("libcuda1", "libnvidia-nvvm4", "nvidia-smi", "nvidia-persistenced")
HEADERS = ("linux-headers-6.12.48+deb13-amd64", "linux-headers-amd64")


@pytest.mark.parametrize(
    ("release", "device", "nvidia", "packages"),
    [
        (DEBIAN_13, H100, {}, (*HEADERS, "nvidia-open-kernel-dkms", *DEBIAN_USER)),
        (DEBIAN_13, V100, {}, (*HEADERS, "nvidia-kernel-dkms", *DEBIAN_USER)),
        (
            DEBIAN_12,
            H100,
            {},
            (*HEADERS, "nvidia-open-kernel-dkms", "libcuda1", "nvidia-smi", "nvidia-persistenced"),
        ),
        (
            UBUNTU_24,
            H100,
            {},
            (
                "linux-headers-6.8.0-45-generic",
                "nvidia-headless-580-server-open",
                "nvidia-utils-580-server",
            ),
        ),
        (
            UBUNTU_22,
            V100,
            {"driver_series": 570},
            (
                "linux-headers-6.8.0-45-generic",
                "nvidia-headless-570-server",
                "nvidia-utils-570-server",
            ),
        ),
        (
            DEBIAN_13,
            B200,
            {"driver_source": "nvidia"},
            (*HEADERS, "nvidia-driver-cuda", "nvidia-kernel-open-dkms", "nvidia-persistenced"),
        ),
        (
            UBUNTU_24,
            B200,
            {"driver_source": "nvidia"},
            ("linux-headers-6.8.0-45-generic", "nvidia-open"),
        ),
        (
            UBUNTU_24,
            V100,
            {"driver_source": "nvidia"},
            ("linux-headers-6.8.0-45-generic", "cuda-drivers"),
        ),
    ],
)
def test_packages_by_system_card_and_source(
    release: Release, device: int, nvidia: dict[str, Any], packages: tuple[str, ...]
) -> None:
    host = bare(device, kernel=KERNELS[release.os_id])
    assert refused(host, release, **nvidia) == []
    found = install(Nvidia(**nvidia), release, host)
    assert found.packages == packages
    assert found.headers == packages[0]
    if nvidia.get("driver_source") == "nvidia":
        assert found.first == ("nvidia-driver-pinning-580",)
        assert found.components == ()
    else:
        assert found.archive is None
        assert "non-free" in found.components or "restricted" in found.components


@pytest.mark.parametrize(
    ("release", "url", "key", "fingerprint"),
    [
        (DEBIAN_13, "debian13/x86_64", "8793F200.pub", "8793F200"),
        (DEBIAN_12, "debian12/x86_64", "3bf863cc.pub", "3BF863CC"),
        (replace(UBUNTU_24, architecture="arm64"), "ubuntu2404/sbsa", "3bf863cc.pub", "3BF863CC"),
        (UBUNTU_22, "ubuntu2204/x86_64", "3bf863cc.pub", "3BF863CC"),
    ],
)
def test_nvidias_archive_of_each_release_has_its_key(
    release: Release, url: str, key: str, fingerprint: str
) -> None:
    base = "https://developer.download.nvidia.com/compute/cuda/repos"
    archive = install(Nvidia(driver_source="nvidia"), release, bare(H100)).archive
    assert archive is not None
    assert archive.url == f"{base}/{url}"
    assert archive.key_url == f"{base}/{url}/{key}"
    assert archive.key_fingerprint.endswith(fingerprint)


def test_a_mirror_may_have_a_key_of_its_own() -> None:
    mirror = Nvidia(
        driver_source="nvidia",
        driver_archive_url="https://mirror.example.org/cuda",
        driver_key_url="https://mirror.example.org/key.asc",
        driver_key_fingerprint="A" * 40,
    )
    archive = install(mirror, DEBIAN_13, bare(H100)).archive
    assert archive is not None
    assert archive.url == "https://mirror.example.org/cuda/debian13/x86_64"
    assert (archive.key_url, archive.key_fingerprint) == (mirror.driver_key_url, "A" * 40)


def test_headers_that_are_there_are_not_asked_for() -> None:
    found = install(Nvidia(), UBUNTU_24, bare(H100, kernel="6.8.0-45-generic", has_headers=True))
    assert found.headers is None
    assert not any("headers" in name for name in found.packages)


@pytest.mark.parametrize(
    ("kernel", "names"),
    [
        ("6.12.48+deb13-cloud-amd64", ["linux-headers-cloud-amd64"]),
        ("6.1.0-40-rt-amd64", ["linux-headers-rt-amd64"]),
        ("6.12.48+deb13-arm64", ["linux-headers-arm64"]),
        ("6.18.44-custom", []),
    ],
)
def test_debian_also_gets_the_headers_of_later_kernels(kernel: str, names: list[str]) -> None:
    assert headers(DEBIAN_13, bare(H100, kernel=kernel)) == (f"linux-headers-{kernel}", *names)


@pytest.mark.parametrize(
    ("release", "kernel", "name"),
    [
        (UBUNTU_24, "6.8.0-45-generic", "generic"),
        (UBUNTU_24, "6.14.0-33-generic", "generic-hwe-24.04"),
        (UBUNTU_22, "6.8.0-45-generic", "generic-hwe-22.04"),
        (UBUNTU_22, "5.15.0-119-generic", "generic"),
        (UBUNTU_24, "6.14.0-1015-aws", "aws"),
        (UBUNTU_24, "6.8.0-1012-nvidia-64k", "nvidia-64k"),
    ],
)
def test_ubuntus_kernels_by_flavour(release: Release, kernel: str, name: str) -> None:
    assert kernel_flavour(release, kernel) == name


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
        assert problem == "an agent asks for GPU 2, and the PCI bus shows 2, numbered from 0"

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
        assert reboot_reason(host) == "the free driver nouveau holds the GPUs"

    def test_a_driver_that_answers_needs_none(self) -> None:
        assert reboot_reason(bare(H100, smi=smi("h200"))) is None

    def test_a_reboot_is_no_cure_for_everything(self) -> None:
        assert reboot_reason(bare(H100, smi=smi("no-driver"))) is None
        assert reboot_reason(bare(H100, smi=smi("no-devices"))) is None

    def test_a_mismatch_is_its_own_reason(self) -> None:
        reason = reboot_reason(bare(H100, smi=smi("mismatch")))
        assert reason == smi("mismatch").message
        assert "(the driver was updated" in reboot_needed(reason or "")


class TestFabricManager:
    def test_only_where_there_are_switches(self) -> None:
        assert fabric_manager(bare(H100, smi=smi("eight"))) == ()
        assert fabric_manager(bare(H100, smi=smi("eight"), nvswitch=True)) == (
            "nvidia-fabricmanager-580",
            "nvidia-fabricmanager",
        )

    def test_it_is_of_exactly_the_drivers_version(self) -> None:
        names = ("nvidia-fabricmanager-580", "nvidia-fabricmanager")
        offered = {
            "nvidia-fabricmanager-580": ("580.126.20-0ubuntu0.24.04.1", "580.95.05-0ubuntu1"),
            "nvidia-fabricmanager": ("580.95.05-1",),
        }
        assert matching(offered, names, "580.95.05") == (names[0], "580.95.05-0ubuntu1")
        assert matching({names[1]: ("1:580.95.05-1",)}, names, "580.95.05") == (
            names[1],
            "1:580.95.05-1",
        )
        assert matching(offered, names, "580.95") is None
        assert matching(offered, names, "") is None

    def test_upstream_versions(self) -> None:
        assert upstream("580.95.05-0ubuntu0.24.04.1") == "580.95.05"
        assert upstream("590.48.01") == "590.48.01"


class TestHolds:
    @pytest.mark.parametrize(
        "name",
        [
            *("nvidia-smi", "nvidia-open-kernel-dkms", "libnvidia-compute-580-server", "libcuda1"),
            *("firmware-nvidia-gsp", "linux-modules-nvidia-580-server-open-generic"),
            *("cuda-drivers", "nvidia-fabricmanager-580", "libnvcuvid1"),
        ],
    )
    def test_every_part_of_the_driver_is_held(self, name: str) -> None:
        assert holds(name)

    @pytest.mark.parametrize(
        "name",
        [
            *("nvidia-container-toolkit", "nvidia-container-toolkit-base", "libnvidia-container1"),
            *(
                "cuda-toolkit-13-0",
                "linux-headers-amd64",
                "linux-image-amd64",
                "libc6",
                "docker-ce",
            ),
        ],
    )
    def test_nothing_else_is(self, name: str) -> None:
        assert not holds(name)


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
