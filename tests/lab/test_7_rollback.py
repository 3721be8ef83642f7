"""Agents that do not become healthy are put back, and rollback.py goes back by hand."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest

from lab import hosts as lab_hosts
from lab import layout
from lab.settings import AGENTS
from tests.lab.conftest import Deployed
from tests.lab.deploys import INVENTORY, Run, changes, command, deploy
from tests.lab.faults import run as faults
from tests.lab.faults import table
from tests.lab.test_7_operate import models

HOST = "gpu2"
ON = ("--limit", HOST)
COMPOSE, KEPT = "/opt/vllm/compose.yaml", "/var/lib/vllm-hosts/way-back"
NEXT = f"{layout.IMAGE}-next"


def settings(**changed: Any) -> dict[str, Any]:
    """Those of the lab, with another agent tiny on the host."""
    return {"hosts": {HOST: {"agents": [AGENTS[0] | changed]}}}


#: vLLM accepts it, and its engine finds no room when it starts (see doctor_faults.py): one that has
#: a worker apart, which it shares memory with.
BROKEN = settings(shm_size="64m", env=AGENTS[0]["env"] | {"VLLM_ENABLE_V1_MULTIPROCESSING": "1"})
LONGER = settings(max_model_len=768)


def rollback(*words: str, settings: dict[str, Any] | None = None) -> Run:
    return command("pyinfra", "-y", INVENTORY, "rollback.py", *words, settings=settings)


def state(host: str = HOST) -> str:
    """What agents are started from, and each with its image, command and health."""
    shown = "{{.Name}} {{.Config.Image}} {{.Config.Cmd}} {{.HostConfig.ShmSize}}"
    shown += " {{.State.Health.Status}}"
    return lab_hosts.run(
        host,
        f"sha256sum {COMPOSE} /opt/vllm/.env; docker ps -q | xargs docker inspect -f '{shown}' |"
        " sort",
    ).stdout


def drift(settings: dict[str, Any] | None = None) -> tuple[int, dict[str, str]]:
    """Exit code, and by what differs on the host who changed it."""
    words = ("vllm-hosts", "drift", INVENTORY, "--json", "--host", HOST)
    run = command(*words, settings=settings)
    found = json.loads(run.output[run.output.index("{") :])[HOST]
    assert found["unknown"] == [], run.output
    return run.code, {item["what"]: item["cause"] for item in found["drifted"]}


def last_run() -> dict[str, Any]:
    """The last line of the host's history."""
    run = command("vllm-hosts", "history", INVENTORY, "--host", HOST, "--json", "--lines", "1")
    assert run.code == 0, run.output
    [found] = json.loads(run.output[run.output.index("[\n") :])
    line: dict[str, Any] = found["runs"][-1]
    return line


@pytest.fixture
def in_line(deployed: Deployed) -> Iterator[None]:
    """Before and after it the host is as the lab's settings say, and a deploy changes nothing."""
    first = deploy(*ON)
    assert first.code == 0, first.output[-4000:]
    yield
    back = deploy(*ON)
    assert back.code == 0, back.output[-4000:]
    again = deploy(*ON)
    assert (again.code, changes(again)[HOST]) == (0, 0), again.output[-4000:]


def test_what_is_kept_is_for_root_and_holds_no_secret(deployed: Deployed) -> None:
    assert deploy(*ON).code == 0
    listed = lab_hosts.run(HOST, f"find {KEPT} -printf '%M %u:%g %P\\n' | sort").stdout
    assert "-rw------- root:root now/compose.yaml\n" in listed
    assert "-rw------- root:root now/definition.json\n" in listed
    modes = {line.split()[0] for line in listed.splitlines()}
    assert modes == {"-rw-------", "drwx------"}, listed
    assert {line.split()[1] for line in listed.splitlines()} == {"root:root"}
    lab_hosts.run(HOST, f"cmp {COMPOSE} {KEPT}/now/compose.yaml")
    text = lab_hosts.run(HOST, f"cat $(find {KEPT} -type f)").stdout
    assert deployed.leaks(text) == []


