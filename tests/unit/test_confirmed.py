"""Waiting for a host to undo a change."""

from __future__ import annotations

import subprocess
from pathlib import Path

from vllm_hosts.operations.confirmed import undone_within


def test_the_wait_ends_where_nothing_is_undone(tmp_path: Path) -> None:
    waited = subprocess.run(["sh", "-c", undone_within(1, str(tmp_path))], check=False, timeout=20)
    assert waited.returncode == 1


def test_the_wait_ends_with_the_undoing(tmp_path: Path) -> None:
    (tmp_path / "undone").touch()
    waited = subprocess.run(["sh", "-c", undone_within(99, str(tmp_path))], check=False, timeout=20)
    assert waited.returncode == 0
