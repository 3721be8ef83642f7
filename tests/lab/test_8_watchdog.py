"""Engines that hang behind an API that answers, with the real vLLM: the host helps itself."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from shlex import quote

import pytest

from lab import hosts as lab_hosts
from tests.lab.conftest import Deployed
from tests.lab.deploys import Run, changes, command, deploy

pytestmark = pytest.mark.nightly

HOST = "gpu2"
QUICK = {"watchdog_interval": 5, "watchdog_looks": 3, "watchdog_restarts": 10}
#: Two looks until the engine is missed, then three that wait 20 seconds for a token each, and what
#: this machine has to do besides.
MISSED = 180
#: Until it has loaded again.
BACK = 420
COUNTS = "/var/lib/vllm-hosts/watchdog"
UNITS = "vllm-hosts-watchdog.timer vllm-hosts-watchdog.service"
_STARTED = "docker inspect tiny --format '{{.Id}} {{.State.StartedAt}}'"
#: In the agent's container: so many clients ask for so many seconds.
_CLIENTS = """
import json, os, threading, time, urllib.request
end = time.monotonic() + {seconds}
def ask():
    while time.monotonic() < end:
        request = urllib.request.Request(
            "http://127.0.0.1:8000/v1/completions",
            json.dumps(dict(model="{model}", prompt="a", max_tokens=300, ignore_eos=True)).encode(),
            dict([("Authorization", "Bearer " + os.environ["VLLM_API_KEY"]),
                  ("Content-Type", "application/json")]),
        )
        try:
            urllib.request.urlopen(request, timeout={seconds}).read()
        except OSError:
            time.sleep(1)
threads = [threading.Thread(target=ask) for _ in range({clients})]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
"""


def watched(**vllm: object) -> Run:
    run = deploy("--limit", HOST, settings={"vllm": {**QUICK, **vllm}})
    assert run.code == 0, run.output[-4000:]
    return run


@pytest.fixture(scope="module")
def quick(deployed: Deployed) -> Iterator[Deployed]:
    """gpu2 is watched as often as possible; afterwards as usual, and nothing is known of it."""
    run = watched()
    assert changes(run)[HOST] > 0
    yield deployed
    lab_hosts.run(HOST, f"rm -f {COUNTS}/*")
    assert deploy("--limit", HOST).code == 0


def started() -> str:
    """When the agent's container was, and which one it is."""
    return lab_hosts.run(HOST, _STARTED).stdout.strip()


def engine(signal: str) -> None:
    """A signal to the engine's own process, and not to the API's."""
    lab_hosts.run(
        HOST,
        "id=$(docker inspect tiny --format '{{.Id}}'); found=; for p in /proc/[0-9]*; do"
        " ! { grep -qs $id $p/cgroup && grep -qsa ^VLLM::EngineCore $p/cmdline; } ||"
        f' {{ kill -{signal} ${{p#/proc/}} && found=yes; }}; done; [ -n "$found" ]',
    )


def clients(deployed: Deployed, count: int, seconds: int) -> None:
    """Clients in the agent's container, in the background."""
    [agent] = deployed.settings[HOST].agents
    script = _CLIENTS.format(clients=count, seconds=seconds, model=agent.client_model_name)
    lab_hosts.run(HOST, f"docker exec -d tiny python3 -c {quote(script)}")


def until(what: str, condition: str, seconds: float) -> float:
    """Wait for a shell's condition on the host; how long that took."""
    begun = time.monotonic()
    while lab_hosts.run(HOST, condition, check=False).returncode:
        took = time.monotonic() - begun
        log = "journalctl -u vllm-hosts-watchdog -n 30 --no-pager; cat /run/vllm-hosts-watchdog/*"
        assert took < seconds, f"{what}: not in {took:.0f} s; " + lab_hosts.run(HOST, log).stdout
        time.sleep(1)
    return time.monotonic() - begun


def healthy_again() -> None:
    healthy = "docker inspect tiny --format '{{.State.Health.Status}}' | grep -qx healthy"
    until("healthy", healthy, BACK)


def counted() -> str:
    return lab_hosts.run(HOST, f"cat {COUNTS}/tiny 2>/dev/null || echo nothing").stdout


def answers(deployed: Deployed) -> bool:
    """Whether the agent makes a token."""
    [agent] = deployed.settings[HOST].agents
    script = f"""
import json, os, urllib.request
request = urllib.request.Request(
    "http://127.0.0.1:8000/v1/completions",
    json.dumps(dict(model="{agent.client_model_name}", prompt="a", max_tokens=1)).encode(),
    dict([("Authorization", "Bearer " + os.environ["VLLM_API_KEY"]),
          ("Content-Type", "application/json")]),
)
print(urllib.request.urlopen(request, timeout=60).status)
"""
    words = f"docker exec tiny python3 -c {quote(script)}"
    return lab_hosts.run(HOST, words, timeout=120).stdout.strip() == "200"


def doctor() -> list[dict[str, str]]:
    run = command("vllm-hosts", "doctor", "inventory/lab.py", "--host", HOST, "--json")
    found: list[dict[str, str]] = json.loads(run.output[run.output.index("{") :])[HOST]["found"]
    return found


