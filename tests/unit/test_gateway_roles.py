"""All of deploy.py on a gateway, and what is different on a host behind gateways."""

from __future__ import annotations

import runpy
from dataclasses import replace
from pathlib import Path
from time import monotonic
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.unit import recorded_looks as looks
from tests.unit.fleets import fleet
from tests.unit.projects import ROOT
from tests.unit.recorded_host import Host
from tests.unit.recording import Recorder, Run, deploy_py, keys_py
from vllm_hosts.host.balancer import Server
from vllm_hosts.host.paths import (
    EDGE_FOLDER,
    GATEWAY_CA,
    GATEWAY_CLIENT,
    INNER_CERTIFICATE,
    INNER_KEY,
)
from vllm_hosts.keys import KeyStore
from vllm_hosts.keys.pki import certificate_names, utc_now
from vllm_hosts.keys.store_content import add_client, new_content
from vllm_hosts.roles import assertions
from vllm_hosts.roles.client_keys import client_keys
from vllm_hosts.roles.inner_tls import inner_tls
from vllm_hosts.roles.ownership import ownership
from vllm_hosts.settings.fleet import inner_name


def recorder(folder: Path, name: str) -> Recorder:
    """A host of the fleet that was just installed."""
    host = Host(fleet()[name], looks.FRESH, looks.AFTER, offered=looks.OFFERED)
    host.facts["BalancerState"] = {
        (pool.name, one.server): Server(pool.name, one.server, True, False, 0, "L7OK")
        for pool in host.settings.pools
        for one in pool.replicas
    }
    host.facts["SystemState"].free.update({"/usr": 1 << 30, "/var": 1 << 30})
    return Recorder(folder, host)


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recorder, Run]:
    """A gateway after its first deploy, and what that did. Not to be changed."""
    made = recorder(tmp_path_factory.mktemp("gateway"), "gw1")
    return made, made.run(deploy_py)


#: What a gateway gets, in order.
OPERATIONS = [
    "No other deploy is at work on the host",
    "The host can take this deploy",
    "The host belongs to no other inventory",
    "The host belongs to this inventory's store",
    "nginx is installed",
    "nginx accepts the edge's configuration",
    "nftables is installed",
    "The firewall is in force, now and at boot",
    "Other firewalls are known",
    "sshd accepts keys only, if the settings ask for it",
    "logrotate is installed",
    "The edge's logs are rotated by size",
    "Only root and adm read the edge's logs",
    "The timer for it runs",
    "The edge has a valid certificate",
    "Gateways and hosts know each other by certificates",
    "HAProxy is installed",
    "The balancer is configured and HAProxy has loaded it",
    "The balancer runs, now and at boot",
    "The edge is configured and nginx has loaded it",
    "nginx runs, now and at boot",
    "The edge accepts exactly the keys of the store",
    "Keys expire automatically",
    "The timer for it runs",
    "No virtual address is held",
    "Nothing of keepalived's is left",
    "The host has a record of what was deployed",
    "Only the expected sockets listen",
    "The edge answers only to keys, on its own paths",
    "Every model has an agent that answers",
]


def test_what_a_gateway_gets(deployed: tuple[Recorder, Run]) -> None:
    _, done = deployed
    assert not done.failed
    assert [name.partition(" | ")[2] for name in done.names] == OPERATIONS


def test_docker_cards_and_models_are_none_of_a_gateway_s(deployed: tuple[Recorder, Run]) -> None:
    made, done = deployed
    asked = {one.partition(" ")[2] for one in done.executions if one.startswith("asks ")}
    ours = ("Docker", "Gpu", "Image", "Hub", "Compose", "Agent", "Model")
    assert [fact for fact in made.host.arguments if any(word in fact for word in ours)] == []
    assert [fact for fact in asked if any(word in fact for word in ours)] == []
    assert sorted(made.host.packages) == [
        "haproxy",
        "libnginx-mod-http-lua",
        "logrotate",
        "nftables",
        "nginx",
        "socat",
    ]
    assert not [path for path in made.host.paths if "docker" in path or path.startswith("/opt")]


def test_a_second_run_on_a_gateway_changes_nothing(
    deployed: tuple[Recorder, Run], tmp_path: Path
) -> None:
    done = deployed[0].copied(tmp_path).run(deploy_py)
    assert (done.failed, done.refused, done.changed) == (False, [], [])
    assert (done.effects, done.said) == ([], [])


def test_a_run_that_changes_nothing_on_a_gateway_asks_in_a_few_executions(
    deployed: tuple[Recorder, Run], tmp_path: Path
) -> None:
    again = deployed[0].copied(tmp_path)
    for _ in range(2):
        done = again.run(deploy_py)
    assert len(done.executions) <= 4 and not done.changed, done.executions