@pytest.mark.nightly
def test_agents_that_do_not_become_healthy_are_put_back(deployed: Deployed, in_line: None) -> None:
    before = state()
    run = deploy(*ON, settings=BROKEN)
    assert run.code == 1, run.output[-6000:]
    # What failed, with vLLM's last words, and what became of it.
    assert re.search(r"agent tiny (crashed|is) .*; its last lines:", run.output), run.output[-6000:]
    assert re.search(
        r"agents did not become healthy \(see above\); those of before are back, from"
        rf" {re.escape(layout.IMAGE)}, and healthy\. Correct the settings, or set them back, and"
        r" deploy again",
        run.output,
    ), run.output[-6000:]
    assert deployed.leaks(run.output) == []
    assert state() == before
    assert models(deployed, HOST, "tiny") == 200
    # Nobody says that the host was changed by hand, and who does not want the change has no drift.
    assert drift() == (0, {})
    code, differs = drift(BROKEN)
    assert (code, differs[COMPOSE]) == (3, "settings")
    line = last_run()
    assert line["ended"].startswith("failed at vLLM | The agents ")
    assert "the agents of before are put back" in line["changed"]
    # What was before the last deploy is there already.
    refused = rollback(*ON)
    assert refused.code == 1, refused.output[-4000:]
    assert "the last deploy was taken back already" in refused.output
    assert state() == before
    # Without -y the next deploy of the same says so before it asks.
    shown = command("pyinfra", "--dry", INVENTORY, "deploy.py", *ON, settings=BROKEN)
    assert f"{HOST}: agents get the definition again that was taken back here" in shown.output
    good = deploy(*ON, settings=LONGER)
    assert good.code == 0, good.output[-6000:]
    assert '"768"' in lab_hosts.run(HOST, f"cat {COMPOSE}").stdout
    assert changes(deploy(*ON, settings=LONGER)) == {HOST: 0}


@pytest.mark.nightly
@pytest.mark.parametrize("end", ["killed", "terminated", "docker killed", "power lost"])
@pytest.mark.parametrize("stage", ["agents start", "they are put back"])
def test_a_way_back_that_is_cut_off(
    deployed: Deployed, in_line: None, stage: str, end: str
) -> None:
    before, compose = state(), f"sha256sum {COMPOSE}"
    good = lab_hosts.run(HOST, compose).stdout

    def at_the_stage(process: subprocess.Popen[str]) -> None:
        for back in (False, True)[: 1 + (stage == "they are put back")]:
            until = time.monotonic() + 300
            while (lab_hosts.run(HOST, compose).stdout == good) is not back:
                assert process.poll() is None, process.communicate()[0][-6000:]
                assert time.monotonic() < until
                time.sleep(0.2)
        time.sleep(1)
        table.FAULTS[end].begin(HOST, process)

    cut_off = faults.deploy_until(HOST, 1, at_the_stage, json.dumps(BROKEN))
    assert cut_off.met and cut_off.code != 0, cut_off.output[-6000:]
    assert deployed.leaks(cut_off.output) == []
    assert "Traceback" not in cut_off.output, cut_off.output[-6000:]
    faults.wait_free(HOST)
    assert faults.broken(HOST) == []
    back = deploy(*ON)
    assert back.code == 0, back.output[-6000:]
    assert faults.left(HOST) == [] and state() == before
    assert drift() == (0, {})
    assert models(deployed, HOST, "tiny") == 200


@pytest.mark.nightly
def test_what_was_left_broken_is_put_back_by_hand_or_by_the_next_deploy(
    deployed: Deployed, in_line: None
) -> None:
    before = state()
    left = BROKEN | {"vllm": {"roll_back": False}}
    run = deploy(*ON, settings=left)
    assert run.code == 1, run.output[-6000:]
    assert "those of before" not in run.output
    assert "67108864" in state(), "the broken one stays"
    by_hand = rollback(*ON, settings=left)
    assert by_hand.code == 0, by_hand.output[-6000:]
    assert state() == before
    assert models(deployed, HOST, "tiny") == 200
    # The same once more; then it crashes when the next deploy, which changes nothing, waits for it.
    assert deploy(*ON, settings=left).code == 1
    run = deploy(*ON, settings=BROKEN)
    assert run.code == 1, run.output[-6000:]
    assert "those of before are back" in run.output, run.output[-6000:]
    assert state() == before


@pytest.mark.nightly
def test_rollback_py_after_a_good_change(deployed: Deployed, in_line: None) -> None:
    before = state()
    changed = deploy(*ON, settings=LONGER)
    assert changed.code == 0, changed.output[-6000:]
    forward = state()
    assert forward != before
    shown = command("pyinfra", "--dry", INVENTORY, "rollback.py", *ON, settings=LONGER)
    assert shown.code == 0, shown.output[-4000:]
    assert f"{HOST}: agents go back to those of " in shown.output
    assert f"{HOST}: agent tiny is recreated (its definition changed)" in shown.output
    assert state() == forward, "a dry run changes nothing"
    back = rollback(*ON, settings=LONGER)
    assert back.code == 0, back.output[-6000:]
    assert "set them back, or the next deploy undoes this" in back.output
    assert deployed.leaks(back.output) == []
    assert state() == before
    assert models(deployed, HOST, "tiny") == 200
    assert drift() == (0, {})
    code, differs = drift(LONGER)
    assert (code, differs[COMPOSE]) == (3, "settings")
    verified = command("vllm-hosts", "verify", INVENTORY, "--host", HOST, "-q")
    assert verified.code == 0, verified.output[-4000:]
    line = last_run()
    assert (line["what"], line["ended"]) == ("rollback.py of lab.py", "done")
    # It goes back once for each deploy, and never forward.
    again = rollback(*ON, settings=LONGER)
    assert again.code == 1
    assert "the last deploy was taken back already" in again.output
    assert state() == before
    # Forward is a deploy.
    assert deploy(*ON, settings=LONGER).code == 0
    assert state() == forward


