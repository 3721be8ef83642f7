"""All of deploy.py on a machine that is a gateway and a GPU host, and on one that becomes both."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from tests.unit import recorded_looks as looks
from tests.unit.fakes import listening
from tests.unit.fleets import both
from tests.unit.model_files import safetensors
from tests.unit.recorded_host import Host
from tests.unit.recording import Recorder, Run, deploy_py, keys_py
from tests.unit.samples import CODER, QWEN, settings
from tests.unit.test_gateway_roles import OPERATIONS, purposes, rollback_py
from vllm_hosts.host.balancer import Server
from vllm_hosts.host.paths import (
    BALANCER_CONF,
    BALANCER_UNIT,
    EDGE_CONF,
    EDGE_FOLDER,
    GATEWAY_CA,
    GATEWAY_CLIENT,
    INNER_CERTIFICATE,
    INNER_KEY,
)
from vllm_hosts.host.probe import Response
from vllm_hosts.host.rotation import Balancer, Member
from vllm_hosts.keys.pki import certificate_names
from vllm_hosts.operations import rotation as rotations
from vllm_hosts.roles.rotation import rotation
from vllm_hosts.roles.vllm import vllm
from vllm_hosts.settings.fleet import host_label

INNER_CONF = f"{EDGE_FOLDER}/inner.conf"


def given(folder: Path) -> dict[str, Any]:
    """What is set for the machine, whatever it is."""
    model = folder / "coder"
    if not model.exists():
        model.mkdir()
        (model / "config.json").write_bytes(looks.CONFIG)
        (model / "model.safetensors").write_bytes(safetensors())
    return {
        "agents": [QWEN, CODER | {"copy_from": str(model)}],
        "nvidia": {"driver": "install"},
        "edge": {"names": ["llm.example.com"]},
    }


def becomes_both(made: Recorder, folder: Path) -> Recorder:
    """The machine is in both groups from now on."""
    host = made.host
    host.settings = both(**given(folder))["one"]
    host.facts["BalancerState"] = {
        (pool.name, one.server): Server(pool.name, one.server, True, False, 0, "L7OK")
        for pool in host.settings.edge_side.pools
        for one in pool.replicas
    }
    host.facts["AnsweredInside"] = Response(200, {}, b"{}")
    return made


def fresh(folder: Path, **values: Any) -> Recorder:
    host = Host(
        settings(**{"name": "one"} | given(folder) | values),
        *(looks.FRESH, looks.AFTER),
        offered=looks.OFFERED,
    )
    return Recorder(folder, host)


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recorder, Run]:
    """After its first deploy, and what that did. Not to be changed."""
    folder = tmp_path_factory.mktemp("both")
    made = becomes_both(fresh(folder), folder)
    return made, made.run(deploy_py)


def test_it_gets_everything_that_either_side_gets(deployed: tuple[Recorder, Run]) -> None:
    made, done = deployed
    assert not done.failed, done.said
    names = [name.partition(" | ")[2] for name in done.names]
    left = iter(names)
    assert all(name in left for name in OPERATIONS), "a gateway's, in their order"
    # Agents are there before clients are let in.
    assert names.index("The agents are healthy") < names.index("HAProxy is installed")
    assert "Gateways send requests to the agents" in names
    for path in (EDGE_CONF, INNER_CONF, BALANCER_CONF, "/opt/vllm/compose.yaml"):
        assert path in made.host.contents, path
    assert BALANCER_UNIT in str(done["The balancer runs, now and at boot"].commands)


def test_a_second_run_changes_nothing(deployed: tuple[Recorder, Run], tmp_path: Path) -> None:
    done = deployed[0].copied(tmp_path).run(deploy_py)
    assert (done.failed, done.refused, done.changed) == (False, [], [])
    assert (done.effects, done.said) == ([], [])


def test_it_has_a_certificate_for_each_side(deployed: tuple[Recorder, Run]) -> None:
    made, done = deployed
    client, server = (
        x509.load_pem_x509_certificate(made.host.contents[path])
        for path in (GATEWAY_CLIENT, INNER_CERTIFICATE)
    )
    assert purposes(client) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert purposes(server) == [ExtendedKeyUsageOID.SERVER_AUTH]
    assert len(certificate_names(server)) == 2
    assert {made.host.paths[path].mode for path in (GATEWAY_CLIENT, INNER_KEY)} == {0o600}
    assert GATEWAY_CA in made.host.contents
    assert len([line for line in done.said if "between gateways and hosts: there is" in line]) == 2


def test_clients_keys_are_there_and_none_of_ours(
    deployed: tuple[Recorder, Run], tmp_path: Path
) -> None:
    again = deployed[0].copied(tmp_path)
    done = again.run(keys_py)
    assert (done.failed, done.changed) == (False, [])
    clients = again.host.contents[f"{EDGE_FOLDER}/clients.map"]
    assert b'"default Bearer ' in clients
    assert b"controller" not in clients


def test_its_agents_may_go_back(deployed: tuple[Recorder, Run], tmp_path: Path) -> None:
    done = deployed[0].copied(tmp_path).run(rollback_py)
    assert len(done.refused) == 1, "after a first deploy there is nothing to go back to"


def test_a_gpu_host_becomes_both_without_a_change_of_its_agents(tmp_path: Path) -> None:
    made = fresh(tmp_path)
    assert not made.run(deploy_py).failed
    made.host.facts["ListeningSockets"] += (
        listening("0.0.0.0:8443", 'users:(("nginx",pid=5,fd=3))'),
    )
    before = dict(made.host.contents)
    made.host.after = {}
    done = becomes_both(made, tmp_path).run(deploy_py)
    assert not done.failed, done.said
    changed = {name.partition(" | ")[2] for name in done.changed}
    assert "The agents run as in compose.yaml" not in changed
    assert {"HAProxy is installed", "The edge is configured and nginx has loaded it"} <= changed
    for path in ("/opt/vllm/compose.yaml", "/opt/vllm/.env", f"{EDGE_FOLDER}/clients.map"):
        assert made.host.contents[path] == before[path], path
    assert made.run(deploy_py).changed == []


def test_a_gateway_becomes_both(tmp_path: Path) -> None:
    made = fresh(tmp_path)
    machine = becomes_both(made, tmp_path).host
    whole, machine.settings = machine.settings, machine.settings.edge_side
    machine.facts["SystemState"].free.update({"/usr": 1 << 30, "/var": 1 << 30})
    assert not made.run(deploy_py).failed
    assert INNER_CONF not in machine.contents
    key = machine.contents[GATEWAY_CLIENT]
    machine.settings = whole
    state = machine.facts["SystemState"]
    machine.facts["SystemState"] = replace(
        state, present=state.present | {"/var/lib/vllm-hosts/balancer"}
    )
    done = made.run(deploy_py)
    assert not done.failed, done.said
    assert machine.contents[GATEWAY_CLIENT] == key
    assert INNER_CONF in machine.contents
    # The recorded firewall has to be brought in force once more.
    made.run(deploy_py)
    assert made.run(deploy_py).changed == []


# Its own agents leave rotation at all gateways, itself among them.


def in_rotation(made: Recorder, **mine: bool) -> Recorder:
    labels = {host_label("one"): mine, "h0123": {}}
    servers = tuple(
        Member(agent, f"{agent}.{label}", True, how.get("drained", False), 0)
        for agent in ("qwen", "coder")
        for label, how in labels.items()
    )
    made.balancers = {"one": Balancer(servers), "two": Balancer(servers)}
    # The edge for clients is not asked about it.
    made.edge = lambda path: 500
    return made


def told(made: Recorder) -> list[tuple[str, str]]:
    return [(gate, "ready" if " state ready" in script else "drain") for gate, script in made.told]


def test_an_agent_that_changes_is_drained_everywhere(
    deployed: tuple[Recorder, Run], tmp_path: Path
) -> None:
    made = in_rotation(deployed[0].copied(tmp_path))
    found = made.host.facts["ComposeProject"]
    made.host.facts["ComposeProject"] = replace(found, wanted=found.wanted | {"coder": "h9"})
    made.host.after = {}
    done = made.run(vllm)
    assert not done.failed, done.said
    assert told(made) == [("one", "drain"), ("two", "drain"), ("one", "ready"), ("two", "ready")]
    assert "one, two: requests go to coder again" in done.said


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Response(502, {}, b""), "/v1/completions gives 502"),
        # The key of its agents is none that comes later.
        (Response(401, {}, b""), "/v1/models gives 401 without coder-14b"),
        (OSError("nothing there"), "nothing there"),
        (ConnectionRefusedError("closed"), "closed"),
    ],
)
def test_one_that_does_not_answer_inside_stays_out(
    deployed: tuple[Recorder, Run],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    answer: object,
    words: str,
) -> None:
    monkeypatch.setattr(rotations, "_ASKED_EVERY", 0)
    made = in_rotation(deployed[0].copied(tmp_path), drained=True)
    made.host.facts["AnsweredInside"] = answer
    done = made.run(rotation)
    assert done.failed
    assert made.told == []
    assert any("gets no requests from gateways" in line and words in line for line in done.said)


def test_what_a_run_left_drained_is_put_back(
    deployed: tuple[Recorder, Run], tmp_path: Path
) -> None:
    made = in_rotation(deployed[0].copied(tmp_path), drained=True)
    done = made.run(rotation)
    assert (done.failed, done.changed) == (False, [])
    assert told(made) == [("one", "ready"), ("two", "ready")]
