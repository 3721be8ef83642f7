"""A change that the host undoes: what is noted of its files returns with them."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

import pytest

from vllm_hosts.host.files import File
from vllm_hosts.operations import confirmed, tree


def line(path: Path, content: str) -> str:
    return f"{hashlib.sha256(content.encode()).hexdigest()}  {path}\n"


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders in the place of a host's, and a systemd that is told of a timer and does nothing."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("systemctl", "systemd-run"):
        (programs / name).write_text("#!/bin/sh\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setattr(confirmed, "_FOLDER", f"{tmp_path}/undo")
    monkeypatch.setattr(confirmed, "_KEPT", f"{tmp_path}/state/unconfirmed")
    monkeypatch.setattr(confirmed, "_UNIT", f"{tmp_path}/etc/undo.service")
    for module in (confirmed, tree):
        monkeypatch.setattr(module, "DEPLOYED", f"{tmp_path}/deployed")
        monkeypatch.setattr(module, "COPIES", f"{tmp_path}/copies")
    monkeypatch.setattr(tree, "PREVIOUS", f"{tmp_path}/previous")
    return tmp_path


def run(command: object) -> None:
    done = subprocess.run(
        ["sh", "-c", str(command)], check=False, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("script", ["undo/change/undo.sh", "state/unconfirmed/boot.sh"])
@pytest.mark.parametrize("known", [True, False])
def test_the_record_and_the_copy_return(host: Path, known: bool, script: str) -> None:
    """After a minute, and at a boot before."""
    rules, other = host / "rules", host / "other"
    rules.write_text("old\n")
    before = line(other, "something")
    if known:
        before = "".join(sorted([before, line(rules, "old\n")]))
        (host / "copies" / rules.relative_to("/")).parent.mkdir(parents=True)
        (host / "copies" / rules.relative_to("/")).write_text("old\n")
    (host / "deployed").write_text(before)
    run(confirmed.armed("change", [str(rules)], save=":", undo=":"))
    # What a deploy does in between.
    rules.write_text("new\n")
    run(tree.noting([File(str(rules), b"new\n", 0o644)]))
    assert line(rules, "new\n") in (host / "deployed").read_text()
    assert (host / "copies" / rules.relative_to("/")).read_text() == "new\n"

    run(f"sh {host}/{script}")
    assert (host / "undo" / "change" / "undone").exists() == script.startswith("undo/")
    assert rules.read_text() == "old\n"
    assert (host / "deployed").read_text() == before
    assert (host / "deployed").stat().st_mode & 0o777 == 0o600
    copy = host / "copies" / rules.relative_to("/")
    assert (copy.read_text() if copy.exists() else None) == ("old\n" if known else None)


def test_a_host_without_a_record_gets_none(host: Path) -> None:
    rules = host / "rules"
    rules.write_text("old\n")
    run(confirmed.armed("change", [str(rules)], save=":", undo=":"))
    run(f"sh {host}/undo/change/undo.sh")
    assert not (host / "deployed").exists()
