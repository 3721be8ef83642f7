"""Where the controller keeps what belongs to one inventory: keys and its CA."""

from __future__ import annotations

from pathlib import Path


def state_folder(inventory_file: Path) -> Path:
    """The folder beside an inventory for its secrets, such as ``inventory/.vllm-hosts/prod``.

    It depends on the inventory alone, not on where a command is run: another folder would mean
    new keys. It is made, with mode 0700, when something is first kept there.
    """
    path = inventory_file.resolve()
    return path.parent / ".vllm-hosts" / path.stem
