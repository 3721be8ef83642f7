"""The script that writes files, run for real by this machine's shell on a folder of its own."""

from __future__ import annotations

import base64
import io
import os
import stat
import subprocess
import tarfile
import time
from pathlib import Path

import pytest
from pyinfra.api.command import StringCommand

from tests.unit.projects import ROOT
from vllm_hosts.host.files import Absent, CopiedFile, Entry, File, Folder, Kept
from vllm_hosts.host.paths import PREVIOUS
from vllm_hosts.operations import tree as operation
from vllm_hosts.operations.tree import archive, change

#: The script's last words where something was changed.
BACK = "what was there before is back in place"


@pytest.fixture(autouse=True)
def state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(operation, "PREVIOUS", f"{tmp_path}/previous")
    monkeypatch.setattr(operation, "DEPLOYED", f"{tmp_path}/state/deployed")
    monkeypatch.setattr(operation, "COPIES", f"{tmp_path}/state/files")
    monkeypatch.setattr(operation, "STAMPS", f"{tmp_path}/state/stamps")


def given(command: StringCommand) -> str:
    """What the script reads."""
    lines = command.connector_arguments.get("_stdin", [])
    assert isinstance(lines, list)
    return "".join(f"{line}\n" for line in lines)


def apply(command: StringCommand, programs: Path | None = None) -> subprocess.CompletedProcess[str]:
    """:param programs: a folder with programs in the place of the host's."""
    path = os.environ["PATH"]
    return subprocess.run(
        ["sh", "-c", command.get_raw_value()],
        input=given(command),
        env={**os.environ, "PATH": f"{programs}:{path}" if programs else path},
        text=True,
        capture_output=True,
        check=False,
        timeout=20,
    )


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_writes_content_mode_and_owner(tmp_path: Path) -> None:
    content = bytes(range(256)) * 400
    files: list[Entry] = [
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
    assert apply(change([Kept(f"{tmp_path}/key", 0o640, "64101", "64102")])).returncode == 0
    found = (tmp_path / "key").stat()
    assert (found.st_uid, found.st_gid, mode(tmp_path / "key")) == (64101, 64102, 0o640)


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
    entries: list[Entry] = [
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
    entries: list[Entry] = [
        File(f"{tmp_path}/old", b"bad"),
        File(f"{tmp_path}/added", b"bad"),
        Absent(f"{tmp_path}/link"),
    ]
    (tmp_path / "link").symlink_to("somewhere")
    rejects = f"grep -q good {tmp_path}/old || {{ echo 'line 1: bad'; false; }}"
    done = apply(change(entries, **{which: rejects}))  # type: ignore[arg-type]
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
    stamp = (f"{tmp_path}/state/stamps/service", "digest")
    assert apply(change(files, activate="false", stamp=stamp)).returncode == 1
    assert not Path(stamp[0]).exists()
    assert apply(change(files, activate="true", stamp=stamp)).returncode == 0
    assert Path(stamp[0]).read_text() == "digest"


def test_a_folder_in_the_way_is_an_error_not_a_loss(tmp_path: Path) -> None:
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "mine").write_text("mine")
    (tmp_path / "first").write_text("old")
    done = apply(change([File(f"{tmp_path}/first", b"new"), File(f"{tmp_path}/conf", b"x")]))
    assert (tmp_path / "first").read_text() == "old"
    assert done.returncode != 0
    assert done.stderr.splitlines() == [f"{tmp_path}/conf is a folder; move it away", BACK]
    assert (tmp_path / "conf" / "mine").read_text() == "mine"


def test_a_link_in_the_place_of_a_folder_is_an_error_and_leads_nowhere(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir(mode=0o755)
    (tmp_path / "link").symlink_to(tmp_path / "target")
    done = apply(change([Folder(f"{tmp_path}/link", 0o700), File(f"{tmp_path}/first", b"new")]))
    words = f"{tmp_path}/link is a link; move it away, or name where it leads"
    # Nothing was changed yet, so nothing is put back.
    assert (done.returncode, done.stderr.splitlines()) == (1, [words])
    assert mode(tmp_path / "target") == 0o755
    assert not (tmp_path / "first").exists()


@pytest.mark.parametrize("nobody", ["owner", "group"])
@pytest.mark.parametrize("kind", [Kept, Folder])
def test_a_step_that_fails_ends_the_change(
    tmp_path: Path, kind: type[Kept | Folder], nobody: str
) -> None:
    (tmp_path / "key").write_text("private")
    name = "key" if kind is Kept else "folder"
    unknown = kind(f"{tmp_path}/{name}", **{nobody: "vllm-hosts-nobody"})  # type: ignore[arg-type]
    done = apply(change([File(f"{tmp_path}/first", b"new"), unknown], activate="true"))
    assert done.returncode != 0
    assert "vllm-hosts-nobody" in done.stderr
    assert not (tmp_path / "first").exists()
    assert not list(tmp_path.rglob("*.vllm-hosts-new"))


def test_files_in_the_root_folder_have_a_folder_too() -> None:
    script = change([File("/conf", b"")]).get_raw_value().splitlines()
    assert "(umask 022; mkdir -p /)" in script
    assert "sync /" in script


def test_without_new_content_nothing_is_sent() -> None:
    """Nobody would read it, and a host that is done hangs up."""
    for entry in (Folder("/x"), Absent("/x")):
        assert "_stdin" not in change([entry]).connector_arguments
    assert change([File("/x", b"")]).connector_arguments["_stdin"]


def test_new_content_comes_in_lines_that_any_shell_reads_and_with_its_time(tmp_path: Path) -> None:
    files = [
        File(f"{tmp_path}/a", os.urandom(9000), owner="64101", group="64102"),
        File(f"{tmp_path}/b", b"", owner="vllm", group="docker"),
    ]
    before = int(time.time())
    lines = archive(files)
    assert max(map(len, lines)) <= 4096
    with tarfile.open(fileobj=io.BytesIO(base64.b64decode("".join(lines)))) as tar:
        found = tar.getmembers()
    # Names come before numbers to tar, and a number here may be another user's name there.
    assert [(one.uid, one.uname, one.gid, one.gname) for one in found] == [
        (64101, "", 64102, ""),
        (0, "vllm", 0, "docker"),
    ]
    assert all(before <= one.mtime <= time.time() for one in found)


def test_previous_versions_lie_where_the_document_says() -> None:
    documented = (ROOT / "docs/design.md").read_text().partition("\n## On a host\n")[2]
    assert f"\n    {Path(PREVIOUS).parent}/ " in documented


def test_a_secret_is_never_readable_by_others_for_an_instant(tmp_path: Path) -> None:
    """Every path that the script creates is traced from its first system call on."""
    secret = File(f"{tmp_path}/.env", b"KEY=hunter2", mode=0o600, secret=True)
    command = change([secret])
    lines = command.connector_arguments["_stdin"]
    assert isinstance(lines, list)
    trace = tmp_path / "trace"
    subprocess.run(
        ["strace", "-f", "-e", "trace=openat,open,creat,chmod,fchmod,fchmodat", "-o", str(trace)]
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


class TestCopies:
    """Files that get what another one on the host holds."""

    def test_they_move_on_together(self, tmp_path: Path) -> None:
        for name in ("now", "before"):
            (tmp_path / name).mkdir()
        (tmp_path / "now/one").write_text("1")
        (tmp_path / "before/one").write_text("0")
        (tmp_path / "bin").mkdir()
        sync = tmp_path / "bin/sync"
        sync.write_text(f'#!/bin/sh\necho "$*" >>{tmp_path}/synced\n')
        sync.chmod(0o755)
        done = apply(
            change(
                [File(f"{tmp_path}/now/one", b"2")],
                copies=[CopiedFile(f"{tmp_path}/before/one", f"{tmp_path}/now/one", 0o600)],
            ),
            tmp_path / "bin",
        )
        assert (done.returncode, done.stderr) == (0, "")
        # It is on disk, and people can look at what was there before.
        assert f"{tmp_path}/before/one.vllm-hosts-new" in (tmp_path / "synced").read_text().split()
        assert Path(f"{tmp_path}/previous{tmp_path}/before/one").read_text() == "0"
        assert (tmp_path / "before/one").read_text() == "1"
        assert (tmp_path / "before/one").stat().st_mode & 0o777 == 0o600
        assert (tmp_path / "now/one").read_text() == "2"
        assert not list(tmp_path.rglob("*.vllm-hosts-new"))

    def test_one_without_a_source_changes_nothing(self, tmp_path: Path) -> None:
        (tmp_path / "one").write_text("1")
        done = apply(
            change(
                [File(f"{tmp_path}/one", b"2")],
                copies=[CopiedFile(f"{tmp_path}/other", f"{tmp_path}/none")],
            )
        )
        assert done.returncode != 0
        assert (tmp_path / "one").read_text() == "1"
        assert not (tmp_path / "other").exists()
        assert not list(tmp_path.rglob("*.vllm-hosts-new"))

    def test_what_the_program_rejects_is_put_back(self, tmp_path: Path) -> None:
        (tmp_path / "one").write_text("good")
        (tmp_path / "kept").write_text("bad")
        done = apply(
            change(
                [],
                copies=[CopiedFile(f"{tmp_path}/one", f"{tmp_path}/kept")],
                validate=f"grep -q good {tmp_path}/one",
            )
        )
        assert done.returncode != 0
        assert (tmp_path / "one").read_text() == "good"
