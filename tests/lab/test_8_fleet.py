"""Two gateways in front of three hosts: one address with all models, and no way around it."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from lab import hosts as lab_hosts
from tests.lab.deploys import changes, command
from tests.lab.fleet import (
    BACK,
    CHAT,
    DRAFT,
    FLEET,
    GATEWAYS,
    GPU_HOSTS,
    NOTICED,
    Fleet,
    asked,
    deploy,
    frozen,
    key_of,
    keys,
    models,
    started,
    well,
)
from tests.lab.fleet_asks import HostLogs, Load

pytestmark = pytest.mark.nightly
EVERYBODY = (*GATEWAYS, *GPU_HOSTS)
#: A host's own port for gateways.
PORT = 8443
_ID = re.compile(r"[0-9a-f]{32}")


@pytest.fixture(autouse=True)
def whole(fleet: Fleet) -> None:
    """Each test begins with all agents in rotation."""
    fleet.wait_whole()


def units(gateway: str) -> str:
    return lab_hosts.run(
        gateway, "systemctl show -p MainPID,ActiveState nginx vllm-hosts-balancer"
    ).stdout


def test_the_second_deploy_changes_nothing(fleet: Fleet) -> None:
    before = [*map(units, GATEWAYS), *map(started, GPU_HOSTS)]
    assert all(changes(fleet.first_run).get(name) is not None for name in EVERYBODY)
    run = well(deploy())
    assert changes(run) == dict.fromkeys(EVERYBODY, 0), run.output[-6000:]
    assert [*map(units, GATEWAYS), *map(started, GPU_HOSTS)] == before


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("198.51.100.9", "has no route to gpu3 (198.51.100.9)"),
        ("gpu3.nowhere.invalid", "finds no address for gpu3 (gpu3.nowhere.invalid)"),
    ],
)
def test_a_host_out_of_reach_is_refused_before_anything_is_touched(
    fleet: Fleet, address: str, words: str
) -> None:
    before = units("gw1")
    lab_hosts.run("gw1", "ip route add unreachable 198.51.100.0/24")
    try:
        run = deploy("--limit", "gw1", settings={"hosts": {"gpu3": {"ssh_hostname": address}}})
    finally:
        lab_hosts.run("gw1", "ip route del unreachable 198.51.100.0/24")
    assert run.code == 1, run.output[-4000:]
    assert words in run.output and "ssh_hostname" in run.output, run.output[-4000:]
    assert units("gw1") == before
    again = well(deploy("--limit", "gw1"))
    assert changes(again)["gw1"] == 0, again.output[-4000:]


@pytest.mark.parametrize("gateway", GATEWAYS)
def test_one_address_has_all_models(fleet: Fleet, gateway: str) -> None:
    assert {one["id"] for one in models(fleet, gateway).json()["data"]} == {CHAT, DRAFT}
    for model in (CHAT, DRAFT):
        answer = asked(fleet, gateway, model=model)
        assert answer.status_code == 200, answer.text
        assert answer.json()["model"] == model
    unknown = asked(fleet, gateway, model="another")
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model_not_found")


def test_an_answer_that_nobody_keeps_is_not_found(fleet: Fleet) -> None:
    answer = requests.get(
        f"{fleet.url('gw1')}/v1/responses/resp_1",
        headers={"Authorization": f"Bearer {fleet.client_key.get_secret_value()}"},
        verify=str(fleet.ca_file),
        timeout=20,
    )
    assert answer.status_code == 404, answer.text
    assert answer.json()["error"]["message"]


def test_a_client_s_scope_holds_at_gateways(fleet: Fleet) -> None:
    keys("add", "narrow", "--agents", "draft")
    try:
        narrow = key_of("narrow")
        for gateway in GATEWAYS:
            assert [one["id"] for one in models(fleet, gateway, narrow).json()["data"]] == [DRAFT]
            assert asked(fleet, gateway, key=narrow, model=DRAFT).status_code == 200
            assert asked(fleet, gateway, key=narrow, model=CHAT).status_code == 403
    finally:
        keys("revoke", "narrow")


def test_what_hosts_log_is_the_gateway_s_word(fleet: Fleet) -> None:
    """A client cannot say who it is, and tokens are counted where they are billed."""
    logs = HostLogs()
    forged = {
        "X-Vllm-Hosts-Client": "mallory",
        "X-Vllm-Hosts-Affinity": "mine",
        "X-Request-Id": "0" * 32,
    }
    assert asked(fleet, "gw1", headers=forged).status_code == 200
    time.sleep(0.5)
    [entry] = [entry for host in GPU_HOSTS for entry in logs.entries(host)]
    assert (entry["client"], entry["gateway"]) == ("default", "gw1")
    assert entry["request_id"] != "0" * 32
    assert (entry["prompt_tokens"], entry["completion_tokens"]) == (None, None)


def test_usage_counts_each_request_once(fleet: Fleet, tmp_path: Path) -> None:
    def counted() -> tuple[int, int]:
        run = well(command("vllm-hosts", "usage", FLEET, "--json"))
        found = json.loads(run.output[run.output.index("{") :])["usage"]
        mine = [one for one in found if one["client"] == "default"]
        return (
            sum(one["prompt_tokens"] for one in mine),
            sum(one["completion_tokens"] for one in mine),
        )

    before = counted()
    with Load(fleet, tmp_path, clients=4, requests=60, streams="none") as load:
        load.wait_over(120)
    load.assert_none_failed()
    time.sleep(1)
    after = counted()
    said = (
        sum(one.prompt_tokens for one in load.asked),
        sum(one.tokens for one in load.asked),
    )
    assert (after[0] - before[0], after[1] - before[1]) == said


def test_hosts_let_no_client_in(fleet: Fleet) -> None:
    """Neither with a client's key at their own edge, nor at their port for gateways."""
    for host in GPU_HOSTS:
        answer = status_of(host, fleet)
        assert answer == 401, f"{host} answers a client's key with {answer}"
    address = fleet.settings["gpu2"].address
    connect = f"timeout 3 bash -c 'exec 3<>/dev/tcp/{address}/{PORT}'"
    assert lab_hosts.run("neighbour", connect, check=False).returncode != 0, "the neighbour may"
    assert lab_hosts.run("gpu1", connect, check=False).returncode != 0, "another host may"
    assert lab_hosts.run("gw1", connect, check=False).returncode == 0, "a gateway may not"


