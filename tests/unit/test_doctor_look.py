"""The doctor's look, run for real by this machine's shell, on a host made of stand-in programs."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from secrets import token_hex
from typing import Any

import pytest

from tests.unit.fakes import inspect_line
from tests.unit.samples import settings
from vllm_hosts.doctor import run  # noqa: F401  registers all diagnoses
from vllm_hosts.doctor.diagnoses import diagnose
from vllm_hosts.doctor.look import DoctorLook, _ahead
from vllm_hosts.doctor.seen import EMPTY, DeployProcess, Seen
from vllm_hosts.errors import HostError

KEY = "internal-Key_0123456789/abc"
OTHER = "another-Key_9876543210"
TOKEN = "hf_0123456789abcdef"
CLIENT = "client-Key_4711"


class StandInHost:
    """Programs that answer as on a host, and its files, below one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # Other tests deploy on this machine meanwhile; their commands are none of this host's.
        self.mark = f"VLLM_HOSTS_DEPLOY_{token_hex(4)}"
        self.programs = folder / "programs"
        self.programs.mkdir()
        self.edge = folder / "edge"
        self.edge.mkdir()
        self.state: dict[str, Any] = {"started": "2026-10-02T11:20:41.123456789Z"}
        self.container_key = KEY
        self.exists = True
        self.log = "vLLM says nothing"
        self.write("compose.yaml", "services: {}\n")
        self.write(".env", f"# ours\nVLLM_API_KEY_QWEN={KEY}\nHF_TOKEN={TOKEN}\n")
        self.write("edge/internal.map", f'vllm_hosts_qwen "{KEY}";\n')
        self.write("edge/clients.map", f'"Bearer {CLIENT}" "default Bearer {CLIENT}";\n')
        self.program("id", "echo 0")
        self.program("systemctl", "case $1 in is-active) echo active;; esac")
        self.program("nginx", "exit 0")
        self.program("nft", "exit 0")
        self.program(
            "ss", "echo 'tcp LISTEN 0 511 0.0.0.0:443 0.0.0.0:* users:((\"nginx\",pid=1,fd=2))'"
        )
        self.program("journalctl", "echo 'Oct 02 gpu1 kernel: NVRM: loading NVIDIA UNIX Open'")
        self.program("nvidia-container-runtime-hook", "exit 0")
        self.program(
            "nvidia-smi",
            """case $* in
            *clocks_event_reasons*) echo 'Field "x" is not a valid field to query.'; exit 2 ;;
            *clocks_throttle_reasons*) echo '0, 34, 0, Not Active, Not Active, Not Active' ;;
            *) echo '0, NVIDIA H200, 143771' ;;
            esac""",
        )

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)

    def program(self, name: str, script: str) -> None:
        path = self.programs / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def output(self) -> str:
        """What leaves the host."""
        self.write("inspected", inspect_line("qwen", **self.state) + "\n")
        self.write("environment", f"PATH=/bin\nVLLM_API_KEY={self.container_key}\nX=1\n")
        self.write("log", self.log)
        self.program(
            "docker",
            f"""echo "$*" >>{self.folder}/asked
            case $* in
            version*) echo 29.1 ;;
            image*) echo present ;;
            *Config.Env*) cat {self.folder}/environment ;;
            *RestartCount*) {"" if self.exists else "exit 1; "}cat {self.folder}/inspected ;;
            *State.StartedAt*) echo 2026-10-02T11:20:41Z ;;
            logs*) cat {self.folder}/log ;;
            exec*) echo 'GPU 0: NVIDIA H200 (UUID: GPU-1)' ;;
            esac""",
        )
        script = DoctorLook().command(
            str(self.folder), str(self.folder), "vllm/x:v1", ["qwen"], ["qwen"], ["/no/such"]
        )
        script = script.replace("edge_folder=/etc/nginx/vllm-hosts", f"edge_folder={self.edge}")
        assert "mark=VLLM_HOSTS_DEPLOY\n" in script
        script = script.replace("mark=VLLM_HOSTS_DEPLOY\n", f"mark={self.mark}\n")
        script = script.replace("/var/log/vllm-hosts/access.log", f"{self.folder}/access.log")
        done = subprocess.run(
            ["sh", "-c", script],
            env={"PATH": f"{self.programs}:{os.environ['PATH']}"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        return done.stdout

    def seen(self) -> Seen:
        return DoctorLook().process(self.output().splitlines())


@pytest.fixture
def host(tmp_path: Path) -> StandInHost:
    return StandInHost(tmp_path)


def names(host: StandInHost) -> set[str]:
    """What is found wrong, but for what a stand-in host lacks."""
    found = {one.identifier for one in diagnose(settings(), host.seen())}
    # Other tests deploy to this machine.
    return found - {"certificate-missing", "clock-off", "deploy-running", "deploy-cut-off"}


def test_a_host_is_seen(host: StandInHost) -> None:
    seen = host.seen()
    assert names(host) == set()
    assert list(seen.blind()) == []
    assert seen.agents[0].container.started == datetime(2026, 10, 2, 11, 20, 41, tzinfo=UTC)
    assert seen.agents[0].gpus == ("GPU 0: NVIDIA H200 (UUID: GPU-1)",)
    assert seen.gpus is not None
    assert seen.gpus.memory == {0: 143771 / 1024}
    assert seen.absent_models == {"/no/such"}
    assert abs(seen.clock - datetime.now(UTC).timestamp()) < 60
    assert any(disk.mount == "/" and disk.size > 0 for disk in seen.disks)


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


class TestKeys:
    """They are compared, and never leave the host."""

    def test_no_secret_is_in_what_leaves_the_host(self, host: StandInHost) -> None:
        host.container_key = OTHER
        host.state |= {"health": "unhealthy", "error": f"key {OTHER}"}
        host.log = f"{KEY} and {KEY}{KEY}\n{OTHER} {TOKEN} {CLIENT}\nsaid\n"
        output = host.output()
        assert "| *MASKED* and *MASKED**MASKED*" in output
        assert "| said" in output
        for secret in (KEY, OTHER, TOKEN, CLIENT):
            assert secret not in output

    def test_no_secret_is_in_the_arguments_of_a_program(self, host: StandInHost) -> None:
        for name in ("sha256sum", "cut", "sed", "awk", "head", "tr"):
            real = f"/usr/bin/{name}"
            host.program(name, f'echo "$*" >>{host.folder}/asked; exec {real} "$@"')
        host.output()
        asked = (host.folder / "asked").read_text()
        assert "Config.Env" in asked
        for secret in (KEY, TOKEN, CLIENT):
            assert secret not in asked

    def test_a_digest_says_nothing_to_who_knows_the_key(self, host: StandInHost) -> None:
        assert host.seen().agents[0].env_key != host.seen().agents[0].env_key

    def test_equal_keys_have_equal_digests(self, host: StandInHost) -> None:
        seen = host.seen()
        assert re.fullmatch("[0-9a-f]{16}", seen.agents[0].env_key)
        assert seen.agents[0].env_key == seen.agents[0].key == seen.agents[0].edge_key

    def test_an_empty_key_of_the_container(self, host: StandInHost) -> None:
        host.container_key = ""
        assert host.seen().agents[0].key == EMPTY
        assert names(host) == {"key-not-loaded"}

    def test_another_key_in_the_container(self, host: StandInHost) -> None:
        host.container_key = OTHER
        assert names(host) == {"key-differs-container", "key-differs-edge"}

    def test_another_key_at_the_edge(self, host: StandInHost) -> None:
        host.write("edge/internal.map", f'vllm_hosts_qwen "{OTHER}";\n')
        assert names(host) == {"key-differs-edge"}

    def test_quotes_around_a_key_in_env_are_not_part_of_it(self, host: StandInHost) -> None:
        host.write(".env", f'VLLM_API_KEY_QWEN="{KEY}"\n')
        assert names(host) == set()

    def test_no_env_file(self, host: StandInHost) -> None:
        (host.folder / ".env").unlink()
        assert names(host) == {"key-missing"}


class TestAgents:
    """Their containers, and the part of their log that counts."""

    def test_a_log_is_read_only_where_it_is_needed(self, host: StandInHost) -> None:
        host.output()
        assert "logs" not in (host.folder / "asked").read_text()

    def test_earlier_runs_count_where_docker_restarted_it(self, host: StandInHost) -> None:
        host.state |= {"state": "restarting", "health": "unhealthy", "restarts": 3}
        host.log = "ValueError: No available memory for the cache blocks.\n"
        assert names(host) == {"weights-too-large", "agent-crash-loop"}
        assert "logs --tail 400 qwen" in (host.folder / "asked").read_text()

    def test_earlier_runs_do_not_count_after_a_start_by_hand(self, host: StandInHost) -> None:
        host.state["health"] = "starting"
        host.output()
        assert "--since 2026-10-02T11:20:41Z qwen" in (host.folder / "asked").read_text()

    def test_a_log_cannot_pretend_to_be_another_section(self, host: StandInHost) -> None:
        host.state["health"] = "unhealthy"
        host.log = "== whole\n== firewall\nabsent\nvllm-hosts-end\n\xff\xfe Gr\xfc\xdfe\n"
        seen = host.seen()
        assert seen.firewall is True
        assert seen.agents[0].log[0] == "== whole"

    def test_no_container(self, host: StandInHost) -> None:
        host.exists = False
        assert names(host) == {"agent-missing"}


class TestRequests:
    """The edge's log is counted there."""

    def entry(self, status: int, upstream: str, **values: Any) -> str:
        when = datetime.now().astimezone() - timedelta(minutes=values.pop("minutes", 1))
        fields = {
            "time": when.isoformat(timespec="seconds"),
            "client": "",
            "agent": "qwen",
            "method": "POST",
            "path": '/qwen/v1/","status":200,"agent":"x',
            "status": status,
            "bytes": 1,
            "seconds": 0.001,
            "upstream_seconds": upstream,
            "address": "198.51.100.7",
        }
        return json.dumps(fields | values, separators=(",", ":")) + "\n"

    def test_who_answered_is_told_apart(self, host: StandInHost) -> None:
        lines = [self.entry(401, "")] * 3 + [self.entry(401, "0.004", address="2001:db8::1")]
        host.write("access.log", "".join(lines))
        found = {(one.answered_by, one.address): one for one in host.seen().requests}
        assert found["edge", "198.51.100.7"].count == 3
        assert found["vllm", "2001:db8::1"].count == 1
        assert {one.status for one in found.values()} == {401}
        assert {one.agent for one in found.values()} == {"qwen"}

    def test_what_is_long_ago_does_not_count(self, host: StandInHost) -> None:
        host.write("access.log", self.entry(401, "", minutes=20) * 5)
        assert host.seen().requests == ()

    def test_what_was_before_the_edge_s_last_reload_does_not_count(self, host: StandInHost) -> None:
        host.write("access.log", self.entry(401, "") * 5)
        master = subprocess.Popen(["sh", "-c", "sleep 60 & wait"])
        try:
            children = Path(f"/proc/{master.pid}/task/{master.pid}/children")
            while not children.read_text():
                pass
            host.program(
                "systemctl", f"case $* in *MainPID*) echo {master.pid};; *) echo active;; esac"
            )
            assert host.seen().requests == ()
        finally:
            for worker in children.read_text().split():
                os.kill(int(worker), signal.SIGTERM)
            master.wait()


class TestWhatCannotBeSeen:
    """It is never taken for good news."""

    def test_who_is_not_root_is_told(self, host: StandInHost) -> None:
        host.program("id", "echo 1000")
        with pytest.raises(HostError, match="do not run as root"):
            host.seen()

    def test_half_an_answer_is_none(self, host: StandInHost) -> None:
        lines = host.output().splitlines()
        with pytest.raises(HostError, match="cut short"):
            DoctorLook().process(lines[: len(lines) // 2])
        without = [line for line in lines if line != "== whole"]
        with pytest.raises(HostError, match="could not be understood"):
            DoctorLook().process(without)

    def test_a_kernel_log_that_nobody_shows(self, host: StandInHost) -> None:
        for name in ("journalctl", "dmesg", "systemd-detect-virt"):
            host.program(name, "exit 1")
        assert host.seen().kernel is None

    def test_a_container_has_no_kernel_log_of_its_own(self, host: StandInHost) -> None:
        for name in ("journalctl", "dmesg"):
            host.program(name, "exit 1")
        host.program("systemd-detect-virt", "exit 0")
        assert host.seen().kernel == ()

    def test_nft_that_does_not_work(self, host: StandInHost) -> None:
        host.program("nft", "exit 1")
        assert host.seen().firewall is None


def test_a_clock_is_right_if_it_was_read_meanwhile() -> None:
    assert _ahead(105.0, 100.0, 110.0) == 0
    assert _ahead(90.0, 100.0, 110.0) == -10
    assert _ahead(130.0, 100.0, 110.0) == 20
