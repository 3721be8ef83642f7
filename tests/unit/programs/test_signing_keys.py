"""gpg itself reads an archive's keys where nothing can be written, and says so if it cannot."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from vllm_hosts.facts.apt import AptKeyFingerprints

#: Of several keys, each with subkeys; lab hosts are made with it.
KEYS = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_LOCKED = "mount -t tmpfs -o ro none /tmp; mount -t tmpfs -o ro none /run"


def looked(path: Path, before: str = ":") -> subprocess.CompletedProcess[str]:
    script = f"{before}\n{AptKeyFingerprints().command(key_path=str(path))}"
    words = ["unshare", "--mount", "sh", "-c", script]
    return subprocess.run(words, capture_output=True, text=True, check=False, env={"LC_ALL": "C"})


def read(done: subprocess.CompletedProcess[str]) -> tuple[str, ...]:
    assert done.returncode == 0, done.stderr
    return AptKeyFingerprints().parse(done.stdout.splitlines())


@pytest.fixture
def folder() -> Iterator[Path]:
    """Outside /tmp, which is covered."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as path:
        yield Path(path)


def test_nothing_has_to_be_written() -> None:
    found = read(looked(KEYS))
    assert len(found) > 1 and all(len(print_) == 40 for print_ in found)
    assert read(looked(KEYS, _LOCKED)) == found


def test_what_is_no_key_has_none(folder: Path) -> None:
    for content in (b"", b"junk\n", KEYS.read_bytes()[:50], bytes(range(256))):
        (folder / "key").write_bytes(content)
        assert read(looked(folder / "key")) == ()
    assert read(looked(folder / "none")) == ()


def test_a_gpg_that_cannot_run_is_no_answer(folder: Path) -> None:
    broken = folder / "gpg"
    broken.write_text("#!/bin/sh\nkill -9 $$\n")
    broken.chmod(0o755)
    done = looked(KEYS, f"PATH={folder}:$PATH")
    assert done.returncode == 1
