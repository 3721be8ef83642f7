"""Models come before containers: from the lab's hub with the real client, and from this machine."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from lab import hosts as lab_hosts
from lab import layout, model, processes, services
from lab.settings import AGENTS
from tests.lab.conftest import HOSTS, Deployed
from tests.lab.deploys import Run, changes, deploy
from tests.lab.test_5_bad_hosts import assert_only_gpu2_failed, deploy_with
from tests.lab.watch import ArgumentWatch
from vllm_hosts.operations.hub import CONTAINER

CACHE = "/var/lib/vllm/huggingface/hub"
COPIED = "/srv/models/copied"


@pytest.fixture(scope="module", autouse=True)
def back_to_the_usual(deployed: Deployed) -> Iterator[None]:
    yield
    run = deploy()
    assert run.code == 0, run.output[-4000:]
    lab_hosts.run("gpu2", f"rm -rf {COPIED} {CACHE}/models--lab--slow")


def agent_of_gpu2() -> str:
    """Its container and whether it is well: the same text means that nothing touched it."""
    return lab_hosts.run(
        "gpu2",
        "docker inspect --format '{{.Id}} {{.State.StartedAt}} {{.State.Health.Status}}' tiny",
    ).stdout.strip()


def on_gpu2(**changed: Any) -> Run:
    """A deploy to gpu2, whose agent has these other settings."""
    agents = [AGENTS[0] | changed]
    return deploy("--limit", "gpu2", settings={"hosts": {"gpu2": {"agents": agents}}})


def asked_of_the_hub() -> list[str]:
    """Every request so far: method, path, range, status."""
    log = (processes.LOGS / "hub.log").read_text().splitlines()
    return [line.partition("] ")[2] for line in log if "] " in line]


def test_the_first_deploy_fetched_what_the_agent_runs(deployed: Deployed) -> None:
    words = lab_hosts.run("gpu1", "docker inspect --format '{{json .Args}}' spare").stdout
    assert f'"{layout.HUB_MODEL}"' in words and '"--revision","v1"' in words
    shown = lab_hosts.run("gpu1", "docker inspect --format '{{json .Config.Env}}' spare").stdout
    assert "HF_HUB_OFFLINE=1" in shown
    assert "HF_TOKEN" not in shown, "an agent has a token that it does not need"
    found = lab_hosts.run("gpu1", f"find -L {CACHE}/models--lab--tiny/snapshots -type f").stdout
    assert "/model.safetensors" in found and "/config.json" in found


def test_a_second_deploy_needs_no_hub(deployed: Deployed) -> None:
    processes.stop("hub")
    try:
        run = deploy()
    finally:
        services.up()
    assert run.code == 0, run.output[-4000:]
    assert changes(run) == dict.fromkeys(HOSTS, 0), run.output[-4000:]


def test_a_gated_model_without_a_token_leaves_the_running_agent_alone(deployed: Deployed) -> None:
    before = agent_of_gpu2()
    assert before.endswith(" healthy")
    run = deploy_with(agents=[AGENTS[0] | {"model": "lab/gated"}], secrets={"hf_token_env": None})
    assert_only_gpu2_failed(run, "lab/gated is gated and there is no token; accept its terms on")
    assert agent_of_gpu2() == before
    compose = lab_hosts.run("gpu2", "cat /opt/vllm/compose.yaml").stdout
    assert "lab/gated" not in compose, "a later start would take the model that is not there"


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"model": "lab/none"}, f"lab/none is not on {layout.HUB_URL}"),
        ({"model": "lab/tiny", "revision": "v9"}, "lab/tiny has no revision 'v9'"),
        ({"model": "lab/pickled"}, "lab/pickled has no safetensors, only pytorch_model.bin"),
    ],
)
def test_a_model_that_cannot_be_had(
    deployed: Deployed, changed: dict[str, Any], words: str
) -> None:
    before = agent_of_gpu2()
    run = on_gpu2(**changed)
    assert run.code != 0
    assert words in run.output, run.output[-4000:]
    assert "Traceback" not in run.output
    assert agent_of_gpu2() == before


@pytest.mark.nightly
def test_a_hub_that_does_not_answer(deployed: Deployed) -> None:
    before = agent_of_gpu2()
    processes.stop("hub")
    try:
        run = on_gpu2(model="lab/gated")
    finally:
        services.up()
    assert run.code != 0
    assert f"{layout.HUB_URL} cannot be reached from this host" in run.output, run.output[-4000:]
    assert agent_of_gpu2() == before


def test_a_killed_download_goes_on_where_it_stopped(deployed: Deployed) -> None:
    """The model is gated and comes slowly: what stops it is a kill, what ends it is a token."""
    before = agent_of_gpu2()
    token = deployed.canaries["token"].get_secret_value()
    with ArgumentWatch([token]) as watch, ThreadPoolExecutor(1) as pool:
        running = pool.submit(on_gpu2, model="lab/slow")
        deadline = time.monotonic() + 300
        partial = f"find {CACHE}/models--lab--slow -name '*.partial' -size +9M -printf '%s\\n'"
        while not lab_hosts.run("gpu2", partial, check=False).stdout:
            assert not running.done(), running.result().output[-4000:]
            assert time.monotonic() < deadline
            time.sleep(0.2)
        lab_hosts.run("gpu2", f"docker kill {CONTAINER}")
        run = running.result()
        assert run.code != 0
        said = "the download of lab/slow ended with 137; what came so far is kept, run again"
        assert said in run.output, run.output[-4000:]
        assert agent_of_gpu2() == before
        [have] = lab_hosts.run("gpu2", partial).stdout.split()
        assert int(have) >= 10_000_000
        run = on_gpu2(model="lab/slow")
    assert run.code == 0, run.output[-4000:]
    assert re.search(r"fetching lab/slow: \d+ s, 0\.0\d GB of 0\.06 GB", run.output)
    assert any(f" bytes={have}- 206" in line for line in asked_of_the_hub())
    assert agent_of_gpu2() != before
    assert agent_of_gpu2().endswith(" healthy")
    assert '"lab/slow"' in lab_hosts.run("gpu2", "docker inspect tiny").stdout
    assert watch.seen == []
    assert deployed.leaks(run.output) == []
    assert lab_hosts.run("gpu2", f"docker ps -aq --filter name={CONTAINER}").stdout == ""
    again = on_gpu2(model="lab/slow")
    assert changes(again) == {"gpu2": 0}, again.output[-4000:]


def test_a_model_is_copied_from_the_controller(deployed: Deployed) -> None:
    """For hosts that reach no hub; gpu2 is entered through sudo."""
    source = model.build()
    given = {"model": COPIED, "copy_from": str(source)}
    run = on_gpu2(**given)
    assert run.code == 0, run.output[-4000:]
    # Its vLLM was asked before the model was there, from what came over standard input.
    assert "could not be rehearsed" not in run.output, run.output[-4000:]
    assert agent_of_gpu2().endswith(" healthy")
    here = subprocess.run(
        ["sh", "-c", f"cd {source} && find . -type f | sort | xargs sha256sum"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    there = f"cd {COPIED} && find . -type f | sort | xargs sha256sum"
    assert lab_hosts.run("gpu2", there).stdout == here
    owners = lab_hosts.run("gpu2", f"find {COPIED} -printf '%U %m %y\\n' | sort -u").stdout
    assert set(owners.splitlines()) == {"0 755 d", "0 644 f"}
    assert lab_hosts.run("gpu2", f"ls -d {COPIED}.vllm-hosts-new", check=False).stdout == ""
    again = on_gpu2(**given)
    assert changes(again) == {"gpu2": 0}, again.output[-4000:]
    before = agent_of_gpu2()
    lab_hosts.run("gpu2", f"echo '{{}}' >{COPIED}/config.json")
    refused = on_gpu2(**given)
    assert refused.code != 0
    assert f"{COPIED} on the host is not the model in {source}" in refused.output
    assert agent_of_gpu2() == before
