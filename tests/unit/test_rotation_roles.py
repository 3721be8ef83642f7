"""Roles on a host behind gateways: when its agents are drained, and when they are put back."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.fleets import fleet
from tests.unit.recording import InLine, Recorder
from tests.unit.test_removal_plan import AGENT, removal
from tests.unit.test_role_removal import leaving, remove_py
from vllm_hosts.host import probe
from vllm_hosts.host.rotation import Balancer, Member
from vllm_hosts.keys import KeyStore
from vllm_hosts.operations.balancers import Gate
from vllm_hosts.project.loaded import Project
from vllm_hosts.project.rotation import rotation_of
from vllm_hosts.roles.rotation import rotation
from vllm_hosts.roles.vllm import vllm
from vllm_hosts.settings.fleet import GatewayHost, host_label


def behind(recorder: Recorder, **mine: bool) -> Recorder:
    """The same host behind two gateways, with another one beside it."""
    host = recorder.host
    front = tuple(GatewayHost(name, ()) for name in ("gw1", "gw2"))
    host.settings = host.settings.model_copy(update={"gateways": front})
    labels = {host_label(host.settings.name): mine, "h0123": {}}
    servers = tuple(
        Member(agent.name, f"{agent.name}.{label}", True, how.get("drained", False), 0)
        for agent in host.settings.agents
        for label, how in labels.items()
    )
    recorder.balancers = {"gw1": Balancer(servers), "gw2": Balancer(servers)}
    recorder.edge = lambda path: 200
    return recorder


def states(recorder: Recorder) -> list[tuple[str, str]]:
    """What gateways were told, in order: drain or ready."""
    return [
        (gate, "ready" if " state ready" in script else "drain") for gate, script in recorder.told
    ]


def test_an_agent_that_changes_is_out_of_rotation_meanwhile(in_line: InLine) -> None:
    made = behind(in_line())
    found = made.host.facts["ComposeProject"]
    wanted = found.wanted | {"coder": "h9"}
    made.host.facts["ComposeProject"] = replace(found, wanted=wanted)
    made.host.after = {}
    done = made.run(vllm)
    assert not done.failed, done.said
    assert states(made) == [
        ("gw1", "drain"), ("gw2", "drain"), ("gw1", "ready"), ("gw2", "ready"),
    ]  # fmt: skip
    # The one that does not change goes on.
    assert all("set server coder/coder." in script for _, script in made.told)
    assert not any("qwen/" in script for _, script in made.told)
    said = [line for line in done.said if "request" in line]
    assert said == [
        "gw1, gw2: no new requests to coder",
        "coder: no request runs, after 0 s",
        "gw1, gw2: requests go to coder again",
    ]
    assert (
        "their requests go to other hosts meanwhile, where gateways know one that answers"
        in done.effects
    )


def test_what_a_run_left_drained_is_put_back_and_nothing_changes(in_line: InLine) -> None:
    made = behind(in_line(), drained=True)
    done = made.run(rotation)
    assert not done.failed
    assert states(made) == [("gw1", "ready"), ("gw2", "ready")]
    assert done.names == ["Rotation | Gateways send requests to the agents"]
    assert done.changed == []
    made.told.clear()
    assert made.run(rotation).changed == []
    assert made.told == []


def test_one_that_does_not_answer_stays_out_and_fails_its_host(
    in_line: InLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vllm_hosts.operations.rotation._ASKED_EVERY", 0)
    made = behind(in_line(), drained=True)
    made.edge = lambda path: 502
    done = made.run(rotation)
    assert done.failed
    assert made.told == []
    assert any("gets no requests from gateways" in line for line in done.said)


def test_a_host_without_gateways_has_no_such_step(in_line: InLine) -> None:
    assert in_line().run(rotation).names == []


def test_a_host_is_drained_before_anything_of_it_goes(in_line: InLine) -> None:
    made = behind(leaving(in_line(), removal(AGENT).remains))
    done = made.run(remove_py)
    names = [name.partition(" | ")[2] for name in done.names]
    assert states(made) == [("gw1", "drain"), ("gw2", "drain")]
    assert names.index("Gateways send no requests here") < names.index("No timer of ours runs")


# What the host's own edge says.


def project(folder: Path) -> Project:
    """Two gateways in front of two hosts."""
    file = folder / "inventory" / "prod.py"
    file.parent.mkdir()
    file.touch()
    made = Project(file, None, KeyStore(file))  # type: ignore[arg-type]
    vars(made).update(settings=fleet())
    return made


def test_a_rotation_knows_its_gateways(tmp_path: Path) -> None:
    made = project(tmp_path)
    found = rotation_of(made, "gpu1")
    assert found.gates == (Gate("gw1", "192.0.2.1", 443), Gate("gw2", "192.0.2.2", 443))
    assert found.timeout == 600
    assert found.server("qwen") == made.settings["gw1"].pool("qwen").replicas[0].server
    assert rotation_of(made, "gw1").gates == ()
    assert made.on_hosts == {"qwen": 2, "coder-14b": 1}


MODELS = {"data": [{"id": "qwen"}]}


@pytest.mark.parametrize(
    ("answers", "why"),
    [
        ({"/qwen/v1/completions": 200}, None),
        # This run's key comes to the edge later.
        ({"/qwen/v1/completions": 401}, None),
        ({"/qwen/v1/completions": 502}, "/v1/completions gives 502"),
        ({"/qwen/v1/completions": 400, "/qwen/v1/embeddings": 200}, None),
        ({"/qwen/v1/completions": 400, "/qwen/v1/embeddings": 500}, "/v1/embeddings gives 500"),
        ({"/qwen/v1/models": 200}, None),
        ({"/qwen/v1/models": 404}, "/v1/models gives 404 without qwen"),
        ({}, "no connection"),
    ],
)
def test_the_host_s_own_edge_has_to_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answers: dict[str, int], why: str | None
) -> None:
    made = project(tmp_path)
    bodies = []

    class Visit:
        def __init__(self, address: str, port: int, **how: object) -> None:
            assert (address, port, how["name"]) == ("192.0.2.11", 443, "192.0.2.11")

        def __enter__(self) -> Visit:
            if not answers:
                raise OSError("no connection")
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def __call__(self, path: str, **words: object) -> probe.Response:
            [key] = made.keys["gpu1"].clients
            headers = words["headers"]
            assert isinstance(headers, dict)
            assert headers["Authorization"] == f"Bearer {key.value.get_secret_value()}"
            if isinstance(body := words.get("body"), bytes):
                bodies.append(json.loads(body))
            return probe.Response(answers.get(path, 404), {}, json.dumps(MODELS).encode())

    monkeypatch.setattr(probe, "visit", Visit)
    assert rotation_of(made, "gpu1").answers("qwen") == why
    assert all(body["model"] == "qwen" for body in bodies)
    assert [body["max_tokens"] for body in bodies if "prompt" in body] == [1] * bool(answers)
