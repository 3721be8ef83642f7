"""NVIDIA's cards and their architectures, from the PCI bus, before there is a driver."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from vllm_hosts.data import table

#: PCI vendor of NVIDIA.
NVIDIA = 0x10DE
#: From the oldest to the newest in the table.
ARCHITECTURES = ("maxwell", "pascal", "volta", "turing", "ampere", "ada", "hopper", "blackwell")
#: PCI classes (upper 16 bits) of GPUs: VGA and 3D controllers; and of bridges of no other kind.
_GPU_CLASSES = (0x0300, 0x0302)
_BRIDGE_CLASS = 0x0680
#: The lowest device id of an NVSwitch; lower ones are parts of nForce mainboards.
_FIRST_NVSWITCH = 0x1AC0
#: Lowest device id of Maxwell; older cards have no driver that vLLM could use.
_FIRST_MAXWELL = 0x1340


@dataclass(frozen=True)
class PciDevice:
    """A device of NVIDIA's: slot such as ``0000:18:00.0``, class and device id as numbers.

    ``driver``: the kernel driver that holds it, empty if none does.
    """

    slot: str
    pci_class: int
    device: int
    driver: str

    @property
    def is_gpu(self) -> bool:
        """Whether it is a GPU, rather than a GPU's sound device or USB port."""
        return self.pci_class >> 8 in _GPU_CLASSES

    @property
    def is_nvswitch(self) -> bool:
        """Whether it is a switch between GPUs, which needs the Fabric Manager."""
        return self.pci_class >> 8 == _BRIDGE_CLASS and self.device >= _FIRST_NVSWITCH

    @property
    def architecture(self) -> str | None:
        """One of ``ARCHITECTURES``, ``older`` than those, or None if the table does not have it."""
        if self.device < _FIRST_MAXWELL:
            return "older"
        for name in ARCHITECTURES:
            if _within(self.device, name):
                return name
        return None

    @property
    def is_grace_hopper(self) -> bool:
        """Whether it is a Grace Hopper board's GPU."""
        return _within(self.device, "grace_hopper")

    def __str__(self) -> str:
        return f"{self.slot} (10de:{self.device:04x})"


@cache
def _ranges() -> dict[str, tuple[tuple[int, int], ...]]:
    cards: dict[str, list[str]] = table("nvidia_pci.yaml")
    return {
        name: tuple(
            (int(first, 16), int(last, 16))
            for first, _, last in (item.partition("-") for item in items)
        )
        for name, items in cards.items()
    }


def _within(device: int, name: str) -> bool:
    return any(first <= device <= last for first, last in _ranges()[name])
