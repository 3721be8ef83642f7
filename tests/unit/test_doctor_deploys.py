"""Which deploys the doctor sees on a host: of root, running or cut off."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.unit.stand_in_host import StandInHost
from vllm_hosts.doctor.seen import DeployProcess

SINCE = "2026-11-26T09:12:03Z"
NO_TIMES = ["soon", "2026; rm -rf /", "2026-11-26 $(id)", ""]

rooted = pytest.mark.skipif(os.geteuid() != 0, reason="a deploy's commands are root's")


@pytest.fixture
def host(tmp_path: Path) -> StandInHost:
    return StandInHost(tmp_path)


class Processes:
    """All at once, since a look at them takes longest: each by a name, and what is seen of it."""

    def __init__(self, folder: Path) -> None:
        (folder / "host").mkdir()
        self.host, self._folder = StandInHost(folder / "host"), folder
        self.pids: dict[str, int] = {}
        self.seen: dict[int, DeployProcess] = {}
        self._begun: list[subprocess.Popen[bytes]] = []

    def begin(
        self, name: str, *words: str | Path, since: str = SINCE, user: int | None = None
    ) -> None:
        process = subprocess.Popen(words, env={self.host.mark: since}, user=user)
        self.pids[name] = process.pid
        self._begun.append(process)

    def detached(self, name: str, *words: str | Path) -> None:
        """Of a shell script, which writes down a process."""
        file = self._folder / f"{name}.pid"
        environment = {self.host.mark: SINCE, "FILE": str(file), "PATH": os.environ["PATH"]}
        null = subprocess.DEVNULL
        subprocess.run(
            ["setsid", "-f", *words], env=environment, check=True, stdin=null, stdout=null
        )
        until = time.monotonic() + 20
        while not (file.exists() and file.read_text().endswith("\n")):
            assert time.monotonic() < until
            time.sleep(0.02)
        self.pids[name] = pid = int(file.read_text())
        while Path(f"/proc/{pid}/comm").read_text() != "sleep\n":
            assert time.monotonic() < until
            time.sleep(0.02)

    def look(self) -> dict[int, DeployProcess]:
        return {one.pid: one for one in self.host.seen().deploys}

    def end(self) -> None:
        for pid in self.pids.values():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for process in self._begun:
            process.wait()

    def __getitem__(self, name: str) -> DeployProcess | None:
        return self.seen.get(self.pids[name])


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    folder = tmp_path_factory.mktemp("processes")
    setuid = Path(tempfile.mkdtemp(dir="/var/tmp"))
    setuid.chmod(0o755)
    shutil.copy("/bin/sleep", setuid / "sleep")
    (setuid / "sleep").chmod(0o4755)
    shutil.copy("/bin/sleep", folder / "x\n== user\n9")
    shutil.copy("/bin/sh", folder / "vllm-hosts")
    found = Processes(folder)
    try:
        found.begin("waited for", "sleep", "60")
        found.detached("left", "sh", "-c", 'echo $$ >"$FILE"; exec sleep 60')
        script = 'sleep 60 & echo $! >"$FILE"; wait'
        found.detached("ours", folder / "vllm-hosts", "-c", script)
        for value in NO_TIMES:
            found.begin(f"since {value}", "sleep", "60", since=value)
        found.begin("another user's", "sleep", "60", user=65534)
        found.begin("setuid", setuid / "sleep", "60", user=65534)
        found.begin("line", folder / "x\n== user\n9", "60")
        found.seen = found.look()
        yield found
    finally:
        found.end()
        shutil.rmtree(setuid)


@rooted
class TestDeploys:
    """Every command of one carries when it began, and nobody but root can say so."""

    def test_one_that_somebody_waits_for(self, processes: Processes) -> None:
        pid = processes.pids["waited for"]
        assert processes["waited for"] == DeployProcess(SINCE, pid, "sleep", left=False)

    def test_one_whose_login_has_ended(self, processes: Processes) -> None:
        pid = processes.pids["left"]
        assert processes["left"] == DeployProcess(SINCE, pid, "sleep", left=True)

    def test_one_of_a_command_of_ours_on_its_own_machine(self, processes: Processes) -> None:
        """In tmux or at a console: no sshd stands above it, and it is called as it is typed."""
        pid = processes.pids["ours"]
        assert processes["ours"] == DeployProcess(SINCE, pid, "sleep", left=False)

    @pytest.mark.parametrize("value", NO_TIMES)
    def test_what_is_no_time(self, processes: Processes, value: str) -> None:
        assert processes[f"since {value}"] is None

    def test_another_user_s_is_none(self, processes: Processes) -> None:
        assert processes["another user's"] is None

    def test_a_setuid_program_of_another_user_is_none(self, processes: Processes) -> None:
        """Its process is root's, and its environment and its name are whoever's who started it."""
        if Path(f"/proc/{processes.pids['setuid']}").stat().st_uid != 0:
            pytest.skip("no setuid programs here")
        assert processes["setuid"] is None

    def test_a_name_adds_no_line_to_the_look(self, processes: Processes) -> None:
        found = processes["line"]
        assert found is not None and found.program == "x"

    def test_one_that_has_ended(self, processes: Processes) -> None:
        """The last one: it ends them all."""
        processes.end()
        assert not {*processes.pids.values()} & {*processes.look()}

    def test_a_host_with_a_part_of_what_a_deploy_makes(self, host: StandInHost) -> None:
        (host.folder / "compose.yaml").unlink()
        seen = host.seen()
        if not Path("/var/lib/vllm-hosts/stamps/nginx").exists():
            assert seen.begun is not None
            assert (datetime.now(UTC) - seen.begun).total_seconds() < 600
