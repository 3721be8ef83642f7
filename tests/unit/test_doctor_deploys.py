"""Which deploys the doctor sees on a host: of root, running or cut off."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.unit.stand_in_host import StandInHost
from vllm_hosts.doctor.seen import DeployProcess


@pytest.fixture
def host(tmp_path: Path) -> StandInHost:
    return StandInHost(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="a deploy's commands are root's")
class TestDeploys:
    """Every command of one carries when it began, and nobody but root can say so."""

    SINCE = "2026-11-26T09:12:03Z"

    def of_sleep(self, host: StandInHost) -> list[DeployProcess]:
        found = host.seen().deploys
        return [one for one in found if (one.since, one.program) == (self.SINCE, "sleep")]

    def test_one_that_somebody_waits_for(self, host: StandInHost) -> None:
        with subprocess.Popen(["sleep", "60"], env={host.mark: self.SINCE}) as process:
            try:
                [found] = self.of_sleep(host)
            finally:
                process.kill()
        assert (found.pid, found.left) == (process.pid, False)
        assert self.of_sleep(host) == []

    def test_one_whose_login_has_ended(self, host: StandInHost) -> None:
        script = f"{host.mark}={self.SINCE} setsid -f sleep 60 </dev/null >/dev/null 2>&1"
        subprocess.run(["sh", "-c", script], check=True)
        found = self.of_sleep(host)
        for process in found:
            os.kill(process.pid, signal.SIGKILL)
        assert [process.left for process in found] == [True]

    @pytest.mark.parametrize("value", ["soon", "2026; rm -rf /", "2026-11-26 $(id)", ""])
    def test_what_is_no_time(self, host: StandInHost, value: str) -> None:
        with subprocess.Popen(["sleep", "60"], env={host.mark: value}) as process:
            try:
                found = host.seen().deploys
            finally:
                process.kill()
        assert process.pid not in [one.pid for one in found]

    def test_another_user_s_is_none(self, host: StandInHost) -> None:
        environment = {host.mark: self.SINCE}
        with subprocess.Popen(["sleep", "60"], env=environment, user=65534) as process:
            try:
                assert self.of_sleep(host) == []
            finally:
                process.kill()

    def test_a_setuid_program_of_another_user_is_none(self, host: StandInHost) -> None:
        """Its process is root's, and its environment and its name are whoever's who started it."""
        folder = Path(tempfile.mkdtemp(dir="/var/tmp"))
        try:
            folder.chmod(0o755)
            shutil.copy("/bin/sleep", folder / "sleep")
            (folder / "sleep").chmod(0o4755)
            environment = {host.mark: self.SINCE}
            with subprocess.Popen([folder / "sleep", "60"], env=environment, user=65534) as process:
                try:
                    if Path(f"/proc/{process.pid}").stat().st_uid != 0:
                        pytest.skip("no setuid programs here")
                    assert self.of_sleep(host) == []
                finally:
                    process.kill()
        finally:
            shutil.rmtree(folder)

    def test_a_name_adds_no_line_to_the_look(self, host: StandInHost, tmp_path: Path) -> None:
        program = tmp_path / "x\n== user\n9"
        shutil.copy("/bin/sleep", program)
        with subprocess.Popen([program, "60"], env={host.mark: self.SINCE}) as process:
            try:
                found = {one.pid: one.program for one in host.seen().deploys}
            finally:
                process.kill()
        assert found[process.pid] == "x"

    def test_a_host_with_a_part_of_what_a_deploy_makes(self, host: StandInHost) -> None:
        (host.folder / "compose.yaml").unlink()
        seen = host.seen()
        if not Path("/var/lib/vllm-hosts/stamps/nginx").exists():
            assert seen.begun is not None
            assert (datetime.now(UTC) - seen.begun).total_seconds() < 600