def status_of(host: str, fleet: Fleet) -> int:
    return requests.get(
        f"https://{fleet.settings[host].address}/v1/models",
        headers={"Authorization": f"Bearer {fleet.client_key.get_secret_value()}"},
        verify=str(fleet.ca_file),
        timeout=20,
    ).status_code


def test_the_port_for_gateways_wants_a_gateway_s_certificate(fleet: Fleet) -> None:
    """On a gateway, where the firewall lets everybody through."""
    [replica] = [one for one in fleet.pool(CHAT).replicas if one.host == "gpu2"]
    own = "/etc/vllm-hosts/gateway/client.pem"
    public = "/etc/vllm-hosts/tls"

    def pulse(how: str) -> str:
        return lab_hosts.run(
            "gw1",
            r"printf 'GET /pulse HTTP/1.0\r\nHost: agent\r\n\r\n' | timeout 10 openssl s_client"
            f" -quiet -connect {replica.address}:{replica.port} -servername {replica.inner_name}"
            f" {how} 2>/dev/null",
            check=False,
        ).stdout

    assert " 200 " in pulse(f"-cert {own} -key {own}").partition("\n")[0]
    assert " 200 " not in pulse("")
    assert " 200 " not in pulse(f"-cert {public}/certificate.pem -key {public}/key.pem")


def turns(fleet: Fleet, logs: HostLogs, session: str, count: int = 4) -> set[str]:
    """The hosts that answered a conversation, whose turns go to both gateways."""
    ids = []
    headers = {"X-Session-Id": session} if session else {}
    for turn in range(count):
        answer = asked(fleet, GATEWAYS[turn % 2], headers=headers)
        assert answer.status_code == 200, answer.text
        found = _ID.search(answer.json()["id"])
        assert found, f"no request's id in {answer.json()['id']}"
        ids.append(found[0])
    by_id = logs.of(ids)
    assert set(ids) <= set(by_id), f"no host logged {set(ids) - set(by_id)}"
    return {by_id[one] for one in ids}


def test_a_conversation_stays_at_a_host_while_that_one_answers(fleet: Fleet) -> None:
    logs = HostLogs()
    sessions = [f"conversation-{number}" for number in range(12)]
    before = {session: turns(fleet, logs, session) for session in sessions}
    assert {len(hosts) for hosts in before.values()} == {1}, before
    homes = {session: next(iter(hosts)) for session, hosts in before.items()}
    assert len(set(homes.values())) > 1, f"all conversations at one host: {homes}"
    gone = homes[sessions[0]]
    with frozen(gone):
        fleet.wait_for(gone, False, timeout=NOTICED + 10)
        during = {session: turns(fleet, logs, session, 2) for session in sessions}
    fleet.wait_for(gone, True, timeout=60)
    for session, hosts in during.items():
        assert len(hosts) == 1, f"{session} is at {hosts}"
        assert gone not in hosts
        if homes[session] != gone:
            assert hosts == {homes[session]}, f"{session} moved, and its host was there"


