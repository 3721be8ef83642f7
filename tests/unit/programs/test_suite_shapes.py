"""The hosts suite with every shape of inventory: each promise of each host ends as kept, broken,
not checked or does not apply, and pytest itself never breaks."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Collection, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.unit.examples import examples
from tests.unit.projects import AGENT, BIN, Project
from tests.unit.ssh_server import SshServer, ssh_server
from vllm_hosts.verify.promises import promises
from vllm_hosts.verify.report.results import ORDER


def _agent(number: int, gpu: bool, exposed: bool, fetches: bool) -> dict[str, Any]:
    made: dict[str, Any] = dict(AGENT, name=f"agent-{number}", port=8001 + number, gpus=[])
    if gpu:
        made["gpus"] = [number]
    if exposed:
        made["expose"] = {"networks": ["10.0.0.0/8"], "unguarded_routes": "accepted"}
    if fetches:
        made["egress"] = {"networks": ["10.0.0.0/8"], "names": True}
        made["allowed_media_domains"] = ["images.example.com"]
    return made


agents = st.lists(
    st.tuples(st.booleans(), st.booleans(), st.booleans()), min_size=1, max_size=3
).map(lambda found: [_agent(number, *words) for number, words in enumerate(found)])
hosts = st.fixed_dictionaries(
    {"agents": agents},
    optional={
        "edge": st.just({"names": ["llm.example.com"], "allow_from": ["127.0.0.0/8"]}),
        "ssh_hardening": st.just({"enabled": True}),
        "docker": st.just({"source": "distro"}),
        "_sudo": st.booleans(),
    },
)
inventories = st.tuples(st.lists(hosts, min_size=1, max_size=3), st.booleans())


def verified(
    folder: Path,
    inventory: str,
    *words: str,
    chosen: Collection[str] = (),
    programs: Path | None = None,
) -> dict[str, Any]:
    project = Project(folder)
    if programs is not None:
        project.environment = {"PATH": f"{programs}:{os.environ['PATH']}"}
    project.write("inventory/prod.py", inventory)
    done = project.run(
        *("vllm-hosts", "verify", "inventory/prod.py", "--ports", "1-2"),
        *("--report", str(folder / "report"), *words),
    )
    assert "INTERNALERROR" not in done.stdout, done.stdout
    assert "Traceback" not in done.stdout, done.stdout
    assert done.returncode == 1, done.stdout
    report: dict[str, Any] = json.loads((folder / "report" / "report.json").read_text())
    for host in report["hosts"]:
        assert set(host["promises"]) == set(chosen or promises())
        assert {found["outcome"] for found in host["promises"].values()} <= set(ORDER)
    return report


@settings(max_examples=examples(2), deadline=None, suppress_health_check=list(HealthCheck))
@given(inventories)
def test_hosts_that_nobody_can_reach(shape: tuple[list[dict[str, Any]], bool]) -> None:
    made, neighbour = shape
    data: list[tuple[str, dict[str, Any]]] = [
        (f"gpu{number}", {"ssh_hostname": f"127.0.0.{number + 1}", "ssh_port": 1} | host)
        for number, host in enumerate(made)
    ]
    text = f"gpu_hosts = {data!r}\n"
    if neighbour:
        text += "neighbours = [('near', {'ssh_hostname': '127.0.0.9', 'ssh_port': 1})]\n"
    with tempfile.TemporaryDirectory() as folder:
        report = verified(Path(folder), text)
    assert [host["name"] for host in report["hosts"]] == [name for name, _ in data]
    for (_, settings_), host in zip(data, report["hosts"], strict=True):
        outcomes = {found["outcome"] for found in host["promises"].values()}
        assert outcomes <= {"not checked", "does not apply"}
        gpus = any(agent["gpus"] for agent in settings_["agents"])
        if not gpus:
            assert host["promises"]["GPU-03"]["outcome"] == "does not apply"


def test_gateways_that_nobody_can_reach() -> None:
    made = {"agents": [{"name": "tiny", "model": "org/tiny", "port": 8001, "gpus": [0]}]}
    text = (
        "gateways = [('gw1', {'ssh_hostname': '127.0.0.8', 'ssh_port': 1})]\n"
        f"gpu_hosts = [('gpu1', {{'ssh_hostname': '127.0.0.9', 'ssh_port': 1}} | {made!r})]\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        report = verified(Path(folder), text)
    found = {
        host["name"]: {name: seen["outcome"] for name, seen in host["promises"].items()}
        for host in report["hosts"]
    }
    # No agent runs on a gateway, and only it has a balancer.
    for name in ("DOCKER-01", "AGENT-01", "GPU-03", "SEC-01", "GW-01", "GW-02"):
        assert found["gw1"][name] == "does not apply", name
    for name in ("EDGE-04", "TLS-01", "KEY-01", "LOG-01", "NET-01", "GW-03", "GW-04", "GW-05"):
        assert found["gw1"][name] == "not checked", name
    assert found["gpu1"]["GW-03"] == "does not apply"
    for name in ("DOCKER-01", "AGENT-01", "GPU-03", "GW-01", "GW-02", "GW-04", "GW-05"):
        assert found["gpu1"][name] == "not checked", name
    assert [host["agents"] == [] for host in report["hosts"]] == [True, False]


#: What hosts with answers of every kind are asked: without the look from outside, and without what
#: searches all of this machine's files and processes.
_LOOKED_AT = [
    one
    for one in promises()
    if one.partition("-")[0] in ("AGENT", "DOCKER", "GPU", "HOST", "KEY", "NET", "OWN", "SSH")
    and one not in ("HOST-02", "NET-08", "NET-09", "NET-10", "NET-11", "NET-12")
]
#: Programs that promises ask, each with whatever comes.
_ASKED = (
    *("apt-mark", "docker", "dpkg-query", "getent", "ip", "nft", "nvidia-smi", "ss", "sshd"),
    *("stat", "systemctl"),
)
odd_programs = st.fixed_dictionaries(
    dict.fromkeys(
        _ASKED,
        st.sampled_from(
            [
                "exit 1",
                "echo 'cannot do that' >&2; exit 125",
                "exit 0",
                "echo '{}'",
                "echo '[]'",
                "echo null",
                "echo; echo 'a b c: d'; echo '-1'",
                "printf '\\377\\376\\n'",
            ],
        ),
    )
)
#: By host: what `date` does there, and how the promise about the clock ends.
_CLOCKS = {
    "right": ('exec /bin/date "$@"', "kept"),
    "wrong": ("echo 86400.5", "broken"),
    "silent": ("echo 'no clock' >&2; exit 1", "not checked"),
    "text": ("echo noon", "not checked"),
}


@pytest.fixture(scope="module")
def reached(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, SshServer]]:
    """Hosts by name: four clocks, and one that hangs up after some commands."""
    folder = tmp_path_factory.mktemp("reached")
    with ExitStack() as stack:
        made = {name: stack.enter_context(ssh_server(folder / name)) for name in _CLOCKS}
        for name, (script, _) in _CLOCKS.items():
            made[name].program("date", script)
        made["cut"] = stack.enter_context(ssh_server(folder / "cut", cut_after=4))
        yield made


@settings(
    max_examples=examples(1),
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(st.lists(odd_programs, min_size=5, max_size=5), st.lists(agents, min_size=5, max_size=5))
def test_hosts_that_are_reached(
    reached: dict[str, SshServer], programs: list[dict[str, str]], made: list[list[dict[str, Any]]]
) -> None:
    """Whatever they answer: kept, broken, not checked, does not apply."""
    data = []
    for number, (name, server) in enumerate(reached.items(), 1):
        for program, script in programs[number - 1].items():
            server.program(program, script)
        host = server.data(number, agents=made[number - 1], edge={"https_port": 1, "http_port": 2})
        data.append((name, host))
    words = [word for one in _LOOKED_AT for word in ("--promise", one)]
    with tempfile.TemporaryDirectory() as folder:
        report = verified(Path(folder), f"gpu_hosts = {data!r}\n", *words, chosen=_LOOKED_AT)
    found = {host["name"]: host["promises"] for host in report["hosts"]}
    for name, (_, outcome) in _CLOCKS.items():
        assert found[name]["HOST-01"]["outcome"] == outcome, found[name]["HOST-01"]
    assert "not checked" in {one["outcome"] for one in found["cut"].values()}
    for (name, _), settings_ in zip(data, made, strict=True):
        applies = found[name]["GPU-03"]["outcome"] != "does not apply"
        assert applies == any(agent["gpus"] for agent in settings_)
        # Each outcome but "kept" has its reason.
        assert all(one["why"] for one in found[name].values() if one["outcome"] != "kept")


#: In the place of find: instead of all files, of which there may be many, it searches a few.
_FIND = """#!/bin/sh
[ "$1" != / ] || { shift; set -- /usr/bin "$@"; }
exec /usr/bin/find "$@"
"""


# All processes of this machine are searched once.
@pytest.mark.parametrize(("gpus", "chosen"), [([], []), ([0], _LOOKED_AT)], ids=["gpus0", "gpus1"])
def test_this_machine_with_nothing_deployed(
    tmp_path: Path, gpus: list[int], chosen: list[str]
) -> None:
    host = {
        "ssh_hostname": "127.0.0.1",
        "agents": [dict(AGENT, gpus=gpus)],
        "edge": {"https_port": 65001, "http_port": 65002},
    }
    words = [word for one in chosen for word in ("--promise", one)]
    (tmp_path / "programs").mkdir()
    (tmp_path / "programs/find").write_text(_FIND)
    (tmp_path / "programs/find").chmod(0o755)
    report = verified(
        tmp_path,
        f"gpu_hosts = [('@local', {host!r})]\n",
        *words,
        chosen=chosen,
        programs=tmp_path / "programs",
    )
    [found] = report["hosts"]
    assert {one["outcome"] for one in found["promises"].values()} >= {"not checked"}
    applies = found["promises"]["GPU-03"]["outcome"] != "does not apply"
    assert applies == bool(gpus)


def test_one_host_of_two_that_has_no_gpu(tmp_path: Path) -> None:
    """What was a KeyError in pytest's own words."""
    data = [
        ("gpu1", {"ssh_hostname": "127.0.0.1", "ssh_port": 1, "agents": [AGENT]}),
        ("cpu1", {"ssh_hostname": "127.0.0.2", "ssh_port": 1, "agents": [dict(AGENT, gpus=[])]}),
    ]
    report = verified(tmp_path, f"gpu_hosts = {data!r}\n", "--host", "cpu1")
    [found] = report["hosts"]
    assert found["promises"]["GPU-03"] == {
        "outcome": "does not apply",
        "why": ["no agent of this host has a GPU"],
    }


