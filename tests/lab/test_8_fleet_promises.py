"""What is promised between gateways and hosts: each broken promise turns the hosts suite red."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab import hosts as lab_hosts
from tests.lab.deploys import command
from tests.lab.fleet import FLEET, GATEWAYS, GPU_HOSTS, Fleet, deploy, well
from tests.lab.sabotage import FLEET as ROWS
from tests.lab.sabotage import Sabotage
from tests.lab.test_4_verify import ended
from vllm_hosts.verify.promises import promises

pytestmark = pytest.mark.nightly


@pytest.fixture(autouse=True)
def whole(fleet: Fleet) -> None:
    """Each test begins with all agents in rotation."""
    fleet.wait_whole()


def test_each_host_keeps_what_is_promised_of_it(fleet: Fleet, tmp_path: Path) -> None:
    run = well(command("vllm-hosts", "verify", FLEET, "--report", str(tmp_path)))
    assert "broken" not in run.output
    of = {name: promise.of for name, promise in promises().items()}
    for host in (*GATEWAYS, *GPU_HOSTS):
        exempt = {"agents", "behind"} if host in GATEWAYS else {"gateways"}
        exempt |= {"virtual", "mirror", "mirrored"}
        expected = {name for name in of if of[name] not in exempt}
        # What settings do not ask for, and what this machine lets no Docker do.
        expected -= {"SSH-01", "AGENT-08", "GPU-01", "GPU-02", "GPU-03", "VER-04"}
        assert expected <= ended(tmp_path, host, "kept"), host
        left_out = {name for name in of if of[name] in exempt}
        assert left_out <= ended(tmp_path, host, "does not apply"), host


@pytest.mark.parametrize("sabotage", [pytest.param(row, id=row.name) for row in ROWS])
def test_a_broken_promise_is_seen_and_healed(
    fleet: Fleet, sabotage: Sabotage, tmp_path: Path
) -> None:
    host = sabotage.host
    look = ("verify", FLEET, "--host", host, "--ports", "1-10000")
    try:
        lab_hosts.run(host, sabotage.do, timeout=400)
        run = command(
            "vllm-hosts", *look, "--report", str(tmp_path), "--skip", "EDGE-12", timeout=900
        )
        assert run.code == 1, run.output[-4000:]
        assert ended(tmp_path, host, "broken") == sabotage.broken, run.output[-4000:]
        assert ended(tmp_path, host, "not checked") == set(), run.output[-4000:]
    finally:
        if sabotage.undo:
            lab_hosts.run(host, sabotage.undo)
        healed = deploy("--limit", host)
    well(healed)
    chosen = [word for name in sorted(sabotage.broken) for word in ("--promise", name)]
    well(command("vllm-hosts", *look, *chosen))