def test_without_a_session_the_beginning_of_a_prompt_decides(fleet: Fleet) -> None:
    logs = HostLogs()
    assert len(turns(fleet, logs, "")) == 1


def test_saturated_agents_stay_in_rotation(fleet: Fleet, tmp_path: Path) -> None:
    seen: set[str] = set()
    job = {"clients": 64, "requests": 1500, "seconds": 40, "tokens": 150}
    with Load(fleet, tmp_path, **job) as load:
        until = time.monotonic() + 30
        while time.monotonic() < until:
            for gateway in GATEWAYS:
                seen |= {f"{one}: {state}" for one, state in fleet.states(gateway).items()}
            time.sleep(1)
    wrong = {one for one in seen if not one.endswith(": UP")}
    assert not wrong, f"under load only: {wrong}"
    load.assert_none_failed()


def test_without_an_agent_left_clients_are_told_to_wait(fleet: Fleet) -> None:
    """gpu1 alone has this model; its engine stands still."""
    with frozen("gpu1", "draft"):
        fleet.wait_for("gpu1", False, timeout=NOTICED + 10, model=DRAFT)
        begun = time.monotonic()
        answer = asked(fleet, "gw1", model=DRAFT)
        took = time.monotonic() - begun
        other = asked(fleet, "gw1")
    assert answer.status_code == 503, answer.text
    assert int(answer.headers["Retry-After"]) > 0
    assert set(answer.json()["error"]) >= {"message", "type", "code"}
    assert took < 5, f"{took:.1f} s until it was told"
    assert other.status_code == 200, "the other model's agents answer"
    fleet.wait_for("gpu1", True, timeout=60, model=DRAFT)
    assert asked(fleet, "gw1", model=DRAFT).status_code == 200


@pytest.fixture
def drained(fleet: Fleet) -> Iterator[str]:
    yield "gpu2"
    command("vllm-hosts", "agents", FLEET, "undrain", "chat", "--host", "gpu2")


def test_a_drained_agent_gets_nothing_and_loses_nothing(
    fleet: Fleet, drained: str, tmp_path: Path
) -> None:
    server = fleet.server(drained)
    with Load(fleet, tmp_path, requests=6000, seconds=240, pause=1.0, tokens=40) as load:
        well(command("vllm-hosts", "agents", FLEET, "drain", "chat", "--host", drained))
        quiet = time.monotonic()
        for gateway in GATEWAYS:
            lab_hosts.run(gateway, "systemctl reload vllm-hosts-balancer")
        time.sleep(3)
        for gateway in GATEWAYS:
            assert fleet.states(gateway)[server].startswith("DRAIN"), "after a reload"
        load.wait_for(100)
        back = time.monotonic()
        well(command("vllm-hosts", "agents", FLEET, "undrain", "chat", "--host", drained))
        fleet.wait_for(drained, True, timeout=30)
        undrained = time.monotonic()
        load.wait_for(150, timeout=90)
    load.assert_none_failed()
    between = [one for one in load.asked if quiet < one.began < back]
    assert between
    assert load.answered_by(between)[drained] == 0
    assert load.answered_by([one for one in load.asked if one.began > undrained])[drained]


def test_what_was_drained_by_hand_stays_so_over_a_deploy(fleet: Fleet, drained: str) -> None:
    well(command("vllm-hosts", "agents", FLEET, "drain", "chat", "--host", drained))
    assert changes(well(deploy())) == dict.fromkeys(EVERYBODY, 0)
    for gateway in GATEWAYS:
        assert fleet.states(gateway)[fleet.server(drained)].startswith("DRAIN")


def test_the_last_agent_of_a_model_is_not_drained_by_mistake(fleet: Fleet) -> None:
    run = command("vllm-hosts", "agents", FLEET, "drain", "draft", "--host", "gpu1")
    assert run.code == 1
    assert "Nothing was drained" in run.output
    assert all(fleet.up(gateway, "gpu1", DRAFT) for gateway in GATEWAYS)


def test_an_agent_is_restarted_without_a_failed_request(fleet: Fleet, tmp_path: Path) -> None:
    before = started("gpu2")
    with Load(fleet, tmp_path, requests=8000, seconds=BACK, pause=2.0) as load:
        run = command("vllm-hosts", "agents", FLEET, "restart", "chat", "--host", "gpu2")
        load.wait_for(20)
    well(run)
    assert started("gpu2") != before
    load.assert_none_failed()
