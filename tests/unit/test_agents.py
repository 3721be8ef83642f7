"""What operating agents decides, and the scripts that it runs, by this machine's own shell."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Collection, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pyinfra.api.command import StringCommand
from rich.console import Console

from tests.unit.fakes import docker, inspected
from tests.unit.samples import QWEN, settings
from vllm_hosts.agents import actions as operations
from vllm_hosts.agents.actions import Plan, planned, restart
from vllm_hosts.agents.status import Drained, status_json, status_table
from vllm_hosts.errors import HostError
from vllm_hosts.facts.agents import AgentsInspected
from vllm_hosts.facts.base import END
from vllm_hosts.host.containers import Container
from vllm_hosts.host.rotation import Balancer, Server
from vllm_hosts.operations.edge import taken_up
from vllm_hosts.operations.rotation import Rotation
from vllm_hosts.settings.fleet import Replica

TWIN = QWEN | {"name": "twin", "port": 8002, "gpus": [1], "served_model_name": "qwen"}
ONE = Container("one", "running", "healthy")
NOWHERE = Rotation("gpu1")
STARTED = datetime(2026, 11, 25, 7, 1, 2, tzinfo=UTC)


def asked(*names: str) -> AgentsInspected:
    fact = AgentsInspected()
    assert fact.command(agents=list(names))
    return fact


def test_what_nobody_asked_for_is_not_shown() -> None:
    lines = [json.dumps(inspected(name)) for name in ("one", "\x1b]0;owned\x07", "two")]
    assert [*asked("two", "gone").process(["== containers", *lines, END])] == ["two", "gone"]


def test_a_container_as_docker_describes_it() -> None:
    found = asked("one", "two", "gone").process(
        ["== containers", json.dumps(inspected("one"))]
        + [json.dumps(inspected("two", "exited", None)), END]
    )
    one, two = found["one"], found["two"]
    assert (one.state, one.health, one.since, one.ended_with) == (
        "running", "healthy", STARTED, None,
    )  # fmt: skip
    assert (one.restarts, one.image, one.model) == (2, "vllm/vllm-openai:v0.33.0", "org/model")
    assert (one.service, one.config_hash, one.ours, len(one.id)) == ("one", "abc", True, 64)
    assert (two.state, two.health, two.ended_with) == ("exited", None, 137)
    assert two.since == datetime(2026, 11, 25, 8, tzinfo=UTC), "when it ended"
    assert found["gone"] == Container("gone")
    assert [agent.well for agent in found.values()] == [True, False, False]


def test_a_container_that_never_started_has_no_time() -> None:
    made = inspected("one", "created", None) | {"finished": "0001-01-01T00:00:00Z"}
    found = asked("one").process(["== containers", json.dumps(made), END])
    assert found["one"].since is None


def test_no_environment_is_asked_for() -> None:
    """Keys are in containers' environments: what is inspected must not bring them here."""
    assert "Env" not in AgentsInspected().command(agents=["one"])


def test_starting_is_not_well() -> None:
    assert not Container("one", "running", "starting").well
    assert not Container("one", "running", "unhealthy").well
    assert Container("one", "running", None).well


def test_only_a_healthy_twin_answers_meanwhile() -> None:
    other = TWIN | {"name": "other", "port": 8003, "gpus": [2], "model": "Qwen/Qwen3-14B"}
    host = settings(agents=[QWEN, TWIN, other], edge={"by_model": False})
    assert host.twins("qwen") == ("twin",)
    assert host.twins("other") == ()
    well = {name: Container(name, "running", "healthy") for name in ("qwen", "twin", "other")}
    assert planned(host, "qwen", well) == Plan("qwen", "twin")
    assert planned(host, "other", well) == Plan("other", None)
    for state, health in (("running", "starting"), ("exited", None), ("absent", None)):
        found = well | {"twin": Container("twin", state, health)}
        assert planned(host, "qwen", found) == Plan("qwen", None)