#: Kills Docker once Compose has told the old container to stop, which takes it some seconds.
KILLER = """systemd-run --collect -q --unit lab-killer bash -c '
until docker ps -a --format "{{.Names}}" | grep -q "^[0-9a-f]\\{12\\}_tiny$"; do sleep 0.05; done
sleep 0.3; kill -KILL $(cat /run/docker.pid)'"""


@pytest.mark.nightly
def test_a_docker_that_is_killed_while_an_agent_is_replaced(
    deployed: Deployed, in_line: None
) -> None:
    """The old container looks healthy, and is about to end: it is not taken for put back."""
    before = state()
    lab_hosts.run(HOST, KILLER)
    cut = deploy(*ON, settings=LONGER)
    assert cut.code == 1, cut.output[-6000:]
    assert "those of before are back" in cut.output, cut.output[-6000:]
    assert "Traceback" not in cut.output
    # As long as vLLM takes to end.
    time.sleep(25)
    assert state() == before
    assert models(deployed, HOST, "tiny") == 200
    assert faults.broken(HOST) == [] and faults.left(HOST) == []
    again = deploy(*ON, settings=LONGER)
    assert again.code == 0, again.output[-6000:]
    assert "Conflict" not in again.output
    # The same by hand.
    forward = state()
    lab_hosts.run(HOST, KILLER)
    back = rollback(*ON, settings=LONGER)
    assert back.code == 1, back.output[-6000:]
    time.sleep(25)
    assert state() == forward
    again = rollback(*ON, settings=LONGER)
    assert again.code == 0, again.output[-6000:]
    assert state() == before


@pytest.mark.nightly
@pytest.mark.parametrize("mends", ["deploy", "agents start", "agents restart"])
def test_a_docker_that_is_killed_as_agents_restart_replaces_one(
    deployed: Deployed, in_line: None, mends: str
) -> None:
    before = state()
    lab_hosts.run(HOST, KILLER)
    cut = command("vllm-hosts", "agents", INVENTORY, "restart", "tiny", "--host", HOST)
    assert cut.code == 1, cut.output[-6000:]
    # As long as vLLM takes to end.
    time.sleep(25)
    shown = lab_hosts.run(HOST, "docker ps -a --format '{{.Names}}'").stdout
    assert re.search("^[0-9a-f]{12}_tiny$", shown, re.M), shown
    words = ("vllm-hosts", "agents", INVENTORY, mends.rpartition(" ")[2], "tiny", "--host", HOST)
    mended = deploy(*ON) if mends == "deploy" else command(*words)
    assert mended.code == 0, mended.output[-6000:]
    assert state() == before
    assert models(deployed, HOST, "tiny") == 200
    assert deploy(*ON).code == 0
    assert faults.broken(HOST) == [] and faults.left(HOST) == []


@pytest.fixture
def next_image(deployed: Deployed) -> Iterator[None]:
    """A next version of the image on the host, made there of the first."""
    lab_hosts.run(
        HOST,
        f"id=$(docker create {layout.IMAGE}) &&"
        f" docker commit --change 'LABEL lab=next' $id {NEXT} && docker rm $id",
        timeout=200,
    )
    yield
    back = deploy(*ON)
    lab_hosts.run(HOST, f"docker image rm {NEXT} || :")
    assert back.code == 0, back.output[-4000:]


@pytest.mark.nightly
def test_an_image_goes_back_unless_it_is_gone(
    deployed: Deployed, in_line: None, next_image: None
) -> None:
    before = state()
    upgrade = {"vllm": {"image": NEXT}}
    assert deploy(*ON, settings=upgrade).code == 0
    forward = state()
    lab_hosts.run(HOST, f"docker tag {layout.IMAGE} lab/kept:1 && docker rmi {layout.IMAGE}")
    try:
        refused = rollback(*ON, settings=upgrade)
    finally:
        lab_hosts.run(HOST, f"docker tag lab/kept:1 {layout.IMAGE} && docker rmi lab/kept:1")
    assert refused.code == 1, refused.output[-4000:]
    assert f"their image {layout.IMAGE} is no longer on the host" in refused.output
    assert state() == forward
    back = rollback(*ON, settings=upgrade)
    assert back.code == 0, back.output[-6000:]
    assert state() == before
