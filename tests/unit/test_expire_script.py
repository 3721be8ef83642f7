"""The script with which a host itself takes ended keys out of its edge."""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
from pathlib import Path

import pytest

from vllm_hosts.host.render import render

ENDED, GOOD = '"aaa" "a"; # until 1\n', '"bbb" "b"; # until 9999999999\n'


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """A folder with an edge's maps, the script, and programs in the place of the host's."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, body in {
        "systemctl": f'[ "$2" = is-active ] || echo $1 >>{tmp_path}/done',
        "nginx": f"[ ! -e {tmp_path}/rejects ]",
    }.items():
        (programs / name).write_text(f"#!/bin/sh\n{body}\n")
        (programs / name).chmod(0o755)
    (tmp_path / "edge").mkdir()
    (tmp_path / "edge" / "clients.map").write_text(ENDED + GOOD)
    (tmp_path / "edge" / "scopes.map").write_text("")
    script = render(
        "client_keys/expire.sh.j2",
        folder=str(tmp_path / "edge"),
        stamp=f"{tmp_path}/stamp",
        deployed=f"{tmp_path}/deployed",
    )
    (tmp_path / "script").write_text(script)
    return tmp_path


def run(host: Path, seconds: int = 60) -> int:
    path = f"{host}/bin:{os.environ['PATH']}"
    # It ends what it has started as well.
    words = ["timeout", str(seconds), "sh", str(host / "script")]
    return subprocess.run(words, env={"PATH": path}, check=False).returncode


def reloads(host: Path) -> int:
    log = host / "done"
    return len(log.read_text().split()) if log.exists() else 0


def test_an_ended_key_goes_once(host: Path) -> None:
    assert run(host) == 0
    assert (host / "edge" / "clients.map").read_text() == GOOD
    assert reloads(host) == 1
    assert (host / "stamp").read_text()
    before = (host / "edge").stat().st_mtime_ns
    assert run(host) == 0
    assert reloads(host) == 1
    assert (host / "edge").stat().st_mtime_ns == before, "nothing ended, and something was written"


def test_a_reload_that_was_rejected_is_tried_again(host: Path) -> None:
    (host / "rejects").touch()
    assert run(host) != 0
    assert (host / "edge" / "clients.map").read_text() == GOOD
    assert reloads(host) == 0
    (host / "rejects").unlink()
    assert run(host) == 0
    assert reloads(host) == 1
    assert [path.name for path in (host / "edge").iterdir() if "map" not in path.name] == []


def test_the_record_of_what_was_deployed_follows(host: Path) -> None:
    """Drift would call it a change by hand otherwise."""
    path, other = f"{host}/edge/clients.map", f"{'b' * 64}  /etc/other"
    (host / "deployed").write_text(f"{'a' * 64}  {path}\n{other}\n")
    assert run(host) == 0
    digest = hashlib.sha256(GOOD.encode()).hexdigest()
    assert sorted((host / "deployed").read_text().splitlines()) == sorted(
        [f"{digest}  {path}", other]
    )
    assert not (host / "deployed.new").exists()


def test_no_record_is_begun_by_it(host: Path) -> None:
    assert run(host) == 0
    assert not (host / "deployed").exists()


def test_whoever_may_enter_the_record_s_folder_holds_up_nothing(host: Path) -> None:
    """Nor does a user keep a key that has ended, or nginx from starting, with a lock on it."""
    (host / "deployed").write_text(f"{'a' * 64}  {host}/edge/clients.map\n")
    host.chmod(0o755)
    descriptor = os.open(host, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        assert run(host, seconds=10) == 0
    finally:
        os.close(descriptor)
    assert (host / "deployed.lock").stat().st_mode & 0o777 == 0o600
