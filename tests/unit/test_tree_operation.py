"""The script that writes files, run for real by this machine's shell on a folder of its own."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest
from pyinfra.api.command import StringCommand

from vllm_hosts.host.files import Absent, File, Folder, Kept
from vllm_hosts.operations import tree as operation
from vllm_hosts.operations.tree import change


@pytest.fixture(autouse=True)
def _previous(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(operation, "PREVIOUS", f"{tmp_path}/previous")
    monkeypatch.setattr(operation, "DEPLOYED", f"{tmp_path}/state/deployed")
    monkeypatch.setattr(operation, "COPIES", f"{tmp_path}/state/files")


def apply(command: StringCommand) -> subprocess.CompletedProcess[str]:
    lines = command.connector_arguments["_stdin"]
    assert isinstance(lines, list)
    return subprocess.run(
        ["sh", "-c", command.get_raw_value()],
        input="".join(f"{line}\n" for line in lines),
        text=True,
        capture_output=True,
        check=False,
        timeout=20,
    )


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_writes_content_mode_and_owner(tmp_path: Path) -> None:
    content = bytes(range(256)) * 400
    files = [
        Folder(f"{tmp_path}/cache", 0o750, "64101", "64101"),
        File(f"{tmp_path}/new/deep/a.bin", content, mode=0o640, owner="64101", group="64101"),
        File(f"{tmp_path}/b", b""),
    ]
    done = apply(change(files))
    assert (done.returncode, done.stderr) == (0, "")
    written = tmp_path / "new/deep/a.bin"
    assert written.read_bytes() == content
    assert mode(written) == 0o640
    assert (written.stat().st_uid, written.stat().st_gid) == (64101, 64101)
    assert mode(tmp_path / "cache") == 0o750
    assert mode(tmp_path / "new") == 0o755
    assert (tmp_path / "b").read_bytes() == b""
    assert not list(tmp_path.rglob("*.vllm-hosts-new"))


def test_a_kept_file_gets_its_mode_and_keeps_its_content(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("private")
    os.chmod(tmp_path / "key", 0o644)
    assert apply(change([Kept(f"{tmp_path}/key", 0o600)])).returncode == 0
    assert mode(tmp_path / "key") == 0o600
    assert (tmp_path / "key").read_text() == "private"


def test_a_symbolic_link_is_replaced_and_its_target_untouched(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    assert apply(change([File(f"{tmp_path}/link", b"ours")])).returncode == 0
    assert (tmp_path / "target").read_text() == "mine"
    assert not (tmp_path / "link").is_symlink()


def test_the_version_before_is_kept_unless_it_is_secret(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("old plain")
    (tmp_path / "secret").write_text("old secret")
    (tmp_path / "gone").write_text("old gone")
    entries = [
        File(f"{tmp_path}/plain", b"new"),
        File(f"{tmp_path}/secret", b"new", mode=0o600, secret=True),
        Absent(f"{tmp_path}/gone"),
    ]
    assert apply(change(entries)).returncode == 0
    kept = Path(f"{tmp_path}/previous{tmp_path}")
    assert (kept / "plain").read_text() == "old plain"
    assert (kept / "gone").read_text() == "old gone"
    assert not (kept / "secret").exists()
    assert mode(tmp_path / "previous") == 0o700
    assert not (tmp_path / "gone").exists()


@pytest.mark.parametrize("which", ["validate", "activate"])
def test_a_rejected_change_is_put_back_and_says_why(tmp_path: Path, which: str) -> None:
    (tmp_path / "old").write_text("good")
    os.chmod(tmp_path / "old", 0o640)
    entries = [
        File(f"{tmp_path}/old", b"bad"),
        File(f"{tmp_path}/added", b"bad"),
        Absent(f"{tmp_path}/link"),
    ]
    (tmp_path / "link").symlink_to("somewhere")
    rejects = f"grep -q good {tmp_path}/old || {{ echo 'line 1: bad'; false; }}"
    done = apply(change(entries, **{which: rejects}))
    assert done.returncode == 1
    assert "line 1: bad" in done.stderr
    assert (tmp_path / "old").read_text() == "good"
    assert mode(tmp_path / "old") == 0o640
    assert not (tmp_path / "added").exists()
    assert (tmp_path / "link").readlink() == Path("somewhere")
    assert not (tmp_path / "previous").exists()


def test_the_service_takes_the_old_version_up_again_after_a_failed_activation(
    tmp_path: Path,
) -> None:
    (tmp_path / "conf").write_text("good")
    activate = f"cp {tmp_path}/conf {tmp_path}/running; grep -q good {tmp_path}/conf"
    assert apply(change([File(f"{tmp_path}/conf", b"bad")], activate=activate)).returncode == 1
    assert (tmp_path / "running").read_text() == "good"


def test_the_stamp_is_written_only_after_activation(tmp_path: Path) -> None:
    files = [File(f"{tmp_path}/conf", b"x")]
    stamp = (f"{tmp_path}/stamp", "digest")
    assert apply(change(files, activate="false", stamp=stamp)).returncode == 1
    assert not (tmp_path / "stamp").exists()
    assert apply(change(files, activate="true", stamp=stamp)).returncode == 0
    assert (tmp_path / "stamp").read_text() == "digest"


def test_a_full_disk_changes_nothing(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", small], check=True)
    try:
        (small / "conf").write_text("old")
        done = apply(
            change([File(f"{tmp_path}/first", b"new"), File(f"{small}/conf", b"x" * 100_000)])
        )
        assert done.returncode != 0
        assert "is the disk full" in done.stderr
        assert (small / "conf").read_text() == "old"
        assert not (tmp_path / "first").exists()
        assert not list(tmp_path.rglob("*.vllm-hosts-new"))
    finally:
        subprocess.run(["umount", small], check=True)


def test_a_folder_in_the_way_is_an_error_not_a_loss(tmp_path: Path) -> None:
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "mine").write_text("mine")
    (tmp_path / "first").write_text("old")
    done = apply(change([File(f"{tmp_path}/first", b"new"), File(f"{tmp_path}/conf", b"x")]))
    assert (tmp_path / "first").read_text() == "old"
    assert done.returncode != 0
    assert "is a folder" in done.stderr
    assert (tmp_path / "conf" / "mine").read_text() == "mine"


def test_a_secret_is_never_readable_by_others_for_an_instant(tmp_path: Path) -> None:
    """Every path that the script creates is traced from its first system call on."""
    secret = File(f"{tmp_path}/.env", b"KEY=hunter2", mode=0o600, secret=True)
    command = change([secret])
    lines = command.connector_arguments["_stdin"]
    assert isinstance(lines, list)
    trace = tmp_path / "trace"
    subprocess.run(
        ["strace", "-f", "-e", "trace=openat,open,creat,chmod,fchmod,fchmodat", "-o", trace]
        + ["sh", "-c", command.get_raw_value()],
        input="\n".join(lines),
        text=True,
        check=True,
        timeout=60,
    )
    lines = [line for line in trace.read_text().splitlines() if ".env.vllm-hosts-new" in line]
    modes = [line.rpartition(" = ")[0].rpartition(", 0")[2] for line in lines if "O_CREAT" in line]
    modes += [line.rpartition(" = ")[0].rpartition(", 0")[2] for line in lines if "chmod" in line]
    assert modes, "the trace does not show the file being made"
    assert set(modes) <= {"600)", "200)", "000)"}, lines
    assert not any("hunter2" in word for word in command.get_raw_value().split())


def test_all_is_taken_back_where_the_connection_is_lost(tmp_path: Path) -> None:
    """Nobody reads any more what the script says."""
    (tmp_path / "a").write_text("old")
    log = tmp_path / "log"
    command = change([File(f"{tmp_path}/a", b"new")], activate=f"cat {tmp_path}/a >>{log}; false")
    lines = command.connector_arguments["_stdin"]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        ["sh", "-c", command.get_raw_value()],
        input="".join(f"{line}\n" for line in lines).encode(),
        stdout=writer,
        stderr=writer,
        check=False,
        timeout=20,
    )
    os.close(writer)
    assert done.returncode == 1
    assert (tmp_path / "a").read_text() == "old"
    # The service has the old version again.
    assert log.read_text() == "newold"
