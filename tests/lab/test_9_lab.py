"""The lab itself: repaired after a crash, and gone without a trace. Runs last: it ends the lab."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from pathlib import Path

import pytest

from lab import hosts as lab_hosts
from lab import layout, network, processes
from lab.clean import _busy, _ours_in_cache, _ours_in_state
from tests.lab.conftest import HOSTS
from tests.lab.deploys import command


def processes_of_the_lab() -> list[str]:
    """Command lines that name the lab's folder, and everything that runs in a host."""
    return [
        " ".join(words)
        for pid, words in processes.command_lines().items()
        if pid != os.getpid() and any(f"{layout.STATE}/" in word for word in words)
    ]


def ruleset() -> str:
    return subprocess.run(
        ["nft", "-s", "list", "ruleset"], capture_output=True, text=True, check=True
    ).stdout


def test_up_repairs_what_a_crash_left_behind(lab: None) -> None:
    archive = processes.alive("archive")
    assert archive is not None
    for victim in [*lab_hosts.process_tree("gpu2"), *processes.children(archive), archive]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)
    network.drop_link("gpu2")
    lab_hosts.up(len(HOSTS))
    assert lab_hosts.is_up()
    # What would be in the way of removing caches and state, which stay here.
    busy = _busy(layout.CACHE, layout.STATE)
    assert {"host-gpu1", "host-gpu2", "host-neighbour", "registry", "its bridge"} <= set(busy)
    assert lab_hosts.run("gpu2", "hostname").stdout.strip() == "gpu2"
    assert processes.alive("archive") is not None


def test_reset_returns_a_host_to_its_fresh_state(lab: None) -> None:
    lab_hosts.run("gpu2", "touch /root/traces; mkdir -p /opt/vllm")
    lab_hosts.reset(["gpu2"])
    left = lab_hosts.run("gpu2", "ls -d /root/traces /opt/vllm /etc/docker", check=False)
    assert left.stdout == ""


def test_settings_are_refused_while_the_lab_is_down_and_down_leaves_nothing(lab: None) -> None:
    if os.environ.get("LAB_KEEP"):
        pytest.fail("LAB_KEEP keeps the lab up: leave it out, or this test")
    lab_hosts.down()
    assert processes_of_the_lab() == []
    assert not network.is_up()
    assert [
        one for one in (*HOSTS, "neighbour") if Path(f"/sys/class/net/{network.link(one)}").exists()
    ] == []
    assert f"{layout.STATE}/" not in Path("/proc/mounts").read_text()
    assert layout.BRIDGE not in ruleset()
    assert _busy(layout.CACHE, layout.STATE) == [f"lab {number}" for number in network.others()]
    left = [path for folder in (layout.CACHE, layout.STATE) for path in folder.iterdir()]
    assert set(left) == {*_ours_in_cache(layout.CACHE), *_ours_in_state(layout.STATE)}
    done = command("vllm-hosts", "check", "inventory/lab.py")
    assert done.code == 1
    assert "the lab is not up; run: make lab-up" in done.output
    lab_hosts.down()
