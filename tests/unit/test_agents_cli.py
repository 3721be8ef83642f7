"""`vllm-hosts agents` as people and scripts use it, on this machine as a host."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.unit.fakes import LocalHost
from tests.unit.projects import AGENT

AGENTS = ("vllm-hosts", "agents", "inventory/prod.py")


@pytest.fixture
def host(tmp_path: Path) -> LocalHost:
    return LocalHost.make(tmp_path)


def run(host: LocalHost, *words: str) -> subprocess.CompletedProcess[str]:
    done = host.project.run(*AGENTS, *words)
    assert "Traceback" not in done.stdout, done.stdout
    return done


def composed(host: LocalHost) -> list[str]:
    """What Compose was asked to do, without what is the same each time."""
    return [line.partition("--progress plain ")[2] for line in host.asked()]


def test_status_is_0_only_if_all_is_well(host: LocalHost) -> None:
    done = run(host, "status")
    assert done.returncode == 0
    assert [line.split()[:4] for line in done.stdout.splitlines()] == [
        ["HOST", "AGENT", "STATE", "HEALTH"],
        ["@local", "one", "running", "healthy"],
        ["@local", "two", "running", "healthy"],
    ]
    host.agent("two", "exited", None)
    done = run(host, "status")
    assert (done.returncode, "exited (137)" in done.stdout) == (1, True)
    assert run(host, "status", "one").returncode == 0
    host.agent("one", "running", "starting")
    assert run(host, "status", "one").returncode == 1


def test_status_for_scripts(host: LocalHost) -> None:
    host.file("names", "two\n")
    host.two_hosts()
    done = run(host, "status", "--json")
    assert done.returncode == 1
    # Standard error is in it too.
    _, _, text = done.stdout.partition("[\n")
    text, _, after = text.partition("\n]\n")
    rows = json.loads(f"[{text}]")
    assert [(row["host"], row["agent"], row["state"]) for row in rows] == [
        ("down", "one", None),
        ("down", "two", None),
        ("@local", "one", "absent"),
        ("@local", "two", "running"),
    ]
    assert rows[0]["error"].startswith("cannot be reached: 127.0.0.1 refuses connections")
    assert rows[3] == {
        "host": "@local",
        "agent": "two",
        "state": "running",
        "health": "healthy",
        "since": "2026-11-25T07:01:02+00:00",
        "exit_code": None,
        "restarts": 2,
        "image": "vllm/vllm-openai:v0.33.0",
        "model": "org/model",
        "error": None,
    }
    assert after.strip().startswith("down: cannot be reached")


def test_docker_that_does_not_answer_is_not_a_host_without_containers(host: LocalHost) -> None:
    host.file("broken", "Cannot connect to the Docker daemon\n")
    done = run(host, "status")
    assert done.returncode == 1
    assert "@local: the agents' containers could not be read: Cannot connect to" in done.stdout
    assert "absent" not in done.stdout


def test_unknown_names_are_refused_with_what_there_is(host: LocalHost) -> None:
    for words, said in {
        ("restart", "three"): "there is no agent three in inventory/prod.py; there is one, two",
        ("stop", "--host", "gpu9"): "inventory/prod.py has no host gpu9; it has @local",
        ("logs", "three", "--host", "@local"): "no agent three on @local; there is one, two",
    }.items():
        done = run(host, *words)
        assert (done.returncode, said in done.stdout) == (2, True), done.stdout
    assert host.asked() == []
    assert run(host, "no-such-thing").returncode == 2


def test_a_host_is_named_before_the_command_or_behind_it(host: LocalHost) -> None:
    host.two_hosts()
    host.file("one.log", "")
    for words in (
        ("--host", "@local", "status"),
        ("--host=@local", "status", "one"),
        ("--host", "@local", "logs", "--lines", "0", "one"),
    ):
        done = run(host, *words)
        assert (done.returncode, "down" in done.stdout) == (0, False), (words, done.stdout)
    done = run(host, "--host", "down", "status", "--host", "@local")
    assert done.returncode == 1
    assert "down: cannot be reached" in done.stdout
    assert "@local  two" in done.stdout.replace("@local   two", "@local  two")
    done = run(host, "--host", "gpu9", "status")
    assert (done.returncode, "no host gpu9; it has" in done.stdout) == (2, True)
    assert "--host HOST" in run(host, "--help").stdout


def test_a_restart_recreates_one_agent_after_the_other(host: LocalHost) -> None:
    done = run(host, "restart")
    assert done.returncode == 0, done.stdout
    assert composed(host) == [
        "up --detach --no-deps --force-recreate one",
        "up --detach --no-deps --force-recreate two",
    ]
    assert f"--project-directory {host.folder}/opt" in host.asked()[0]
    assert "@local: one restarted\n" in done.stdout


def test_a_restart_waits_for_health(host: LocalHost) -> None:
    host.becomes("one", "running", "starting")
    started = time.monotonic()
    often = host.project.patched(
        "from vllm_hosts.operations import healthy", "healthy._LOOK_EVERY = 0.25"
    )
    with host.project.begin(often, *AGENTS[1:], "restart", "one", apart=True) as process:
        while not composed(host):
            assert time.monotonic() < started + 20
            time.sleep(0.02)
        time.sleep(1)
        assert process.poll() is None, "it is not healthy yet"
        host.becomes("one", "running", "healthy")
        output, _ = process.communicate(timeout=20)
    assert (process.returncode, output) == (0, "@local: one restarted\n")


def test_the_first_agent_that_does_not_come_back_ends_a_restart(host: LocalHost) -> None:
    host.becomes("one", "exited", when="after")
    host.file("opt/.env", "VLLM_API_KEY=sk-internal-0123456789\n")
    host.file("one.log", "CUDA out of memory, said sk-internal-0123456789\n")
    done = run(host, "restart")
    assert done.returncode == 1
    assert "@local: agent one is exited; its last lines:" in done.stdout
    assert "| CUDA out of memory, said *MASKED*" in done.stdout
    assert "not restarted: two on @local" in done.stdout
    assert len(composed(host)) == 1 + 1, "one recreation, and a look at the log"


def test_compose_s_own_words_are_shown(host: LocalHost) -> None:
    host.file("one.fails", "no such service: one\n")
    done = run(host, "restart", "one")
    assert done.returncode == 1
    assert "no such service: one" in done.stdout
    assert "not restarted" not in done.stdout


def test_nothing_is_restarted_while_a_host_is_out_of_reach(host: LocalHost) -> None:
    host.two_hosts()
    done = run(host, "restart")
    assert done.returncode == 1
    assert "down: cannot be reached" in done.stdout
    assert "Nothing was restarted. Name hosts that can be reached with --host." in done.stdout
    assert host.asked() == []
    assert run(host, "restart", "--host", "@local").returncode == 0


def test_start_leaves_what_runs_alone(host: LocalHost) -> None:
    host.agent("two", "exited", None)
    host.becomes("two", "running", "healthy", when="after")
    done = run(host, "start")
    assert done.returncode == 0, done.stdout
    assert composed(host) == ["up --detach --no-deps two"]
    assert "one is already running" in done.stdout


@pytest.mark.parametrize("words", [("start",), ("restart", "two")])
def test_what_a_replacement_that_was_cut_off_has_left_goes_first(
    host: LocalHost, words: tuple[str, ...]
) -> None:
    host.agent("two", "exited", None)
    host.becomes("two", "running", "healthy", when="after")
    host.file("two.half", "0c37c882c515\n")
    done = run(host, *words)
    assert done.returncode == 0, done.stdout
    gone, up = composed(host)[:2]
    assert gone == "rm --stop --force two"
    assert up.startswith("up --detach --no-deps") and up.endswith(" two")


@pytest.mark.parametrize("gpus", [[0], [1], []])
def test_agents_of_one_card_start_one_after_the_other(host: LocalHost, gpus: list[int]) -> None:
    """H26: the second starts when the first is healthy; with cards of their own, both at once."""
    small = dict(AGENT, gpu_memory_utilization=0.4)
    two = dict(small, name="two", port=8002, gpus=gpus)
    vllm = {"directory": str(host.folder / "opt")}
    host.project.group(agents=[small, two], vllm=vllm)
    for name in ("one", "two"):
        host.agent(name, "exited", None)
        host.becomes(name, "running", "healthy", when="after")
    if gpus == [0]:
        host.becomes("one", "running", "starting", when="after")
        host.becomes("one", "running", "healthy", when="then")
    else:
        # The stand-in takes up the last name of a command only.
        host.becomes("one", "running", "healthy")
    done = run(host, "start")
    assert done.returncode == 0, done.stdout
    asked = [line.partition("--progress plain ")[2] or line for line in host.asked()]
    if gpus == [0]:
        assert asked == [
            "up --detach --no-deps one",
            "seen one running starting",
            "up --detach --no-deps two",
        ]
    else:
        assert asked == ["up --detach --no-deps one two"]


def test_the_second_agent_of_a_card_is_not_started_where_the_first_fails(host: LocalHost) -> None:
    small = dict(AGENT, gpu_memory_utilization=0.4)
    vllm = {"directory": str(host.folder / "opt")}
    two = dict(small, name="two", port=8002)
    host.project.group(agents=[small, two], vllm=vllm)
    for name in ("one", "two"):
        host.agent(name, "exited", None)
    host.becomes("one", "exited", when="after")
    host.file("one.log", "the reason\n")
    done = run(host, "start")
    assert done.returncode == 1
    assert "agent one is exited; its last lines:" in done.stdout
    assert not any(line.endswith("two") for line in composed(host))


def test_a_start_that_fails_on_one_host_is_said(host: LocalHost) -> None:
    host.two_hosts()
    done = run(host, "start")
    assert done.returncode == 1
    assert "down: cannot be reached" in done.stdout
    assert "one is already running" in done.stdout


def test_stop(host: LocalHost) -> None:
    done = run(host, "stop", "one")
    assert done.returncode == 0
    assert composed(host) == ["stop one"]
    assert "one is stopped" in done.stdout
    host.agent("one", "exited", None)
    assert "one does not run" in run(host, "stop", "one").stdout


def test_stopping_everything_needs_a_yes(host: LocalHost) -> None:
    done = run(host, "stop")
    assert "confirmation is needed, and there is no terminal to ask on" in done.stdout
    assert "Aborted" not in done.stdout
    assert (done.returncode, host.asked()) == (2, [])
    assert "Stop every agent on @local?" in done.stdout
    assert run(host, "stop", "--yes").returncode == 0
    assert composed(host) == ["stop one two"]


def test_logs_have_host_and_agent_before_each_line(host: LocalHost) -> None:
    host.file("one.log", "2026-11-25T09:00:00.2Z later\n")
    host.file("two.log", "2026-11-25T09:00:00.1Z sooner\n")
    done = run(host, "logs", "--lines", "7")
    assert (done.returncode, done.stdout) == (0, "@local one | later\n@local two | sooner\n")
    assert host.asked()[0] == "logs --timestamps --tail 200000 one", "routine lines do not count"
    assert run(host, "logs", "--lines", "7", "--all").stdout == done.stdout
    assert host.asked()[2] == "logs --timestamps --tail 7 one"
    host.file("names", "one\n")
    done = run(host, "logs")
    assert done.returncode == 1
    assert "@local: agent two has no container; deploy it first" in done.stdout


@pytest.mark.parametrize("lines", [0, 7])
def test_following_shows_each_line_once_and_ends_with_ctrl_c(host: LocalHost, lines: int) -> None:
    """Also of an agent that has printed nothing yet, and where no old line is wanted."""
    first = "2026-11-25T09:00:00.1Z first\n" if lines else ""
    host.file("one.log", first)
    host.file("two.log", "")
    often = host.project.patched("from vllm_hosts.cli import agents", "agents._FOLLOW_EVERY = 0.2")
    words = [*AGENTS[1:], "logs", "--follow", f"--lines={lines}"]
    with host.project.begin(often, *words, apart=True) as process:
        assert process.stdout is not None
        if lines:
            assert process.stdout.readline() == "@local one | first\n"
        while len(host.asked()) < 4:
            time.sleep(0.02)
        host.file("one.log", first + "2099-11-25T09:00:00.3Z third\n")
        host.file("two.log", "2099-11-25T09:00:00.2Z second\n")
        shown = sorted(process.stdout.readline() for _ in range(2))
        assert shown == ["@local one | third\n", "@local two | second\n"]
        looks = len(host.asked())
        while len(host.asked()) < looks + 4:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=20)
    assert (process.returncode, output) == (0, "")
    first_looks = f"--tail {'200000' if lines else '0'} "
    assert all(first_looks in line and "--since" not in line for line in host.asked()[:2])
    assert all("--tail 2000 --since 20" in line for line in host.asked()[2:])
