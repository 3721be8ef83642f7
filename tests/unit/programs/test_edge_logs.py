"""The edge's logs stay bounded: the script that does it, run for real with logrotate."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.golden import check_golden
from tests.unit.real_nginx import program
from tests.unit.samples import settings
from vllm_hosts.host.files import File, Folder
from vllm_hosts.roles.edge_logs.plan import LOGS, log_entries, logrotate_conf, rotate_script
from vllm_hosts.settings.types import in_bytes

EDGE = settings().edge
SMALL = EDGE.model_copy(update={"log_max_size": "1k", "log_max_files": 3, "log_reserve": "1g"})


def test_golden() -> None:
    check_golden("edge_logs/logrotate.conf", logrotate_conf(EDGE))
    check_golden("edge_logs/rotate.sh", rotate_script(EDGE))


def test_sizes() -> None:
    assert [in_bytes(size) for size in ("3k", "64m", "1g")] == [3072, 67108864, 1073741824]


def test_nobody_else_reads_the_logs() -> None:
    [folder] = [
        entry for entry in log_entries(EDGE) if isinstance(entry, Folder) and entry.path in LOGS[0]
    ]
    assert (folder.mode, folder.owner, folder.group) == (0o751, "root", "adm")
    [script] = [
        entry for entry in log_entries(EDGE) if isinstance(entry, File) and entry.mode == 0o755
    ]
    assert script.owner == "root"


class Logs:
    """A folder with an edge's logs, the script, and programs in the place of the host's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "logs"
        self.programs = folder / "bin"
        self.log = self.folder / "access.log"
        for path in (self.folder, self.programs):
            path.mkdir()
            path.chmod(0o755)
        self.program("systemctl", "echo 0")
        self.program("logrotate", f'exec {program("logrotate")} "$@"')
        self.free(10 * 1024**2)
        conf = logrotate_conf(SMALL, folder=str(self.folder), nginx_log=str(folder / "nginx.log"))
        if os.geteuid() != 0:
            conf = conf.replace("create 0640 www-data adm", "create 0640")
        (folder / "conf").write_text(conf)
        (folder / "conf").chmod(0o644)
        script = rotate_script(
            SMALL, folder=str(self.folder), conf=f"{folder}/conf", state=f"{folder}/state"
        )
        (folder / "script").write_text(script)
        self.script = folder / "script"

    def program(self, name: str, body: str) -> None:
        (self.programs / name).write_text(f"#!/bin/sh\n{body}\n")
        (self.programs / name).chmod(0o755)

    def free(self, kilobytes: int, *, each: int = 0) -> None:
        """What df says, and how much more for each file that is gone."""
        count = f"$(ls {self.folder} | wc -l)"
        self.program(
            "df", f"echo head; echo dev 1 1 $(({kilobytes} + (9 - {count}) * {each})) 9% /"
        )

    def run(self) -> subprocess.CompletedProcess[str]:
        path = f"{self.programs}:{os.environ['PATH']}"
        return subprocess.run(
            ["sh", str(self.script)],
            env={"PATH": path},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def rotated(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir() if path != self.log)


@pytest.fixture
def logs(tmp_path: Path) -> Logs:
    return Logs(tmp_path)


def test_a_large_log_is_rotated_and_a_small_one_stays(logs: Logs) -> None:
    logs.log.write_text("x" * 500)
    assert logs.run().returncode == 0
    assert logs.rotated() == []
    for _ in range(6):
        logs.log.write_text("x" * 5000)
        done = logs.run()
        assert done.returncode == 0, done.stderr
        assert logs.log.read_text() == ""
    assert logs.rotated() == ["access.log.1.gz", "access.log.2.gz", "access.log.3.gz"]


def test_the_oldest_go_where_there_is_little_room(logs: Logs) -> None:
    logs.log.write_text("x" * 2_000_000)
    for age, name in enumerate(("access.log.1.gz", "access.log.2.gz", "access.log.3.gz")):
        (logs.folder / name).write_text(name)
        os.utime(logs.folder / name, (1_700_000_000 - age, 1_700_000_000 - age))
    # Four files, then five after the rotation, each of which is worth 100 MB.
    logs.free(1024**2 - 5 * 100_000 - 200_000, each=100_000)
    done = logs.run()
    assert done.returncode == 0, done.stderr
    assert logs.rotated() == ["access.log.1.gz"], done.stdout


def test_at_last_what_is_being_written_goes(logs: Logs) -> None:
    logs.program("logrotate", "echo disk is full >&2; exit 1")
    logs.log.write_text("x" * 2_000_000)
    (logs.folder / "error.log").write_text("small")
    (logs.folder / "access.log.1.gz").write_text("old")
    logs.free(1000)
    done = logs.run()
    assert done.returncode == 1, "logrotate failed, and systemd is not told"
    assert logs.log.stat().st_size == 0
    assert (logs.folder / "error.log").read_text() == "small"
    assert logs.rotated() == ["error.log"]
