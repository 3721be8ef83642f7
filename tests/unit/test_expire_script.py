"""The script with which a host itself takes ended keys out of its edge."""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import SecretStr

from vllm_hosts.host.files import Entry, File
from vllm_hosts.host.paths import EDGE_FOLDER
from vllm_hosts.host.render import render
from vllm_hosts.keys import ClientKey
from vllm_hosts.operations.tree import _digest
from vllm_hosts.roles.client_keys.plan import key_entries

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


def run(host: Path, seconds: int = 60, **environment: str) -> int:
    path = f"{host}/bin:{os.environ['PATH']}"
    # It ends what it has started as well.
    words = ["timeout", str(seconds), "sh", str(host / "script")]
    # As wide as it gets: the script's own umask counts.
    done = subprocess.run(words, env={"PATH": path} | environment, check=False, umask=0)
    return done.returncode


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


def deployed(host: Path, *keys: ClientKey) -> list[Entry]:
    """What a deploy would leave of these keys, in the folder of this host."""
    entries = key_entries(["qwen", "coder"], keys)
    folder = str(host / "edge")
    return [replace(one, path=one.path.replace(EDGE_FOLDER, folder)) for one in entries]


def test_the_host_notes_what_the_controller_would(host: Path) -> None:
    """The next deploy finds nothing to take up: both compute one digest."""
    ended = ClientKey("alice", SecretStr("KEY-A"), datetime(2020, 1, 1, tzinfo=UTC), ("qwen",))
    stays = ClientKey("bob", SecretStr("KEY-B"), datetime(2100, 1, 1, tzinfo=UTC), ("coder",))
    also = ClientKey("alice", SecretStr("KEY-NEW"), None, ("qwen",))
    for entry in deployed(host, ended, stays, also):
        if isinstance(entry, File):
            Path(entry.path).write_bytes(entry.content)
    assert run(host) == 0
    wanted = deployed(host, stays, also)
    for entry in wanted:
        if isinstance(entry, File):
            assert Path(entry.path).read_bytes() == entry.content
    assert (host / "stamp").read_text() == _digest(wanted, {})
    # Whatever the order in which either lists the files.
    assert _digest(list(reversed(wanted)), {}) == _digest(wanted, {})


def test_nothing_that_it_writes_is_for_others(host: Path) -> None:
    (host / "deployed").write_text("")
    (host / "rejects").touch()
    assert run(host) != 0
    assert (host / "edge/expiry.pending").stat().st_mode & 0o777 == 0o600
    (host / "rejects").unlink()
    assert run(host) == 0
    for name in ("edge/clients.map", "stamp", "deployed", "deployed.lock"):
        assert (host / name).stat().st_mode & 0o777 == 0o600, name


def test_what_is_new_is_on_the_disk_before_it_takes_its_place(host: Path) -> None:
    """At a power failure in between, there are the old keys or the new ones, and never none."""
    for name in ("sync", "mv"):
        (host / "bin" / name).write_text(
            f'#!/bin/sh\nfor last in "$@"; do :; done\n'
            f"echo {name} $last >>{host}/order\n"
            f"[ {name} = sync ] && wc -l <$last >>{host}/order\n"
            f'exec /bin/{name} "$@"\n'
        )
        (host / "bin" / name).chmod(0o755)
    assert run(host) == 0
    assert (host / "order").read_text().splitlines()[:3] == [
        "sync clients.map.vllm-hosts-new",
        "1",
        "mv clients.map",
    ]


def test_the_record_stays_sorted_by_bytes(host: Path) -> None:
    """As a deploy sorts it, whatever the language that systemd has."""
    others = [f"{digest * 64}  /etc/{name}" for digest, name in (("0", "Z"), ("f", "a"))]
    (host / "deployed").write_text("".join(f"{line}\n" for line in others))
    assert run(host, LC_ALL="en_US.UTF-8") == 0
    lines = (host / "deployed").read_text().splitlines()
    assert len(lines) == 3
    assert lines == sorted(lines)
