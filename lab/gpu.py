"""GPUs for hosts that have none: NVIDIA's driver utility as a script, cards, and a PCI bus.

Failures are switched on by a file on the host, ``/etc/lab-gpu.mode``, whose words are ``MODES``.
"""

from __future__ import annotations

import os
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path

_STANDINS = Path(__file__).with_name("standins") / "driver"
SCRIPT = _STANDINS / "nvidia-smi"
#: What the stand-in can fail with. Followed by a boot's id, a mode ends with that boot.
MODES = ("no-driver", "nvml-missing", "mismatch", "lost")
MODE_FILE = "/etc/lab-gpu.mode"
#: PCI classes: 3D controller, and the bridge that an NVSwitch is.
_GPU, _SWITCH = "0x030200", "0x068000"
_NVSWITCH = "0x22a3"


@dataclass(frozen=True)
class Card:
    """A kind of card as nvidia-smi tells it: name, memory in MiB, compute capability, MIG."""

    name: str
    memory: int
    capability: str
    mig: str
    device: str


CARDS = {
    "h200": Card("NVIDIA H200", 143771, "9.0", "Disabled", "0x2335"),
    "h100-mig": Card("NVIDIA H100 80GB HBM3", 81559, "9.0", "Enabled", "0x2330"),
    "l40s": Card("NVIDIA L40S", 46068, "8.9", "[N/A]", "0x26b9"),
    "rtx4080": Card("NVIDIA GeForce RTX 4080", 16376, "8.9", "[N/A]", "0x2704"),
    # Cards that only their PCI ids matter of.
    "b200": Card("NVIDIA B200", 183359, "10.0", "Disabled", "0x2901"),
    "v100": Card("Tesla V100-SXM2-16GB", 16160, "7.0", "[N/A]", "0x1db1"),
}


def install(root: Path, gpus: int, host: str, kind: str = "h200", switches: int = 0) -> None:
    """Put a working driver and its cards into a host's file system. No cards: the driver fails.

    The bus shows them from the host's next boot on.
    """
    target = root / "usr/bin/nvidia-smi"
    target.write_bytes(SCRIPT.read_bytes())
    target.chmod(0o755)
    write_cards(root, gpus, host, kind, switches)
    program = root / "usr/local/lib/lab-pci-bus"
    program.write_bytes((_STANDINS / "pci-bus").read_bytes())
    program.chmod(0o755)
    units = root / "etc/systemd/system"
    shutil.copy(_STANDINS / "lab-pci.service", units)
    wanted = units / "multi-user.target.wants"
    wanted.mkdir(exist_ok=True)
    link = wanted / "lab-pci.service"
    link.unlink(missing_ok=True)
    link.symlink_to("/etc/systemd/system/lab-pci.service")


def write_cards(root: Path, gpus: int, host: str, kind: str = "h200", switches: int = 0) -> None:
    """Other cards for a host, on its bus and for its driver. A running host sees them at once."""
    card = CARDS[kind]
    lines = [
        f"{index}, {card.name}, GPU-{uuid.uuid5(uuid.NAMESPACE_DNS, f'{host}-{index}.lab')},"
        f" {card.memory}, 590.48.01, {card.capability}, {card.mig}, Enabled\n"
        for index in range(gpus)
    ]
    (root / "etc/lab-gpu.csv").write_text("".join(lines))
    bus = root / "etc/lab-pci"
    bus.mkdir(exist_ok=True)
    # The folder itself stays: a running host has it mounted over its bus.
    for old in bus.iterdir():
        shutil.rmtree(old)
    for index in range(gpus):
        _device(bus / f"0000:{0x18 + index:02x}:00.0", _GPU, card.device)
    for index in range(switches):
        _device(bus / f"0000:{0xC4 + index:02x}:00.0", _SWITCH, _NVSWITCH)


def held_by_nouveau(root: Path) -> None:
    """The free driver has taken the cards, and keeps them until a boot without it."""
    for device in (root / "etc/lab-pci").iterdir():
        link = device / "driver"
        if not link.is_symlink():
            os.symlink("../../../bus/pci/drivers/nouveau", link)


def _device(folder: Path, pci_class: str, device: str) -> None:
    folder.mkdir()
    for name, value in (("vendor", "0x10de"), ("class", pci_class), ("device", device)):
        (folder / name).write_text(f"{value}\n")
