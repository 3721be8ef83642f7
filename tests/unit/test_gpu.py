"""nvidia-smi's answers, PCI ids, and what the one look at a host makes of them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from lab import gpu as lab_gpu
from tests.unit.samples import QWEN, settings
from vllm_hosts.errors import HostError
from vllm_hosts.facts.base import END
from vllm_hosts.facts.gpu import GpuState
from vllm_hosts.host.gpus import GpuHost, silent, unusable
from vllm_hosts.host.nvidia_smi import CARDS, QUERY, Gpu, Smi, parse, query, read
from vllm_hosts.host.pci import PciDevice

RECORDED = Path(__file__).parent / "data" / "nvidia-smi"


def recorded(name: str) -> list[str]:
    return (RECORDED / f"{name}.txt").read_text().splitlines()


def smi(name: str) -> Smi:
    return parse(recorded(name))


def test_a_card_is_read_field_by_field() -> None:
    uuid = "GPU-2b8b8c4e-5a2c-5d6e-9a57-0f1f6b0b7f11"
    assert smi("h200").gpus == (
        Gpu(0, "NVIDIA H200", uuid, 143771, "590.48.01", (9, 0), False, True),
    )
    assert smi("h200").driver == "590.48.01"
    assert smi("h200").message is None


@pytest.mark.parametrize(
    ("name", "mig", "memory", "capability", "persistence"),
    [
        ("h100-mig", True, 81559, (9, 0), True),
        ("l40s", None, 46068, (8, 9), True),
        ("rtx4080", None, 16376, (8, 9), False),
        ("grace", None, None, (12, 1), None),
        ("driver-470", None, 16160, None, False),
    ],
)
def test_what_a_card_does_not_have_is_none(
    name: str,
    mig: bool | None,
    memory: int | None,
    capability: tuple[int, int] | None,
    persistence: bool | None,
) -> None:
    card = smi(name).gpus[0]
    assert card.mig is mig
    assert card.memory_mib == memory
    assert card.compute_capability == capability
    assert card.persistence is persistence


def test_all_cards_are_read_in_order() -> None:
    assert [card.index for card in smi("eight").gpus] == list(range(8))


@pytest.mark.parametrize(
    ("name", "words", "meaning", "reboot"),
    [
        ("no-driver", "couldn't communicate with the NVIDIA driver", "module does not run", False),
        ("nvml-missing", "couldn't find libnvidia-ml.so", "libraries are missing", False),
        ("mismatch", "version mismatch NVML library version: 550.163", "was updated", True),
        ("lost", "GPU is lost. Reboot the system", "fallen off the bus", True),
        ("handle", "GPU0000:07:00.0: Unknown Error", "Xid", True),
        ("no-devices", "No devices were found", "claims no card", False),
        ("not-installed", "the driver is missing", "no driver", False),
    ],
)
def test_failures_keep_their_own_words(name: str, words: str, meaning: str, reboot: bool) -> None:
    found = smi(name)
    assert found.gpus == ()
    assert found.driver is None
    assert found.failure is not None
    assert words in found.failure.words
    assert meaning in found.failure.meaning
    assert found.failure.reboot_helps is reboot
    assert found.installed is (name != "not-installed")


def test_a_card_that_is_gone_leaves_the_others() -> None:
    found = smi("one-lost")
    assert [card.index for card in found.gpus] == [0]
    assert found.message is None
    assert found.lost == {1: "GPU is lost"}
    assert found.trouble([0]) is None
    trouble = found.trouble([0, 1])
    assert trouble is not None
    assert (trouble.words, trouble.reboot_helps) == ("GPU 1: GPU is lost", True)
    agents = settings(agents=[QWEN | {"gpus": [1]}]).agents
    [problem] = unusable(agents, found)
    assert problem.startswith("agent 'qwen' asks for GPU 1, and nvidia-smi reports: GPU is lost")
    assert "reboot the host, or give the agent another GPU" in problem


ROW = "0, NVIDIA A10G, GPU-1, 23028, 550.163.01, 8.6, [N/A], Disabled"
OTHER = "1, NVIDIA A10G, GPU-2, 23028, 550.163.01, 8.6, [N/A], Disabled"


@pytest.mark.parametrize(
    ("said", "code", "cards", "noted"),
    [
        # Driver 550 on an A10G, as reported.
        (
            [ROW, "WARNING: infoROM is corrupted at gpu 0000:00:1E.0"], 14, [0],
            "WARNING: infoROM is corrupted at gpu 0000:00:1E.0",
        ),
        (["", "Warning: persistence mode is disabled on device GPU 0", ROW, "", OTHER], 0, [0, 1],
         "Warning: persistence mode is disabled on device GPU 0"),
        ([ROW, "Unable to determine the device handle for GPU0000:07:00.0: Unknown Error", OTHER],
         255, [0, 1], "Unknown Error"),
        ([ROW, "WARNING: 1, 2, 3, 4, 5, 6, 7, 8"], 0, [0], "WARNING: 1, 2"),
        ([ROW, "1, NVIDIA A1"], 0, [0], "1, NVIDIA A1"),
        ([ROW], 124, [0], "did not finish within 60 s"),
        ([ROW.replace("A10G", "A10G, rev. b")], 0, [0], ""),
        ([ROW.replace("0, NV", " 0 , NV", 1)], 0, [0], ""),
        ([ROW.replace("23028", "[Insufficient Permissions]")], 0, [0], ""),
        ([ROW.replace("[N/A]", "[Unknown Error]")], 0, [0], ""),
        ([ROW.replace("Disabled", "[Requested functionality has been deprecated]")], 0, [0], ""),
        ([ROW.replace("8.6", "[Function Not Found]")], 0, [0], ""),
    ],
)  # fmt: skip
def test_rows_count_whatever_stands_around_them(
    said: list[str], code: int, cards: list[int], noted: str
) -> None:
    found = parse([*said, f"exit {code}"])
    assert [card.index for card in found.gpus] == cards
    assert found.message is None
    assert found.driver == "550.163.01"
    assert noted in " ".join(found.notes)
    assert bool(noted) is bool(found.notes)


def test_a_driver_that_hangs_is_there() -> None:
    failed = parse(["exit 124"]).failure
    assert failed is not None
    assert failed.words == "nvidia-smi did not answer within 60 s"
    assert "hangs" in failed.meaning
    # Whatever it said before counts for more.
    said = parse(["GPU is lost", "exit 137"]).failure
    assert said is not None
    assert "fallen off the bus" in said.meaning


def test_a_program_that_cannot_be_loaded_is_there() -> None:
    """Its loader ends with the code that a shell has for no program at all."""
    found = parse(["nvidia-smi: error while loading shared libraries: libc.so.6", "exit 127"])
    assert (found.installed, found.code) == (True, 127)
    assert "shared libraries" in str(found.failure)


def test_other_fields_are_read_by_the_same_rules() -> None:
    row = "0, NVIDIA A10G, rev. b, 23028"
    found = read(
        [row, "1, [GPU is lost], [GPU is lost]", "exit 0"], ("index", "name", "memory.total")
    )
    assert found.gpus == (Gpu(0, "NVIDIA A10G, rev. b", memory_mib=23028),)
    assert found.lost == {1: "GPU is lost"}
    # Only a name is never missing: a number may be, for reasons of its own.
    found = read(["0, A10G, [Unknown Error]", "exit 0"], CARDS)
    assert found.gpus == (Gpu(0, "A10G"),)
    # What has no name has no comma too many.
    assert read(["0, 34, 7", "exit 0"], ("index", "temperature.gpu")).gpus == ()


def test_fields_that_every_driver_knows_are_asked_for_once() -> None:
    assert query(("index", "name")).count("nvidia-smi --format") == 1
    assert QUERY.count("nvidia-smi --format") == 2


def test_a_query_ends_though_nvidia_smi_does_not(tmp_path: Path) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\necho '{ROW}'\nexec sleep 60\n")
    program.chmod(0o755)
    script = QUERY.replace("timeout -k 5 60", "timeout -k 1 0.2")
    done = subprocess.run(
        ["sh", "-c", script], env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        capture_output=True, text=True, check=True, timeout=5,
    )  # fmt: skip
    assert [card.index for card in parse(done.stdout.splitlines()).gpus] == [0]


def test_every_recorded_answer_is_read_by_a_test() -> None:
    source = Path(__file__).read_text()
    assert [p.stem for p in RECORDED.glob("*.txt") if f'"{p.stem}"' not in source] == []


@pytest.mark.parametrize(
    "lines",
    [
        ["0, NVIDIA H200, GPU-1, lots, 590.48.01, 9.0, Disabled, Enabled", "exit 0"],
        ["0, NVIDIA H200, GPU-1, 143771, 590.48.01, 9.0, Perhaps, Enabled", "exit 0"],
        ["0, NVIDIA H200", "exit 0"],
        ["0, NVIDIA H200, GPU-1, 143771, 590.48.01, 9.0, Disabled, Enabled"],
    ],
)
def test_an_answer_that_is_no_card_is_an_error(lines: list[str]) -> None:
    with pytest.raises(ValueError):
        parse(lines)


@pytest.mark.parametrize(
    ("device", "architecture"),
    [
        (0x13C2, "maxwell"),  # GTX 970
        (0x1B38, "pascal"),  # Tesla P40
        (0x1DB6, "volta"),  # Tesla V100
        (0x1EB8, "turing"),  # T4
        (0x20B5, "ampere"),  # A100
        (0x2236, "ampere"),  # A10
        (0x26B9, "ada"),  # L40S
        (0x2704, "ada"),  # RTX 4080
        (0x2330, "hopper"),  # H100 SXM
        (0x2335, "hopper"),  # H200
        (0x2901, "blackwell"),  # B200
        (0x2BB5, "blackwell"),  # RTX PRO 6000
        (0x2F04, "blackwell"),  # RTX 5070
        (0x1180, "older"),  # GTX 680
        (0x3F00, None),
    ],
)
def test_the_architecture_is_known_from_the_pci_id(device: int, architecture: str | None) -> None:
    assert PciDevice("0000:18:00.0", 0x030200, device, "").architecture == architecture


def test_only_grace_hopper_is_grace_hopper() -> None:
    found = [
        device
        for device in range(0x2300, 0x2400)
        if PciDevice("0", 0x030200, device, "").is_grace_hopper
    ]
    assert found == [0x2342, 0x2343, 0x2345, 0x2348]


BARE = [
    *["== kernel", "6.12.48+deb13-amd64", "== headers", "== pci"],
    *["0000:18:00.0 0x030200 0x2335 nouveau", "0000:18:00.1 0x040300 0x2335 -"],
    *["0000:c4:00.0 0x068000 0x22a3 -", "== module", "== secure boot"],
    *["SecureBoot enabled", "/var/lib/dkms/mok.pub is not enrolled", "== switches"],
    *["== persistenced", "== smi"],
]


def look(lines: list[str], answer: str = "not-installed") -> GpuHost:
    return GpuState().process([*lines, *recorded(answer), END])


def test_a_bare_gpu_box_is_known_from_its_bus() -> None:
    found = look(BARE)
    assert [card.slot for card in found.cards] == ["0000:18:00.0"]
    assert found.cards[0].architecture == "hopper"
    assert found.nouveau
    assert found.nvswitch
    assert found.secure_boot is True
    assert not found.key_enrolled
    assert not found.has_headers
    assert found.module is None
    assert found.smi.driver is None


def test_a_host_with_a_driver() -> None:
    lines = [line.replace("nouveau", "nvidia").replace("not enrolled", "already enrolled")
             for line in BARE if "22a3" not in line]  # fmt: skip
    lines[lines.index("== module") :][:1] = ["== module"]
    lines.insert(lines.index("== module") + 1, "590.48.01")
    lines.insert(lines.index("== headers") + 1, "present")
    found = look(lines, "h200")
    assert (found.module, found.has_headers, found.key_enrolled) == ("590.48.01", True, True)
    assert not found.nouveau
    assert not found.nvswitch
    assert found.smi.driver == "590.48.01"


@pytest.mark.parametrize(
    ("said", "state"),
    [
        (["SecureBoot enabled"], True),
        (["SecureBoot enabled", "SecureBoot validation is disabled in shim"], False),
        (["SecureBoot disabled"], False),
        (["EFI variables are not supported on this system"], None),
        ([], None),
    ],
)
def test_secure_boot_as_mokutil_says_it(said: list[str], state: bool | None) -> None:
    at = BARE.index("== secure boot") + 1
    assert look([*BARE[:at], *said, *BARE[at + 2 :]]).secure_boot is state


def test_a_look_that_was_cut_short_is_no_host_without_gpus() -> None:
    with pytest.raises(HostError):
        GpuState().process([*BARE[:4], END])


def test_agents_take_whole_cards_that_are_there() -> None:
    agents = settings(agents=[QWEN | {"gpus": [0, 3]}]).agents
    [lost] = unusable(agents, smi("l40s"))
    assert lost == (
        "agent 'qwen' asks for GPU 3, and this host has 0, 1; correct the agent's gpus, or see on"
        " the host which cards it has: nvidia-smi -L"
    )
    split, _ = unusable(agents, smi("h100-mig"))
    assert "asks for GPU 0, which is split (MIG)" in split
    assert "nvidia-smi -i 0 -mig 0" in split


@pytest.mark.parametrize(
    ("name", "mode", "advice"),
    [
        ("not-installed", "present", "install a driver, or set nvidia.driver = 'install'"),
        ("not-installed", "install", "see docs/driver.md"),
        ("mismatch", "present", "reboot the host"),
    ],
)
def test_a_silent_driver_gets_advice(name: str, mode: str, advice: str) -> None:
    failed = smi(name).failure
    assert failed is not None
    sentence = silent(failed, mode)
    assert sentence.startswith(f"the GPU driver does not answer: {failed.words}")
    assert sentence.endswith(f"; {advice}")


class TestTheLabsStandIn:
    """The lab's nvidia-smi says what real ones say, in the same form."""

    def ask(self, root: Path, *words: str) -> list[str]:
        """Our own query, run by this machine's shell against a prepared folder."""
        script = (root / "usr/bin/nvidia-smi").read_text()
        for path in ("/etc/lab-", "/usr/share/lab-", "/sys/bus/pci/devices"):
            script = script.replace(path, f"{root}{path}")
        program = root / "bin/nvidia-smi"
        program.parent.mkdir(exist_ok=True)
        program.write_text(script)
        program.chmod(0o755)
        command = [str(program), *words] if words else ["sh", "-c", QUERY]
        done = subprocess.run(
            command,
            env={"PATH": f"{root}/bin:/usr/bin:/bin"},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout.splitlines()

    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        for folder in ("usr/bin", "etc/systemd/system", "usr/local/lib"):
            (tmp_path / folder).mkdir(parents=True)
        lab_gpu.install(tmp_path, 2, "gpu1")
        return tmp_path

    def test_it_answers_as_two_h200(self, root: Path) -> None:
        found = parse(self.ask(root))
        assert found.message is None
        assert [card.index for card in found.gpus] == [0, 1]
        real = smi("h200").gpus[0]
        for card in found.gpus:
            assert (card.name, card.memory_mib, card.driver, card.compute_capability) == (
                real.name, real.memory_mib, real.driver, real.compute_capability,
            )  # fmt: skip

    @pytest.mark.parametrize("card", ["h200", "h100-mig", "l40s", "rtx4080"])
    def test_it_answers_as_each_recorded_card(self, root: Path, card: str) -> None:
        lab_gpu.install(root, 1, "gpu1", card)
        found, real = parse(self.ask(root)).gpus[0], smi(card).gpus[0]
        assert (found.name, found.memory_mib, found.mig, found.compute_capability) == (
            real.name, real.memory_mib, real.mig, real.compute_capability,
        )  # fmt: skip
        listed = self.ask(root, "-L")
        assert listed[0].startswith(f"GPU 0: {real.name} (UUID: GPU-")
        assert any("MIG 3g.40gb" in line for line in listed) is (card == "h100-mig")

    def test_it_lists_programs_as_a_real_card(self, root: Path) -> None:
        program = "--query-compute-apps=pid,used_memory,gpu_uuid"
        assert self.ask(root, program) == []
        real = (RECORDED.parent / "nvidia-apps" / "h200.txt").read_text().splitlines()[:-1]
        (root / "etc/lab-gpu-apps.csv").write_text("".join(f"{line}\n" for line in real))
        assert self.ask(root, program) == real
        assert self.ask(root, "--query-compute-apps=gpu_uuid,pid")[0].endswith(", 466")
        [refused] = self.ask(root, "--query-compute-apps=pid,name")
        assert refused == 'Field "name" is not a valid field to query.'

    @pytest.mark.parametrize("mode", ["no-driver", "nvml-missing", "mismatch", "lost"])
    def test_it_fails_as_recorded(self, root: Path, mode: str) -> None:
        (root / "etc/lab-gpu.mode").write_text(f"{mode}\n")
        said = self.ask(root)
        assert said[-1] == recorded(mode)[-1], "the exit code"
        found, real = parse(said).failure, smi(mode).failure
        assert found is not None
        assert real is not None
        assert found.meaning == real.meaning != ""

    def test_a_failure_may_end_with_the_next_boot(self, root: Path) -> None:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        (root / "etc/lab-gpu.mode").write_text(f"mismatch {boot}\n")
        assert parse(self.ask(root)).message is not None
        (root / "etc/lab-gpu.mode").write_text("mismatch another-boot\n")
        assert parse(self.ask(root)).message is None

    def test_nouveau_keeps_it_from_the_cards(self, root: Path) -> None:
        bus = root / "sys/bus/pci/devices"
        bus.parent.mkdir(parents=True)
        bus.symlink_to(root / "etc/lab-pci")
        lab_gpu.held_by_nouveau(root)
        found = parse(self.ask(root)).failure
        assert found is not None
        assert found.meaning == "the kernel module does not run"

    def test_its_bus_shows_its_cards(self, root: Path) -> None:
        lab_gpu.install(root, 2, "gpu1", "l40s", switches=1)
        script = GpuState().command().replace("/sys/bus/pci/devices", f"{root}/etc/lab-pci")
        done = subprocess.run(
            ["sh", "-c", script], capture_output=True, text=True, check=True,
            env={"PATH": "/usr/bin:/bin"},
        )  # fmt: skip
        found = GpuState().process(done.stdout.splitlines())
        assert [card.architecture for card in found.cards] == ["ada", "ada"]
        assert found.nvswitch
