"""GPUs for hosts that have none: NVIDIA's driver utility as a script, and a list of cards."""

from __future__ import annotations

import uuid
from pathlib import Path

_SCRIPT = Path(__file__).with_name("standins") / "nvidia-smi"


def install(root: Path, gpus: int, host: str) -> None:
    """Put the stand-in and its cards into a host's file system. No cards: the driver fails."""
    target = root / "usr/bin/nvidia-smi"
    target.write_bytes(_SCRIPT.read_bytes())
    target.chmod(0o755)
    cards = [
        f"{index}, NVIDIA H200, GPU-{uuid.uuid5(uuid.NAMESPACE_DNS, f'{host}-{index}.lab')},"
        " 143771, 590.48.01, 9.0, Disabled, Enabled"
        for index in range(gpus)
    ]
    (root / "etc/lab-gpu.csv").write_text("".join(f"{card}\n" for card in cards))