def test_a_red_report_names_the_inventory_s_file_and_says_one_reason_once(tmp_path: Path) -> None:
    """O16."""
    project = Project(tmp_path)
    project.write(
        "inventory/prod.py", "gpu_hosts = [('a', {'ssh_hostname': '127.0.0.1', 'ssh_port': 1})]\n"
    )
    # The installed program, whose pytest is a process of its own and no fork.
    verify = (str(BIN / "vllm-hosts"), "verify", "inventory/prod.py", "--ports", "1-2")
    done = project.run(*verify)
    assert done.returncode == 1
    assert "promises not checked on a\n" in done.stdout
    # pytest's own line of progress and its last one are beside it.
    before, _, said = done.stdout.partition("promises not checked on a\n")
    [reason, *rest] = said.splitlines()
    assert reason.startswith("    a: cannot be reached: 127.0.0.1 refuses connections to port 1;")
    assert "refuses connections" not in before + "".join(rest)
    # What was looked at from here has reasons of its own, each once.
    assert done.stdout.count("there is no key store for the inventory") == 1, done.stdout
    assert "[Errno 2]" not in done.stdout, done.stdout
    headings = [line for line in done.stdout.splitlines() if line.startswith("? ")]
    assert len(headings) < 8, done.stdout
    assert "INVENTORY" not in done.stdout
