"""What real cards answered to this project's commands, read by what reads them on users' hosts."""

from __future__ import annotations

from pathlib import Path

import pytest

from vllm_hosts.facts.gpu import GpuState
from vllm_hosts.host import nvidia_apps
from vllm_hosts.host.nvidia_smi import LOAD, Gpu, failure, health, parse, read
from vllm_hosts.host.pci import PciDevice

SEEN = Path(__file__).parent / "data" / "nvidia-smi" / "seen"
H100 = ("h100", "NVIDIA H100 80GB HBM3", "GPU-954825ae-bb03-66a0-253b-dbbba1b8d9f5", 81559, 0x2330)
H200 = ("h200", "NVIDIA H200", "GPU-1bcada45-3b45-c856-4faa-29960a3cc45b", 143771, 0x2335)


def lines(name: str) -> list[str]:
    return (SEEN / f"{name}.txt").read_text().splitlines()


@pytest.mark.parametrize(("kind", "name", "uuid", "memory", "device"), [H100, H200])
class TestACard:
    def test_the_host(self, kind: str, name: str, uuid: str, memory: int, device: int) -> None:
        found = GpuState().process(lines(f"{kind}-host"))
        card = Gpu(0, name, uuid, memory, "580.159.04", (9, 0), mig=False, persistence=True)
        assert found.smi.gpus == (card,)
        assert (found.smi.failure, found.smi.notes, found.smi.lost) == (None, (), {})
        assert found.devices == (PciDevice("0000:00:06.0", 0x030200, device, "nvidia"),)
        assert (found.module, found.has_persistenced) == ("580.159.04", True)
        assert (found.nvswitch, found.has_headers, found.secure_boot) == (False, False, None)

    def test_who_holds_memory(
        self, kind: str, name: str, uuid: str, memory: int, device: int
    ) -> None:
        (holder,) = nvidia_apps.read(lines(f"{kind}-apps"))
        assert (holder.name, holder.memory_mib, holder.gpu, holder.ours) == (
            *("python3", 14720, uuid),
            False,
        )

    def test_the_load(self, kind: str, name: str, uuid: str, memory: int, device: int) -> None:
        (card,) = read(lines(f"{kind}-load"), LOAD).gpus
        assert (card.name, card.memory_mib, card.memory_used_mib) == (name, memory, 14729)
        assert (card.utilization, card.power_limit, card.mig) == (99, 700, False)
        # A card may draw a little more than its limit.
        assert card.power is not None and 600 < card.power < 710

    def test_its_health(self, kind: str, name: str, uuid: str, memory: int, device: int) -> None:
        (card,) = parse(lines(f"{kind}-health"), health()).gpus
        assert card.ecc_errors == 0
        assert card.hw_thermal_slowdown is card.sw_thermal_slowdown is False
        assert card.hw_power_brake_slowdown is False


def test_messages() -> None:
    assert "is not a valid field" in " ".join(lines("no-such-field"))
    assert failure(lines("no-such-card")[0]).meaning
