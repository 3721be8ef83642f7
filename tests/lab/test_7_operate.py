"""Operating agents and watching them, on hosts that a deploy has made."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from pydantic import SecretStr

from lab import hosts as lab_hosts
from lab import layout
from lab.settings import AGENTS
from tests.lab.conftest import HOSTS, Deployed
from tests.lab.deploys import BIN, ROOT, TWINS, Run, command, deploy
from tests.lab.traffic import Traffic
from tests.terminal import Terminal

LAB = "inventory/lab.py"
ENV = "/opt/vllm/.env"
ALL = [("gpu1", "tiny"), ("gpu1", "spare"), ("gpu2", "tiny")]


def agents(*words: str) -> Run:
    return command("vllm-hosts", "agents", LAB, *words)


def parsed(run: Run) -> Any:
    """The list that was printed, without what standard error has before it."""
    return json.loads(run.output[run.output.index("[\n") :])


def containers(host: str) -> set[str]:
    listing = "docker ps --all --no-trunc --format '{{.Names}} {{.ID}} {{.Status}}'"
    lines = lab_hosts.run(host, listing).stdout.splitlines()
    return {" ".join(line.split()[:3]) for line in lines}


def models(deployed: Deployed, host: str, agent: str) -> int:
    """Status of a request that reaches vLLM only with the key that it asks for."""
    return requests.get(
        f"https://{deployed.settings[host].address}/{agent}/v1/models",
        headers={"Authorization": f"Bearer {deployed.client_key.get_secret_value()}"},
        verify=str(deployed.ca_file),
        timeout=10,
    ).status_code


def test_status_of_every_agent(deployed: Deployed) -> None:
    run = agents("status", "--json")
    assert run.code == 0, run.output
    rows: list[dict[str, Any]] = parsed(run)
    named = {agent["name"]: agent["model"] for agent in AGENTS}
    assert [(row["host"], row["agent"]) for row in rows] == ALL
    for row in rows:
        assert (row["state"], row["health"], row["error"]) == ("running", "healthy", None)
        assert (row["image"], row["model"]) == (layout.IMAGE, named[row["agent"]])
    table = agents("status", "tiny")
    assert (table.code, table.output.count("healthy")) == (0, 2)
    assert deployed.leaks(run.output + table.output) == []


def test_logs_of_several_hosts(deployed: Deployed) -> None:
    run = agents("logs", "tiny", "--lines", "5")
    assert run.code == 0, run.output
    lines = [line for line in run.output.splitlines() if " tiny | " in line]
    for host in HOSTS:
        assert sum(line.startswith(f"{host} tiny | ") for line in lines) == 5, run.output
    assert '/health HTTP/1.1" 200' not in run.output
    assert deployed.leaks(run.output) == []
    everything = agents("logs", "tiny", "--lines", "20", "--all")
    assert '/health HTTP/1.1" 200' in everything.output, "a health check comes every ten seconds"


def test_following_a_log(deployed: Deployed) -> None:
    # What runs in the background has been told to ignore Ctrl-C.
    argv = ["env", "--default-signal=INT", str(BIN / "vllm-hosts"), "agents", LAB]
    argv += ["logs", "--follow", "--all", "--lines", "0", "spare"]
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            # Agents print a line for each look at their health, so that something always comes.
            assert process.stdout.readline().startswith("gpu1 spare | ")
            assert models(deployed, "gpu1", "spare") == 200
            deadline = time.monotonic() + 60
            while "/v1/models" not in process.stdout.readline():
                assert time.monotonic() < deadline
        finally:
            process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 0
    time.sleep(3)
    left = lab_hosts.run(
        "gpu1", "grep -lsa '[d]ocker.logs' /proc/[0-9]*/cmdline || echo none"
    ).stdout
    assert left.strip() == "none"


def test_stop_and_start(deployed: Deployed) -> None:
    [tiny] = [one for one in containers("gpu1") if one.startswith("tiny ")]
    assert agents("stop", "spare", "--host", "gpu1").code == 0
    assert models(deployed, "gpu1", "spare") == 503
    stopped = agents("status", "--host", "gpu1")
    assert (stopped.code, "exited" in stopped.output) == (1, True)
    run = agents("start", "spare")
    assert run.code == 0, run.output
    assert agents("status").code == 0
    assert models(deployed, "gpu1", "spare") == 200
    assert tiny in containers("gpu1"), "the other agent was left alone"


@pytest.fixture
def another_key(deployed: Deployed) -> Iterator[str]:
    """.env of gpu2 has another internal key than the deploy wrote; afterwards it is as it was."""
    key = "another-internal-key-of-the-lab-0123456789"
    lab_hosts.run(
        "gpu2",
        f"cp -p {ENV} /run/env.before &&"
        f" sed -i 's/^VLLM_API_KEY_TINY=.*/VLLM_API_KEY_TINY={key}/' {ENV}",
    )
    yield key
    lab_hosts.run("gpu2", f"cp -p /run/env.before {ENV} && rm /run/env.before")
    run = agents("restart", "--host", "gpu2")
    assert run.code == 0, run.output


def test_a_restart_reads_env_again(deployed: Deployed, another_key: str) -> None:
    """The container has the key that .env has now, and so has the edge."""
    environment = "docker exec tiny sh -c 'echo $VLLM_API_KEY'"
    assert lab_hosts.run("gpu2", environment).stdout.strip() != another_key
    before = containers("gpu1")
    run = agents("restart", "tiny", "--host", "gpu2")
    assert run.code == 0, run.output
    assert "gpu2: tiny restarted" in run.output
    assert lab_hosts.run("gpu2", environment).stdout.strip() == another_key
    assert agents("status", "--host", "gpu2").code == 0, "it was waited for"
    assert models(deployed, "gpu2", "tiny") == 200
    assert containers("gpu1") == before
    assert another_key not in run.output
    assert deployed.leaks(run.output) == []


def test_a_restart_ends_at_the_first_agent_that_does_not_come_back(deployed: Deployed) -> None:
    before = {host: containers(host) for host in HOSTS}
    lab_hosts.run("gpu1", f"mv {ENV} /run/env.away")
    try:
        run = agents("restart")
    finally:
        lab_hosts.run("gpu1", f"mv /run/env.away {ENV}")
    assert run.code == 1
    assert "VLLM_API_KEY" in run.output, "Compose's own words"
    assert "not restarted: spare on gpu1, tiny on gpu2" in run.output
    assert {host: containers(host) for host in HOSTS} == before


def test_top_has_numbers_of_every_agent(deployed: Deployed) -> None:
    before = {host: containers(host) for host in HOSTS}
    clients = [("default", deployed.client_key)]
    url = f"https://{deployed.settings['gpu1'].address}/tiny/v1"
    with Traffic(url, "tiny", deployed.ca_file, clients, pause=0.1) as traffic:
        traffic.wait_for(5)
        run = command("vllm-hosts", "top", LAB, "--once", "--json")
    assert run.code == 0, run.output
    found = {host["host"]: host for host in parsed(run)}
    shown = [(name, agent["agent"]) for name, host in found.items() for agent in host["agents"]]
    assert shown == ALL
    for host in found.values():
        assert (host["error"], host["gpu_error"]) == (None, None)
        assert host["gpus"] and all(gpu["memory_total_mib"] > 0 for gpu in host["gpus"])
        for agent in host["agents"]:
            assert (agent["health"], agent["metrics_error"]) == ("healthy", None)
            assert agent["requests_running"] >= 0 and agent["requests_waiting"] >= 0
            assert 0 <= agent["kv_cache_used_percent"] <= 100
            # Docker itself says 0 where the lab's control groups count nothing.
            assert agent["cpu_percent"] >= 0 and agent["memory_bytes"] >= 0
    busy, *idle = [agent for host in found.values() for agent in host["agents"]]
    assert busy["generation_tokens_per_second"] > 0
    assert busy["prompt_tokens_per_second"] > 0
    # But for the one token that the watchdog asks for now and then.
    assert all(agent["generation_tokens_per_second"] < 1 for agent in idle)
    assert {host: containers(host) for host in HOSTS} == before
    assert deployed.leaks(run.output) == []


def test_top_on_a_terminal_quits_and_restores_it(deployed: Deployed) -> None:
    argv = [str(BIN / "vllm-hosts"), "top", LAB]
    with Terminal(argv, ROOT, os.environ) as shown:
        for text in (*HOSTS, "spare"):
            shown.wait_for(text, timeout=60)
        shown.wait_for("healthy", times=3)
        assert "no answer" not in shown.text
        shown.type("q")
        assert shown.wait() == 0
        shown.assert_restored()


@pytest.mark.nightly
def test_twins_restart_without_a_failed_request(deployed: Deployed) -> None:
    settings = {"hosts": {"gpu1": {"agents": TWINS}}}
    run = deploy("--limit", "gpu1", settings=settings)
    assert run.code == 0, run.output[-4000:]
    before = {one.split()[1] for one in containers("gpu1")}
    key: SecretStr = deployed.client_key
    base = f"https://{deployed.settings['gpu1'].address}"
    with (
        Traffic(f"{base}/tiny/v1", "twin", deployed.ca_file, [("a", key)], pause=0.5) as tiny,
        Traffic(f"{base}/spare/v1", "twin", deployed.ca_file, [("b", key)], pause=0.5) as spare,
    ):
        tiny.wait_for(10)
        run = command("vllm-hosts", "agents", LAB, "restart", "--host", "gpu1", settings=settings)
        assert run.code == 0, run.output
        time.sleep(2)
    assert not before & {one.split()[1] for one in containers("gpu1")}, "both were recreated"
    failed = [item for item in tiny.asked + spare.asked if item.status != 200]
    assert failed == [], (len(failed), failed[:5])
    run = deploy("--limit", "gpu1")
    assert run.code == 0, run.output[-4000:]
