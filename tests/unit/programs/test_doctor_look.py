"""The doctor's look, run for real by this machine's shell, on a host made of stand-in programs."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.unit.samples import settings
from tests.unit.stand_in_host import CLIENT, KEY, OTHER, TOKEN, StandInHost
from vllm_hosts.doctor import examine  # noqa: F401  registers all diagnoses
from vllm_hosts.doctor.diagnoses import diagnose
from vllm_hosts.doctor.query import DoctorLook, _ahead
from vllm_hosts.doctor.seen import EMPTY, Seen
from vllm_hosts.errors import HostError


@pytest.fixture
def host(tmp_path: Path) -> StandInHost:
    return StandInHost(tmp_path)


def names(host: StandInHost) -> set[str]:
    """What is found wrong, but for what a stand-in host lacks."""
    return names_of(host.seen())


def names_of(seen: Seen) -> set[str]:
    found = {one.identifier for one in diagnose(settings(), seen)}
    # Other tests deploy to this machine.
    return found - {"certificate-missing", "clock-off", "deploy-running", "deploy-cut-off"}


def test_a_host_is_seen(host: StandInHost) -> None:
    seen = host.seen()
    assert names_of(seen) == set()
    assert list(seen.blind()) == []
    assert seen.agents[0].container.started == datetime(2026, 10, 2, 11, 20, 41, tzinfo=UTC)
    assert seen.agents[0].gpus == ("GPU 0: NVIDIA H200 (UUID: GPU-1)",)
    assert seen.gpus is not None
    assert seen.gpus.memory == {0: 143771 / 1024}
    assert seen.absent_models == {"/no/such"}
    assert abs(seen.clock - datetime.now(UTC).timestamp()) < 60
    assert any(disk.mount == "/" and disk.size > 0 for disk in seen.disks)


def test_a_removal_that_has_not_come_to_its_end(host: StandInHost) -> None:
    lines = [
        f'2026-11-26T09:15:00Z 192.0.2.7 {{"who": "ada@laptop", "what": "{what} of prod.py",'
        ' "since": "2026-11-26T09:12:03Z", "commit": "", "version": "0", "ended": "cut off",'
        ' "changed": []}\n'
        for what in ("remove.py", "deploy.py")
    ]
    host.write("history", lines[1] + lines[0])
    removal = host.seen().removal
    assert removal is not None
    assert (removal.who, removal.since) == ("ada@laptop", "2026-11-26T09:12:03Z")
    assert names(host) == {"removal-cut-off"}
    for others in (lines[0] + lines[1], "", "odd\n"):
        host.write("history", others)
        assert host.seen().removal is None


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
        seen = host.seen()
        assert seen.agents[0].key == EMPTY
        assert names_of(seen) == {"key-not-loaded"}

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

    @pytest.mark.parametrize("exists", [True, False])
    def test_what_the_watchdog_notes(self, host: StandInHost, exists: bool) -> None:
        (host.folder / "watchdog").mkdir()
        now = int(datetime.now(UTC).timestamp())
        lines = ["total 2", "gave-up ", f"restart {now - 99_999} failed", f"restart {now} stalled"]
        host.write(
            "watchdog/qwen", "".join(f"{line}\n" for line in [*lines, "== whole", "x" * 9000])
        )
        host.exists = exists
        seen = host.seen()
        [agent] = seen.agents
        assert agent.watched.total == 2
        assert [one.at.timestamp() for one in agent.watched.restarts] == [now - 99_999, now]
        assert "agent-was-restarted" in names_of(seen)

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

    def test_what_another_host_s_agent_answered_is_not_this_one_s(self, host: StandInHost) -> None:
        host.write("balancer", "")
        own = self.entry(401, "0.004", gateway="one", address="127.0.0.1")
        host.write("access.log", self.entry(401, "0.004") + self.entry(401, "") + own)
        found = {(one.answered_by, one.address) for one in host.seen().requests}
        assert found == {
            ("fleet", "198.51.100.7"),
            ("edge", "198.51.100.7"),
            ("vllm", "127.0.0.1"),
        }

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
