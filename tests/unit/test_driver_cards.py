"""Which driver knows which card, to the last series, and what is said in full where none does."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.unit.driver_hosts import (
    B200,
    DEBIAN_12,
    DEBIAN_13,
    FUTURE,
    GH200,
    GTX_680,
    H100,
    T4,
    UBUNTU_22,
    UBUNTU_24,
    V100,
    bare,
    card,
    refused,
)
from tests.unit.samples import CODER, QWEN, settings
from tests.unit.test_gpu import smi
from vllm_hosts.errors import HostError
from vllm_hosts.host.driver import INITRAMFS
from vllm_hosts.host.gpus import GpuHost
from vllm_hosts.host.nvidia_smi import failure, parse
from vllm_hosts.host.release import Release
from vllm_hosts.roles.nvidia_driver.plan import (
    driver_files,
    flavour,
    needs_install,
    persistence_unit,
    reboot_needed,
    reboot_reason,
    refusals,
    series,
)
from vllm_hosts.settings import Nvidia

M60, P100 = 0x13F2, 0x15F8
NVIDIA: dict[str, Any] = {"driver_source": "nvidia"}
ANSWERS = "0, NVIDIA L40S, GPU-0, 46068, {}, 8.9, [N/A], Enabled"


def answering(version: str) -> GpuHost:
    return bare(H100, smi=parse([ANSWERS.format(version), "exit 0"]), module=version)


@pytest.mark.parametrize("old", [M60, P100, V100])
def test_old_cards_get_the_old_module_and_the_last_series_that_knows_them(old: int) -> None:
    assert flavour(bare(old).cards) == "proprietary"
    assert flavour(bare(old, T4).cards) == "proprietary"
    assert refused(bare(old), UBUNTU_24, driver_series=580) == []
    [problem] = refused(bare(old), UBUNTU_24, driver_series=581)
    known = {M60: "maxwell", P100: "pascal", V100: "volta"}[old]
    assert problem == (
        f"GPU 0000:18:00.0 (10de:{old:04x}) ({known}) is not known to drivers after 580; set"
        " nvidia.driver_series = 580"
    )


@pytest.mark.parametrize(
    ("new", "known"), [(B200, "blackwell"), (GH200, "hopper"), (FUTURE, "newer")]
)
def test_cards_that_only_the_open_module_serves(new: int, known: str) -> None:
    assert flavour(bare(T4, new).cards) == "open"
    with pytest.raises(HostError) as error:
        flavour(bare(T4, V100, new).cards)
    assert str(error.value) == (
        f"no kernel module serves both 0000:19:00.0 (10de:1db1) (volta) and 0000:1a:00.0"
        f" (10de:{new:04x}) ({known}); take one of them out"
    )


@pytest.mark.parametrize(("device", "name"), [(B200, "blackwell"), (FUTURE, "newer")])
def test_new_cards_need_a_series_that_knows_them(device: int, name: str) -> None:
    assert refused(bare(device), UBUNTU_24, driver_series=570) == []
    assert refused(bare(device), UBUNTU_24, driver_series=590) == []
    [problem] = refused(bare(device), UBUNTU_24, driver_series=569)
    start = f"GPU 0000:18:00.0 (10de:{device:04x}) ({name}) needs driver 570 or newer, and "
    assert problem == f"{start}nvidia.driver_series is 569; raise it"
    [problem] = refused(bare(device), DEBIAN_12)
    assert problem == (
        f"{start}Debian GNU/Linux 12 (bookworm) has 535; set nvidia.driver_source = 'nvidia'"
    )
    [problem] = refused(bare(device), DEBIAN_12, driver_series=535, **NVIDIA)
    assert problem == f"{start}nvidia.driver_series is 535; raise it"


@pytest.mark.parametrize("device", [T4, H100])
def test_cards_in_between_take_every_series(device: int) -> None:
    for chosen in (535, 550, 580, 590):
        assert refused(bare(device), UBUNTU_24, driver_series=chosen) == []


def test_each_kind_of_card_is_named_once_and_its_own() -> None:
    problems = refused(bare(GTX_680, T4, GTX_680))
    assert problems == [
        "GPU 0000:18:00.0 (10de:1180) is older than Maxwell, and no driver that vLLM can use knows"
        " it; take the card out, or the host out of the inventory"
    ]
    [problem] = refused(bare(T4, V100), UBUNTU_24, driver_series=590)
    assert problem.startswith("GPU 0000:19:00.0 (10de:1db1) (volta)")


@pytest.mark.parametrize(
    ("release", "nvidia", "chosen"),
    [
        (DEBIAN_12, {}, 535),
        (DEBIAN_13, {}, 550),
        (DEBIAN_13, NVIDIA, 580),
        (DEBIAN_13, {**NVIDIA, "driver_series": 570}, 570),
        (UBUNTU_22, {}, 580),
        (UBUNTU_24, {"driver_series": 570}, 570),
    ],
)
def test_the_series(release: Release, nvidia: dict[str, Any], chosen: int) -> None:
    assert series(Nvidia(**nvidia), release) == chosen


def test_debian_has_one_series_only() -> None:
    assert refused(bare(H100), DEBIAN_13, driver_series=580) == [
        "Debian GNU/Linux 13 (trixie) has driver 550 and no other; leave nvidia.driver_series out,"
        " or set nvidia.driver_source = 'nvidia'"
    ]
    assert refused(bare(H100), DEBIAN_13, driver_series=550) == []


def test_switches_need_an_archive_with_their_manager() -> None:
    switched = bare(H100, nvswitch=True)
    assert refused(switched, DEBIAN_13) == [
        "this host has NVSwitches, and Debian GNU/Linux 13 (trixie) has no Fabric Manager for them;"
        " set nvidia.driver_source = 'nvidia'"
    ]
    assert refused(switched, DEBIAN_13, **NVIDIA) == []
    assert refused(switched, UBUNTU_24) == []


def test_no_card_at_all() -> None:
    assert refused(bare()) == [
        "the PCI bus shows no GPU of NVIDIA's; check that there is one, and that it is passed"
        " through to this machine, or give its agents gpus = []"
    ]


def test_the_highest_card_of_all_agents_has_to_be_there() -> None:
    asked = settings(agents=[QWEN, CODER], nvidia={"driver": "install"})
    assert refusals(asked, DEBIAN_13, bare(H100, H100, H100)) == []
    [problem] = refusals(asked, DEBIAN_13, bare(H100, H100))
    assert problem.startswith("an agent asks for GPU 2, and the PCI bus shows 2, numbered from 0;")


class TestWhatIsThere:
    def test_a_named_series_replaces_another_one_only(self) -> None:
        host = answering("580.95.05")
        assert not needs_install(Nvidia(), host)
        assert not needs_install(Nvidia(driver_series=580), host)
        assert needs_install(Nvidia(driver_series=590), host)
        # Some kernels do not show the module's version.
        silent = replace(host, module=None)
        assert not needs_install(Nvidia(driver_series=580), silent)
        assert needs_install(Nvidia(driver_series=590), silent)
        # Its number cannot be read, so it is none that was asked for.
        assert needs_install(Nvidia(driver_series=580), answering("v580"))

    def test_another_one_needs_a_reboot(self) -> None:
        [problem] = refused(answering("580.95.05"), UBUNTU_24, driver_series=590)
        assert problem == (
            "driver 580.95.05 runs, and series 590 in its place needs a reboot; set"
            " nvidia.allow_reboot = True, or leave nvidia.driver_series out"
        )
        assert refused(bare(H100), UBUNTU_24, driver_series=590) == []

    def test_one_of_an_unknown_version(self) -> None:
        host = replace(bare(), devices=(card(H100, "nvidia"),), smi=smi("no-driver"))
        assert needs_install(Nvidia(driver_series=580), host)
        [problem] = refused(host, UBUNTU_24, driver_series=580)
        assert problem.startswith("driver (of an unknown version) runs, and series 580")

    def test_one_that_does_not_answer_is_kept_in_so_many_words(self) -> None:
        rest = (
            "; a driver that is loaded is replaced only on request: reboot the host or repair"
            " it, or set nvidia.driver_series and nvidia.allow_reboot to have that"
            " series in its place"
        )
        host = bare(H100, smi=parse(["odd words", "exit 3"]), module="550.1")
        said = host.smi.message
        assert refused(host) == [
            f"NVIDIA's kernel module 550.1 is loaded, and nvidia-smi does not answer: {said}{rest}"
        ]
        host = replace(bare(), devices=(card(H100, "nvidia"),), smi=smi("no-driver"))
        assert refused(host) == [
            f"NVIDIA's kernel module is loaded, and nvidia-smi does not answer: {host.smi.message}"
            f" (the kernel module does not run){rest}"
        ]

    def test_what_a_reboot_mends_is_not_installed_anew(self) -> None:
        """Not even where a series is named, since nobody knows yet which one runs."""
        host = bare(H100, smi=smi("mismatch"))
        assert not needs_install(Nvidia(), host)
        loaded = replace(host, module="550.163.01")
        assert not needs_install(Nvidia(driver_series=580), loaded)
        assert refused(loaded, allow_reboot=True) == []

    def test_a_loaded_module_that_is_silent_is_put_in_order_by_its_own_packages(self) -> None:
        host = bare(H100, smi=smi("no-devices"), module="580.95.05")
        assert needs_install(Nvidia(driver_series=580), host)


def test_the_sentence_for_a_reboot() -> None:
    rest = "; set nvidia.allow_reboot = True, or reboot the host yourself and run again"
    assert reboot_needed(failure("odd words")) == f"a reboot is needed: odd words{rest}"
    assert reboot_needed(failure("GPU requires reset")) == (
        f"a reboot is needed: GPU requires reset (a card needs a reset){rest}"
    )


def test_a_card_of_nouveau_s_beside_a_driver_that_answers_is_no_reason() -> None:
    host = replace(answering("580.1"), devices=(card(H100, "nouveau"),))
    assert reboot_reason(host) is None
    assert str(reboot_reason(replace(host, smi=smi("lost")))) == (
        "the open-source driver nouveau holds the GPUs"
    )


def test_where_the_files_lie() -> None:
    assert INITRAMFS == ("! command -v update-initramfs >/dev/null || update-initramfs -u -k all")
    assert [file.path for file in (*driver_files(), persistence_unit())] == [
        "/etc/modprobe.d/vllm-hosts-nouveau.conf",
        "/etc/apt/apt.conf.d/51vllm-hosts-nvidia",
        "/etc/systemd/system/nvidia-persistenced.service",
    ]
