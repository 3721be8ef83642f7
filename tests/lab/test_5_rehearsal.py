"""Agents that their own vLLM refuses, beside those that run."""

from __future__ import annotations

import time
from typing import Any

import pytest

from lab import hosts as lab_hosts
from lab import model
from lab.settings import AGENTS
from tests.lab.asked import asked
from tests.lab.conftest import HOSTS, Deployed
from tests.lab.deploys import INVENTORY, command, deploy
from tests.lab.traffic import Traffic

#: For one deploy that is rejected, beside what a deploy takes where nothing changes.
SECONDS = 60
TINY, SPARE = AGENTS


def running(host: str) -> str:
    """Identity, process and start of every agent of a host."""
    what = "{{.Name}} {{.Id}} {{.State.Pid}} {{.State.StartedAt}}"
    return lab_hosts.run(
        host, f"docker ps -q | sort | xargs docker inspect --format '{what}'"
    ).stdout


def left(host: str) -> str:
    """What a rehearsal could have left on a host."""
    return lab_hosts.run(
        host,
        "docker ps --all --format '{{.Names}}' | grep rehearsal; ls /run | grep rehearsal;"
        " docker network ls --format '{{.Name}}' | grep fetch || :",
    ).stdout


def words(agent: dict[str, Any], *more: str) -> dict[str, Any]:
    """An agent with further arguments."""
    return agent | {"extra_args": [*agent["extra_args"], *more]}


def test_what_vllm_refuses_touches_no_agent(deployed: Deployed) -> None:
    """Three agents on two hosts, each with another mistake: one deploy."""
    before = {host: running(host) for host in HOSTS}
    run = deploy(
        settings={
            "hosts": {
                "gpu1": {
                    "agents": [words(TINY, "--no-such-argument"), words(SPARE, "--dtype", "x")]
                },
                "gpu2": {"agents": [TINY | {"tool_call_parser": "nobody"}]},
            }
        }
    )
    assert run.code != 0 and "Traceback" not in run.output, run.output[-6000:]
    for said in (
        "agent 'tiny': vLLM would not start with this: unrecognized arguments:",
        "change extra_args (--no-such-argument)",
        "agent 'spare': vLLM",
        "change extra_args (--dtype)",
        "invalid tool call parser: nobody",
        "change tool_call_parser",
        "its container was not touched",
    ):
        assert said in run.output, run.output[-6000:]
    assert {host: running(host) for host in HOSTS} == before
    assert [left(host) for host in HOSTS] == ["", ""]
    assert asked(deployed, "/tiny/v1/models").status_code == 200


REJECTED: list[dict[str, Any]] = [
    TINY | {"max_model_len": 65536},
    TINY | {"quantization": "none-such"},
    TINY | {"tool_call_parser": "nobody"},
    *(
        words(TINY, *more)
        for more in (
            ("--no-such-argument",),
            ("--swap-space", "4"),
            ("--rope-scaling", "{}"),
            ("--dtype", "x"),
            ("--seed", "x"),
            ("--runner", "none-such"),
            ("--convert", "nothing"),
            ("--max-num-seqs", "many"),
            ("--max-num-seqs", "0"),
            ("--kv-cache-dtype", "fp9"),
            ("--kv-cache-dtyp", "fp8"),
            ("--scheduling-policy", "none-such"),
            ("--attention-backend", "NOPE"),
            ("--speculative-config", "{"),
            ("--compilation-config", '{"level": 99}'),
            ("--reasoning-parser", "nobody"),
            ("--hf-overrides", '{"architectures": ["NoSuchForCausalLM"]}'),
        )
    ),
]


@pytest.mark.nightly
def test_an_agent_under_load_outlives_rejected_deploys(deployed: Deployed) -> None:
    before = {host: running(host) for host in HOSTS}
    url = f"https://{deployed.settings['gpu1'].address}/tiny/v1"
    clients = [("default", deployed.client_key)]
    traffic = Traffic(url, "tiny", deployed.ca_file, clients, pause=0.5)
    refused = 0
    with traffic:
        for agent in REJECTED:
            began = time.monotonic()
            run = deploy(settings={"hosts": {"gpu1": {"agents": [agent, SPARE]}}})
            assert time.monotonic() - began < SECONDS
            assert {host: running(host) for host in HOSTS} == before, agent
            refused += run.code != 0 and "would not start" in run.output
    assert refused == len(REJECTED)
    assert traffic.asked and {one.status for one in traffic.asked} == {200}
    assert left("gpu1") == ""


@pytest.mark.nightly
def test_what_is_accepted_is_asked_once(deployed: Deployed) -> None:
    """The second time the controller remembers it, and nobody is asked where nothing changes."""
    changed = {"hosts": {"gpu2": {"agents": [TINY | {"max_model_len": 768}]}}}
    assert deploy(settings=changed).code == 0
    assert deploy().code == 0
    again = deploy(settings=changed)
    assert again.code == 0 and "could not be rehearsed" not in again.output
    assert deploy().code == 0


@pytest.mark.nightly
def test_memory_that_others_hold_touches_no_agent(deployed: Deployed) -> None:
    """A deploy refuses whom it would start, and tells everybody else; so does the plan."""
    before = {host: running(host) for host in HOSTS}
    card = "nvidia-smi --query-gpu=uuid --format=csv,noheader | head -n 1"
    apps = "/etc/lab-gpu-apps.csv"
    changed = {"hosts": {"gpu1": {"agents": [TINY | {"max_model_len": 768}, SPARE]}}}
    said = "97.7 GiB of GPU 0 are in use by systemd (pid 1), not by an agent of ours"
    lab_hosts.run("gpu1", f'echo "1, 99999, $({card})" >{apps}')
    try:
        run = deploy(settings=changed)
        assert run.code != 0 and said in run.output, run.output[-6000:]
        assert "its container was not touched" in run.output
        same = deploy()
        assert same.code == 0 and said in same.output, same.output[-6000:]
        plan = command("vllm-hosts", "plan", INVENTORY, "--host", "gpu1")
        assert plan.code == 3 and "in use by systemd (pid 1)" in " ".join(plan.output.split())
        assert {host: running(host) for host in HOSTS} == before
        # A process of the agent's own container is not somebody else.
        pid = lab_hosts.run("gpu1", "docker inspect --format '{{.State.Pid}}' tiny").stdout.strip()
        lab_hosts.run("gpu1", f"sed -i 's/^1,/{pid},/' {apps}")
        assert command("vllm-hosts", "plan", INVENTORY, "--host", "gpu1").code == 0
    finally:
        lab_hosts.run("gpu1", f"rm -f {apps}")


@pytest.mark.nightly
def test_a_model_that_will_be_copied_is_refused_before_it_is(deployed: Deployed) -> None:
    """gpu2 is entered through sudo; the files come over standard input."""
    late = "/srv/models/late"
    before = {host: running(host) for host in HOSTS}
    agent = TINY | {"model": late, "copy_from": str(model.build()), "max_model_len": 65536}
    run = deploy("--limit", "gpu2", settings={"hosts": {"gpu2": {"agents": [agent]}}})
    assert run.code != 0 and "User-specified max_model_len" in run.output, run.output[-6000:]
    assert lab_hosts.run("gpu2", f"ls -d {late}*", check=False).stdout == ""
    assert {host: running(host) for host in HOSTS} == before
    assert left("gpu2") == ""