def test_nothing_is_known_of_a_host_without_an_answer() -> None:
    rows = status_json(
        {"gpu1": ["one"], "gpu2": ["one", "two"]},
        {"gpu1": {"one": ONE}, "gpu2": HostError("cannot be reached")},
    )
    assert [(row["host"], row["agent"], row["state"], row["error"]) for row in rows] == [
        ("gpu1", "one", "running", None),
        ("gpu2", "one", None, "cannot be reached"),
        ("gpu2", "two", None, "cannot be reached"),
    ]
    assert {tuple(row) for row in rows} == {
        ("host", "agent", "state", "health", "since", "exit_code", "restarts", "image", "model")
        + ("error",)
    }


@pytest.mark.parametrize(
    ("passed", "shown"),
    [
        (timedelta(seconds=-5), "0 min"),
        (timedelta(minutes=59), "59 min"),
        (timedelta(hours=47), "47 h"),
        (timedelta(days=3), "3 days"),
    ],
)
def test_since_when(passed: timedelta, shown: str) -> None:
    console = Console(width=200, color_system=None)
    agent = Container("one", "running", "healthy", started=STARTED)
    with console.capture() as capture:
        console.print(status_table({"gpu1": {"one": agent}}, STARTED + passed))
    assert f"  {shown}  " in capture.get()


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a restart did on its host, in order. All agents there are healthy, the edge runs."""
    did: list[str] = []

    def carry_out(commands: Iterable[StringCommand]) -> None:
        for command in commands:
            text = command.get_raw_value()
            kinds = {"--force-recreate": "recreate", "Config.Env": "take up", "targets": "divert"}
            did.append(next(kind for words, kind in kinds.items() if words in text))

    def answer(fact: object, **arguments: list[str]) -> object:
        well = {name: Container(name, "running", "healthy") for name in arguments.get("agents", [])}
        return well if fact is AgentsInspected else True

    monkeypatch.setattr(operations, "carry_out", carry_out)
    monkeypatch.setattr(operations, "ask_host", answer)
    monkeypatch.setattr(operations, "wait_healthy", lambda *_: did.append("wait"))
    monkeypatch.setattr(operations, "_say", lambda _: None)
    return did


def test_an_agent_with_a_twin_restarts_behind_it(done: list[str]) -> None:
    restart(settings(agents=[QWEN, TWIN]), "qwen", NOWHERE)
    assert done == ["divert", "recreate", "wait", "take up"]


def test_an_agent_without_a_twin_gets_its_key_before_it_answers(done: list[str]) -> None:
    restart(settings(agents=[QWEN]), "qwen", NOWHERE)
    assert done == ["recreate", "take up", "wait"]


def test_a_twin_goes_on_answering_for_an_agent_that_does_not_come_back(
    done: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise HostError("agent qwen is exited")

    monkeypatch.setattr(operations, "wait_healthy", fail)
    with pytest.raises(HostError):
        restart(settings(agents=[QWEN, TWIN]), "qwen", NOWHERE)
    assert done == ["divert", "recreate"]


class Gates(Rotation):
    """Gateways that write down what they are told, among what is done on the host."""

    def __init__(self, did: list[str]) -> None:
        super().__init__("gpu1")
        vars(self)["did"] = did

    def out(self, agents: Collection[str], **_: object) -> None:
        vars(self)["did"].append(f"out {' '.join(agents)}")

    def back(self, agents: Collection[str], **_: object) -> None:
        vars(self)["did"].append(f"back {' '.join(agents)}")


def test_behind_gateways_it_gets_no_requests_until_it_answers(done: list[str]) -> None:
    restart(settings(agents=[QWEN, TWIN]), "qwen", Gates(done))
    assert done == ["out qwen", "divert", "recreate", "wait", "take up", "back qwen"]
    done.clear()
    restart(settings(agents=[QWEN]), "qwen", Gates(done))
    assert done == ["out qwen", "recreate", "take up", "wait", "back qwen"]


def test_behind_gateways_agents_stop_once_nothing_runs(
    done: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operations, "carry_out", lambda commands: done.append("stop"))
    operations.stop(settings(agents=[QWEN, TWIN]), ["qwen", "twin"], Gates(done))
    assert done == ["out qwen twin", "stop"]


def test_behind_gateways_what_starts_gets_requests_again(done: list[str]) -> None:
    operations.start(settings(agents=[QWEN]), ["qwen"], Gates(done))
    assert done == ["wait", "back qwen"]


def test_what_is_drained_is_shown() -> None:
    server = Replica("gpu1", "one", "", 0).server
    drained = Server("one", server, up=True, drained=True, running=0)
    taking = Server("one", server, up=True, drained=False, running=0)
    seen = Drained(
        {
            "gw1": Balancer((drained,)), "gw2": Balancer((taking,)), "gw3": None,
            "gw4": HostError("cannot be reached"),
        }
    )  # fmt: skip
    [row] = status_json({"gpu1": ["one"]}, {"gpu1": {"one": ONE}}, seen)
    assert row["drained"] == ["gw1"]
    [row] = status_json({"gpu2": ["one"]}, {"gpu2": {"one": ONE}}, seen)
    assert row["drained"] == []
    console = Console(width=200, color_system=None)
    with console.capture() as capture:
        console.print(status_table({"gpu1": {"one": ONE}, "gpu2": {"one": ONE}}, STARTED, seen))
    assert [line.split()[2:4] for line in capture.get().splitlines()[1:]] == [
        ["running,", "drained"],
        ["running", "healthy"],
    ]


def take_up(folder: Path, environment: str) -> subprocess.CompletedProcess[str]:
    """The script that follows a restart, with nginx and systemd that only write down."""
    search = docker(folder, f"printf '%s\\n' {environment}")
    for name in ("nginx", "systemctl"):
        (folder / "bin" / name).write_text(f'#!/bin/sh\necho {name} "$@" >>{folder}/did\nexit 3\n')
        (folder / "bin" / name).chmod(0o755)
    (folder / "bin/nginx").write_text(f"#!/bin/sh\necho nginx >>{folder}/did\n")
    script = taken_up("one", folder=str(folder)).get_raw_value()
    return subprocess.run(
        ["sh", "-c", script], env=search, capture_output=True, text=True, check=False
    )


OTHERS = 'vllm_hosts_one-more "key-of-one-more";\n'


def test_the_edge_gets_the_key_that_the_container_has(tmp_path: Path) -> None:
    (tmp_path / "internal.map").write_text(f'{OTHERS}vllm_hosts_one "old";\n')
    (tmp_path / "targets.map").write_text("one vllm_hosts_two;\none-more vllm_hosts_two;\n")
    done = take_up(tmp_path, "PATH=/bin VLLM_API_KEY=sk-new X=1")
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "")
    assert (tmp_path / "internal.map").read_text() == f'vllm_hosts_one "sk-new";\n{OTHERS}'
    assert (tmp_path / "targets.map").read_text() == "one-more vllm_hosts_two;\n"
    assert (tmp_path / "internal.map").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "did").read_text().startswith("nginx\nsystemctl")
    assert not list(tmp_path.glob("*.new"))
    (tmp_path / "did").unlink()
    assert take_up(tmp_path, "VLLM_API_KEY=sk-new").returncode == 0
    assert not (tmp_path / "did").exists(), "nothing differs, so nothing is reloaded"


@pytest.mark.parametrize("environment", ["PATH=/bin", "VLLM_API_KEY=", "'VLLM_API_KEY=a\";b'"])
def test_a_key_that_the_edge_cannot_send_changes_nothing(tmp_path: Path, environment: str) -> None:
    (tmp_path / "internal.map").write_text(f'{OTHERS}vllm_hosts_one "old";\n')
    done = take_up(tmp_path, environment)
    assert done.returncode == 1
    assert done.stderr == "agent one has no VLLM_API_KEY that the edge can send\n"
    assert (tmp_path / "internal.map").read_text() == f'{OTHERS}vllm_hosts_one "old";\n'
    assert not (tmp_path / "did").exists()
    assert not list(tmp_path.glob("*.new"))