def test_an_agent_that_idles_is_left_alone(quick: Deployed) -> None:
    """And its unit may do what it has to, as hardened as it is."""
    before = started()
    until("seen", "grep -qx 'loaded yes' /run/vllm-hosts-watchdog/tiny", 120)
    until("a token", "grep -qx 'route /v1/completions' /run/vllm-hosts-watchdog/tiny", 120)
    result = "systemctl show -p Result vllm-hosts-watchdog.service"
    assert lab_hosts.run(HOST, result).stdout.strip() == "Result=success"
    assert (started(), counted()) == (before, "nothing\n")
    assert not {one["id"] for one in doctor()} & {"agent-was-restarted", "agent-given-up"}
    # Nobody reads about it, whoever reads what the agent prints.
    run = command("vllm-hosts", "agents", "inventory/lab.py", "logs", "tiny", "--host", HOST)
    assert "/v1/completions HTTP/1.0" not in run.output


def test_one_that_is_saturated_is_left_alone(quick: Deployed) -> None:
    before = started()
    clients(quick, 32, 120)
    rows = []
    for _ in range(24):
        time.sleep(5)
        rows.append(lab_hosts.run(HOST, "sed -n 's/^row //p' /run/vllm-hosts-watchdog/tiny").stdout)
    until("done", "! grep -qsa '[i]gnore_eos' /proc/[0-9]*/cmdline", 180)
    assert (started(), counted()) == (before, "nothing\n")
    assert {row.strip() for row in rows} <= {"", "0", "1"}


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "at work"])
def test_an_engine_that_is_frozen(quick: Deployed, busy: bool) -> None:
    before = started()
    log = quick.leaks(lab_hosts.run(HOST, "journalctl -u vllm-hosts-watchdog --no-pager").stdout)
    assert log == []
    if busy:
        clients(quick, 4, 60)
        time.sleep(5)
    engine("STOP")
    health = "docker exec tiny python3 -c 'import urllib.request as u;"
    health += ' print(u.urlopen("http://127.0.0.1:8000/health", timeout=9).status)\''
    assert lab_hosts.run(HOST, health).stdout.strip() == "200", "its API answers"
    took = until("restarted", f"[ \"$({_STARTED})\" != '{before}' ]", MISSED)
    print(f"restarted {took:.0f} s after it was frozen")
    assert before.split()[0] == started().split()[0], "the same container"
    healthy_again()
    assert answers(quick)
    assert "restart " in counted()
    found = {one["id"]: one for one in doctor()}
    assert "did not come back" in found["agent-was-restarted"]["what"]
    # For Compose it is the container that it was.
    again = watched()
    assert changes(again) == {HOST: 0}, again.output
    drift = command("vllm-hosts", "drift", "inventory/lab.py", "--host", HOST,
                    settings={"vllm": QUICK})  # fmt: skip
    assert drift.code == 0, drift.output


def test_an_engine_that_is_killed(quick: Deployed) -> None:
    """vLLM's API ends then, or lives on; either way somebody starts it again."""
    before = started()
    engine("KILL")
    took = until("restarted", f"[ \"$({_STARTED})\" != '{before}' ]", MISSED)
    print(f"started again {took:.0f} s after its engine was killed")
    healthy_again()
    assert answers(quick)


def test_one_that_hangs_again_and_again_is_named_and_left(quick: Deployed) -> None:
    """It had as many restarts within the hour as it may."""
    lab_hosts.run(
        HOST,
        "umask 077; for _ in 1 2 3 4 5 6 7 8 9 10; do echo restart $(date +%s) stalled; done"
        f" >{COUNTS}/tiny",
    )
    before = started()
    engine("STOP")
    until("given up", f"grep -qE '^gave-up [0-9]+ stalled' {COUNTS}/tiny", MISSED)
    assert started() == before
    first, *_ = doctor()
    assert first["id"] == "agent-given-up"
    # Whoever lets it go on sees that it is watched again.
    engine("CONT")
    until("well", f"! grep -qE '^gave-up [0-9]+' {COUNTS}/tiny", 120)
    assert started() == before


def test_nothing_is_restarted_while_a_deploy_holds_the_host(quick: Deployed) -> None:
    lab_hosts.run(HOST, f"rm -f {COUNTS}/*; systemd-run -q --unit lab-holds"
                        " flock /run/vllm-hosts.lock sleep 3600")  # fmt: skip
    try:
        engine("STOP")
        time.sleep(60)
        assert counted() == "nothing\n"
        rows = lab_hosts.run(HOST, "cat /run/vllm-hosts-watchdog/tiny").stdout
        assert "row 0\n" in rows
    finally:
        engine("CONT")
        lab_hosts.run(HOST, "systemctl stop lab-holds")


def test_switched_off_it_is_gone(quick: Deployed) -> None:
    off = watched(watchdog=False)
    assert changes(off)[HOST] > 0, off.output[-3000:]
    left = lab_hosts.run(
        HOST,
        f"ls -d {COUNTS} /run/vllm-hosts-watchdog /usr/local/lib/vllm-hosts/watch-agents"
        f" /etc/systemd/system/vllm-hosts-watchdog.* 2>/dev/null; systemctl is-active {UNITS}",
        check=False,
    ).stdout.split()
    assert set(left) <= {"inactive", "unknown"}
    assert changes(watched(watchdog=False)) == {HOST: 0}
    on = watched()
    assert changes(on)[HOST] > 0, on.output[-3000:]