def test_keys_py_brings_a_gateway_in_line(deployed: tuple[Recorder, Run], tmp_path: Path) -> None:
    again = deployed[0].copied(tmp_path)
    done = again.run(keys_py)
    assert (done.failed, done.changed) == (False, [])
    clients = again.host.contents[f"{EDGE_FOLDER}/clients.map"]
    assert b'"default Bearer ' in clients
    assert b"controller" not in clients


def test_a_gateway_is_a_client_of_hosts_and_nothing_else(deployed: tuple[Recorder, Run]) -> None:
    made, done = deployed
    both = made.host.contents[GATEWAY_CLIENT]
    certificate = x509.load_pem_x509_certificate(both)
    assert both.count(b"BEGIN CERTIFICATE") == both.count(b"BEGIN PRIVATE KEY") == 1
    assert both.index(b"BEGIN CERTIFICATE") < both.index(b"BEGIN PRIVATE KEY")
    [name] = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    assert (name.value, certificate_names(certificate)) == ("gw1", set())
    assert purposes(certificate) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert made.host.paths[GATEWAY_CLIENT].mode == 0o600
    assert "it gets a new certificate between gateways and hosts: there is none" in done.said
    root = x509.load_pem_x509_certificate(made.host.contents[GATEWAY_CA])
    certificate.verify_directly_issued_by(root)


def test_nothing_on_a_gateway_goes_back(deployed: tuple[Recorder, Run], tmp_path: Path) -> None:
    done = deployed[0].copied(tmp_path).run(rollback_py)
    assert not done.failed
    assert [name for name in done.names if name.startswith("Roll back")] == []
    assert done.names[-1].startswith("Assertions | ")


def rollback_py() -> None:
    runpy.run_path(str(ROOT / "rollback.py"))


def test_scopes_at_a_gateway_are_agents_of_the_fleet(tmp_path: Path) -> None:
    made = recorder(tmp_path, "gw1")
    KeyStore(made.inventory).update(
        lambda content: add_client(content, "ada", utc_now(), agents=["coder"]),
        start=new_content(utc_now()),
    )
    assert not made.run(ownership, client_keys).failed
    scopes = made.host.contents[f"{EDGE_FOLDER}/scopes.map"].decode()
    assert "qwen" in scopes
    assert "coder" not in scopes


def purposes(certificate: x509.Certificate) -> list[Any]:
    return [*certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value]


def test_a_host_behind_gateways_has_names_of_its_agents(tmp_path: Path) -> None:
    made = recorder(tmp_path, "gpu1")
    done = made.run(ownership, inner_tls, client_keys)
    assert not done.failed
    certificate = x509.load_pem_x509_certificate(made.host.contents[INNER_CERTIFICATE])
    assert certificate_names(certificate) == {
        inner_name("gpu1", "qwen"),
        inner_name("gpu1", "coder"),
    }
    assert purposes(certificate) == [ExtendedKeyUsageOID.SERVER_AUTH]
    assert made.host.paths[INNER_KEY].mode == 0o600
    # No client's key is there, and one of ours.
    clients = made.host.contents[f"{EDGE_FOLDER}/clients.map"]
    assert clients.count(b"Bearer ") == 2
    assert b'"controller Bearer ' in clients
    assert made.run(ownership, inner_tls, client_keys).changed == []


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"alive": False, "check": "L4TOUT Layer4 timeout"}, "is down (L4TOUT Layer4 timeout)"),
        ({"drained": True}, "is drained"),
        (None, "is not known to HAProxy"),
    ],
)
def test_a_gateway_has_an_agent_for_each_model_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: dict[str, Any] | None, why: str
) -> None:
    monkeypatch.setattr(assertions, "_PATIENCE", 0)
    made = recorder(tmp_path, "gw1")
    servers = made.host.facts["BalancerState"]
    [key] = [key for key in servers if key[0] == "coder"]
    if changed is None:
        del servers[key]
    else:
        servers[key] = replace(servers[key], **changed)
    done = made.run(deploy_py)
    assert done.failed
    assert done.said[-1:] == [f"no agent answers for the model 'coder-14b': coder on gpu1 {why}"]


def test_one_agent_of_several_is_enough_at_the_end(tmp_path: Path) -> None:
    made = recorder(tmp_path, "gw1")
    servers = made.host.facts["BalancerState"]
    first = next(key for key in servers if key[0] == "qwen")
    servers[first] = replace(servers[first], alive=False)
    assert not made.run(deploy_py).failed


def test_agents_that_come_up_are_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = recorder(tmp_path, "gw1")
    servers = dict(made.host.facts["BalancerState"])
    down = {key: replace(one, alive=False) for key, one in servers.items()}
    made.host.facts["BalancerState"] = down
    paused: list[float] = []

    def sleep(seconds: float) -> None:
        paused.append(seconds)
        made.host.facts["BalancerState"] = servers

    monkeypatch.setattr(assertions, "time", SimpleNamespace(monotonic=monotonic, sleep=sleep))
    assert not made.run(deploy_py).failed
    assert len(paused) == 1
