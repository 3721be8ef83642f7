"""Inventories with gateways: what the group means, and what is refused of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.stores import made
from tests.unit.projects import AGENT, Project
from vllm_hosts.errors import SettingsError
from vllm_hosts.keys import KeyStore
from vllm_hosts.keys.pki import LocalCa, utc_now
from vllm_hosts.keys.store_content import add_client
from vllm_hosts.project.before import Run, _open_secrets
from vllm_hosts.project.inventory import gateways, load, validate
from vllm_hosts.project.loaded import Project as Loaded
from vllm_hosts.settings import HostSettings


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    project = Project(tmp_path)
    monkeypatch.chdir(tmp_path)
    project.write(
        "inventory/prod.py",
        "gateways = ['192.0.2.1', ('gw2', {'ssh_hostname': '192.0.2.2'})]\n"
        "gpu_hosts = ['192.0.2.11', '192.0.2.12']\n",
    )
    return project


def hosts(project: Project) -> dict[str, HostSettings]:
    return validate(load(project.folder / "inventory" / "prod.py"))


def refused(project: Project) -> list[str]:
    with pytest.raises(SettingsError) as error:
        hosts(project)
    return error.value.problems


def test_a_gateway_needs_no_agents_and_has_data_of_its_own(project: Project) -> None:
    project.write("group_data/all.py", "edge = {'burst': 5}\n")
    project.write("group_data/gateways.py", "edge = {'requests_per_second': 7}\n")
    found = hosts(project)
    assert gateways(load(project.folder / "inventory" / "prod.py")) == ["192.0.2.1", "gw2"]
    for name in ("192.0.2.1", "gw2"):
        edge = found[name].edge
        assert (edge.burst, edge.requests_per_second) == (5, 7)
        assert [replica.host for replica in found[name].pools[0].replicas] == [
            "192.0.2.11",
            "192.0.2.12",
        ]
    assert found["192.0.2.11"].edge.requests_per_second == 20
    assert [known.name for known in found["192.0.2.12"].gateways] == ["192.0.2.1", "gw2"]


def test_hosts_of_an_inventory_without_gateways_know_of_none(project: Project) -> None:
    project.write("inventory/prod.py", "gpu_hosts = ['192.0.2.11']\n")
    [host] = hosts(project).values()
    assert (host.pools, host.gateways, host.behind_gateways) == ((), (), False)


@pytest.mark.parametrize("name", ["gateways", "all"])
def test_agents_for_a_gateway_are_refused(project: Project, name: str) -> None:
    project.write(f"group_data/{name}.py", f"agents = [{AGENT!r}]\n")
    [problem] = refused(project)
    assert problem == (
        f"group_data/{name}.py: agents are set for a host of the group gateways, which runs none"
        " unless it is in gpu_hosts as well; set them in group_data/gpu_hosts.py, for the hosts of"
        " that group (on 192.0.2.1, gw2)"
    )


def test_a_gateway_looks_at_nobody_from_outside(project: Project) -> None:
    inventory = "gateways = ['192.0.2.1']\ngpu_hosts = ['192.0.2.11']\n"
    project.write("inventory/prod.py", f"{inventory}neighbours = ['192.0.2.1', '192.0.2.9']\n")
    [problem] = refused(project)
    assert problem == (
        "the inventory: '192.0.2.1' is in the groups gateways and neighbours, and nothing is"
        " deployed to a neighbour, which scans the others from outside; leave it in one of them,"
        " and use another machine for the other"
    )


def test_no_host_behind_a_gateway_is_refused(project: Project) -> None:
    project.write("inventory/prod.py", "gateways = ['192.0.2.1']\n")
    [problem] = refused(project)
    assert problem.startswith("the inventory: no host is behind the gateways 192.0.2.1; add hosts")


def test_a_problem_of_all_hosts_behind_names_them(project: Project) -> None:
    project.group(firewall={"extra_tcp_ports": [8443]})
    [problem] = refused(project)
    assert problem.endswith("or set gateway.port (on 192.0.2.11, 192.0.2.12)")


def test_what_is_wrong_with_one_host_comes_first(project: Project) -> None:
    project.write("group_data/gateways.py", "edge = {'timeout': 7200, 'burst': -1}\n")
    [problem] = refused(project)
    assert problem.startswith("group_data/gateways.py: edge.burst must be at least 0")


PROD = "inventory/prod.py"


def said(project: Project, *words: str, code: int = 0) -> str:
    done = project.run("vllm-hosts", *words)
    assert (done.returncode, "Traceback" in done.stdout) == (code, False), done.stdout
    return done.stdout


def test_check_says_who_answers_for_a_model(project: Project) -> None:
    project.group(agents=[AGENT, AGENT | {"name": "two", "port": 8002, "gpus": [1]}])
    shown = said(project, "check", PROD)
    assert "192.0.2.1 (192.0.2.1), a gateway\n" in shown
    assert f"  {'two':32} of 192.0.2.11, 192.0.2.12\n" in shown
    assert "4 hosts and 4 agents: all settings are valid" in shown


def test_clients_use_the_gateways_address(project: Project) -> None:
    project.group(agents=[AGENT, AGENT | {"name": "two", "port": 8002, "gpus": [1]}])
    found = json.loads(said(project, "endpoints", PROD, "--json"))
    assert [(one["host"], one["base_url"], one["served_model_name"]) for one in found] == [
        ("192.0.2.1", "https://192.0.2.1/v1", "one"),
        ("192.0.2.1", "https://192.0.2.1/v1", "two"),
        ("gw2", "https://192.0.2.2/v1", "one"),
        ("gw2", "https://192.0.2.2/v1", "two"),
    ]
    assert "https://192.0.2.2/v1/chat/completions" in said(project, "endpoints", PROD)
    project.write("group_data/gateways.py", "edge = {'by_model': False}\n")
    first, second, *_ = json.loads(said(project, "endpoints", PROD, "--json"))
    assert first["base_url"] == "https://192.0.2.1/one/v1"
    assert second["base_url"] == "https://192.0.2.1/two/v1"


def test_one_endpoint_for_agents_of_one_model(project: Project) -> None:
    own = [AGENT | {"name": name, "served_model_name": "m"} for name in ("one", "other")]
    project.write(
        PROD,
        "gateways = ['192.0.2.1']\n"
        f"gpu_hosts = [('a', {{'agents': [{own[0]!r}]}}), ('b', {{'agents': [{own[1]!r}]}})]\n",
    )
    [found] = json.loads(said(project, "endpoints", PROD, "--json"))
    assert (found["agent"], found["base_url"]) == ("one", "https://192.0.2.1/v1")


def test_keys_are_for_gateways(project: Project) -> None:
    shown = said(project, "keys", "add", PROD, "ada", "--agents", "one", "--hosts", "gw2")
    assert "gw2: takes effect with" in shown
    assert "gw2: takes effect with" in said(project, "keys", "rotate", PROD, "ada")
    shown = said(project, "keys", "add", PROD, "bob")
    assert "192.0.2.1, gw2: takes effect with" in shown
    refused = said(project, "keys", "add", PROD, "eve", "--hosts", "gw2,192.0.2.11", code=1)
    assert (
        "192.0.2.11 is behind gateways, and takes no client's key; name gateways (192.0.2.1, gw2),"
        " or leave --hosts out"
    ) in refused
    refused = said(project, "keys", "add", PROD, "controller", code=1)
    assert "'controller' is what the toolkit calls itself on hosts behind gateways" in refused


def test_a_run_names_clients_that_nothing_accepts(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    file = project.folder / PROD
    made(KeyStore(file))
    KeyStore(file).update(lambda one: add_client(one, "ada", utc_now(), hosts=["192.0.2.11"]))
    _open_secrets(Run(file, dry=True, ours=False), Loaded.load(file))
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("--> client 'ada' is limited to 192.0.2.11, and only gateways")
    # A command of ours has nothing to do with it.
    _open_secrets(Run(file, dry=True, ours=True), Loaded.load(file))
    assert capsys.readouterr().err == ""


def test_gateways_need_the_inventory_s_ca_whoever_signs_for_clients(
    project: Project, tmp_path: Path
) -> None:
    certificate, key = tmp_path / "a.pem", tmp_path / "a.key"
    names = ["192.0.2.1", "192.0.2.2", "192.0.2.11", "192.0.2.12"]
    issued = LocalCa.create("theirs", utc_now()).issue(names, 90, utc_now())
    certificate.write_bytes(issued.certificate_pem)
    key.write_bytes(issued.key_pem.get_secret_value())
    files = {"mode": "files", "certificate": str(certificate), "key": str(key)}
    project.write("group_data/all.py", f"tls = {files!r}\n")
    file = project.folder / PROD
    loaded = Loaded.load(file)
    _open_secrets(Run(file, dry=True, ours=True), loaded)
    assert loaded.opened.trusted().startswith(b"-----BEGIN CERTIFICATE-----")
    made(KeyStore(file))
    shown = said(project, "tls", PROD, "renew", "--host", "gw2")
    assert "gw2: a new certificate with the next deploy" in shown
    assert "gw2: the one between gateways and hosts; as for the one that clients see" in shown


def test_a_change_of_ca_needs_a_deploy_of_both_ends(project: Project) -> None:
    store = KeyStore(project.folder / PROD)
    made(store)
    store.local_ca()
    shown = said(project, "keys", "new-ca", PROD, "--yes")
    assert "Deploy once before it takes over as well" in shown
    said(project, "keys", "new-ca", PROD, "--cancel", "--yes")
    shown = said(project, "keys", "new-ca", PROD, "--overlap", "0", "--yes")
    assert "Until that deploy has ended, gateways and hosts may refuse each other." in shown
    project.write(PROD, "gpu_hosts = ['192.0.2.11']\n")
    shown = said(project, "keys", "new-ca", PROD, "--overlap", "0", "--yes")
    assert "gateways" not in shown
