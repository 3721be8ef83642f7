"""One address for both gateways: who has it, and what the loss of that one costs."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import requests

from lab import hosts as lab_hosts
from lab import layout
from tests.lab.deploys import ROOT, Run, command
from tests.lab.fleet import CHAT, FLEET, GATEWAYS, Fleet, deploy, well, without_power
from tests.lab.fleet_asks import Load
from tests.lab.sabotage import SHARED as ROWS
from tests.lab.sabotage import Sabotage
from tests.lab.test_4_verify import ended
from vllm_hosts.project.inventory import load, validate

pytestmark = pytest.mark.nightly
#: Free in the lab's network.
ADDRESS = str(layout.BRIDGE_V4.network[40])
SHARED: dict[str, Any] = {"gateway": {"virtual_ip": ADDRESS}}
URL = f"https://{ADDRESS}"
UNIT = "vllm-hosts-keepalived"
JOB: dict[str, Any] = {"requests": 9000, "seconds": 300, "tokens": 8, "urls": [URL]}
#: Seconds in which whoever asks anew has to be answered.
ANSWERED = 3


@pytest.fixture(scope="module")
def shared(fleet: Fleet) -> Iterator[Fleet]:
    """The lab's fleet, with one address for both gateways; afterwards it is as before."""
    fleet.wait_whole()
    well(deploy(settings=SHARED))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(os.environ, "LAB_SETTINGS", json.dumps(SHARED))
        settings = validate(load(ROOT / FLEET))
    held_by_one()
    yield replace(fleet, settings=settings)
    well(deploy())


@pytest.fixture(autouse=True)
def whole(fleet: Fleet) -> None:
    """Each test begins with all agents in rotation."""
    fleet.wait_whole()


def holders() -> list[str]:
    """Which gateways have the address now."""
    return [one for one in GATEWAYS if _has(one)]


def _has(gateway: str) -> bool:
    try:
        return bool(lab_hosts.run(gateway, f"ip -o address show to {ADDRESS}").stdout.strip())
    except RuntimeError:
        return False  # it is off


def held_by_one(*, not_by: str = "", timeout: float = 20) -> str:
    """Who has it, once exactly one gateway does."""
    deadline = time.monotonic() + timeout
    while len(found := holders()) != 1 or found == [not_by]:
        assert time.monotonic() < deadline, f"after {timeout:.0f} s {found} have {ADDRESS}"
        time.sleep(0.2)
    return found[0]


def ours(*words: str, **options: Any) -> Run:
    """A command of ours, with the settings that the fleet has here."""
    return command(*words, settings=SHARED, **options)


def chat(fleet: Fleet) -> requests.Response:
    return requests.post(
        f"{URL}/v1/chat/completions",
        headers={"Authorization": f"Bearer {fleet.client_key.get_secret_value()}"},
        json={
            "model": CHAT,
            "messages": [{"role": "user", "content": "hi"}],
            "max_tokens": 2,
        },
        verify=str(fleet.ca_file),
        timeout=60,
    )


def test_clients_have_one_address(shared: Fleet) -> None:
    held_by_one()
    assert chat(shared).status_code == 200
    shown = well(ours("vllm-hosts", "endpoints", FLEET, "--json")).output
    assert {one["base_url"] for one in json.loads(shown[shown.index("[") :])} == {f"{URL}/v1"}
    assert f"shares {ADDRESS}" in well(ours("vllm-hosts", "check", FLEET)).output
    well(ours("vllm-hosts", "drift", FLEET))
    for gateway in GATEWAYS:
        looked = ours("vllm-hosts", "doctor", FLEET, "--host", gateway)
        assert looked.code == 0, looked.output


def test_a_gateway_that_has_it_and_is_killed_costs_what_it_had_in_flight(
    shared: Fleet, tmp_path: Path
) -> None:
    gone = held_by_one()
    with Load(shared, tmp_path, **JOB) as asks:
        with ExitStack() as stack:
            began = time.monotonic()
            stack.enter_context(without_power(gone))
            off = time.monotonic()
            other = held_by_one(not_by=gone)
            moved = time.monotonic()
            asks.wait_for(200, timeout=60)
        # It boots, and is no reason to move the address again.
        _runs(gone)
        asks.wait_for(200, timeout=60)
        assert holders() == [other]
    asked = asks.asked
    wrong = [one for one in asks.failed if one.began > off]
    assert not wrong, f"{len(wrong)} of {len(asked)} failed later: {wrong[0]}"
    late = [one for one in asked if one.began > began and not one.failed]
    took = max(one.first - one.began for one in late)
    print(
        f"{len(asked)} requests, {len(asks.failed)} failed, all in flight at {gone}; off after"
        f" {off - began:.1f} s, seen at {other} {moved - began:.1f} s after the beginning; whoever"
        f" asked then was answered within {took:.2f} s"
    )
    assert took < ANSWERED
    shared.wait_whole()
    assert holders() == [other]


def _runs(gateway: str, timeout: float = 60) -> None:
    """Until a gateway that boots would take the address, and some seconds more."""
    deadline = time.monotonic() + timeout
    while lab_hosts.run(gateway, f"systemctl -q is-active {UNIT}", check=False).returncode != 0:
        assert time.monotonic() < deadline, f"{UNIT} of {gateway} does not run"
        time.sleep(0.5)
    time.sleep(6)


def test_it_leaves_a_gateway_whose_nginx_or_haproxy_has_ended(shared: Fleet) -> None:
    for unit in ("nginx", "vllm-hosts-balancer"):
        bad = held_by_one()
        lab_hosts.run(bad, f"systemctl stop {unit}")
        try:
            other = held_by_one(not_by=bad, timeout=10)
            assert chat(shared).status_code == 200
        finally:
            lab_hosts.run(bad, f"systemctl start {unit}")
        time.sleep(6)
        assert holders() == [other]
        shared.wait_whole()


def test_it_stays_where_it_is_while_no_gateway_is_in_order(shared: Fleet) -> None:
    """Nobody would answer elsewhere either, and with nobody it would take longer to come back."""
    try:
        for gateway in GATEWAYS:
            lab_hosts.run(gateway, "systemctl stop nginx")
        time.sleep(8)
        assert len(holders()) == 1
    finally:
        for gateway in GATEWAYS:
            lab_hosts.run(gateway, "systemctl start nginx")
    time.sleep(4)
    held_by_one()


def test_a_deploy_and_a_reload_do_not_move_it(shared: Fleet, tmp_path: Path) -> None:
    held = held_by_one()
    with Load(shared, tmp_path, **JOB) as asks:
        lab_hosts.run(held, f"systemctl reload {UNIT}")
        well(deploy("--limit", "gw1", "--limit", "gw2", settings=SHARED))
        asks.wait_for(100, timeout=60)
    assert holders() == [held]
    asks.assert_none_failed()


def test_the_doctor_says_who_has_it(shared: Fleet) -> None:
    held = held_by_one()
    [other] = set(GATEWAYS) - {held}
    device = lab_hosts.run(held, f"ip -o address show to {ADDRESS}").stdout.split()[1]
    lab_hosts.run(other, f"systemctl stop {UNIT} && ip address add {ADDRESS}/32 dev {device}")
    try:
        said = ours("vllm-hosts", "doctor", FLEET, "--json")
    finally:
        lab_hosts.run(other, f"ip address del {ADDRESS}/32 dev {device}; systemctl start {UNIT}")
    assert said.code == 1
    assert "keepalived-down" in said.output, said.output
    assert "virtual-address-twice" in said.output, said.output
    held_by_one()
    for gateway in GATEWAYS:
        lab_hosts.run(gateway, f"systemctl stop {UNIT}")
    try:
        said = ours("vllm-hosts", "doctor", FLEET, "--json")
    finally:
        for gateway in GATEWAYS:
            lab_hosts.run(gateway, f"systemctl start {UNIT}")
    assert "virtual-address-nowhere" in said.output, said.output
    held_by_one()


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("192.0.2.9", "gateway.virtual_ip 192.0.2.9 is in no network of this gateway"),
        (str(layout.NEIGHBOUR.ipv4), "a machine that is no gateway answers for it"),
        (str(layout.BRIDGE_V4.network[255]), "stands for the whole network"),
    ],
)
def test_an_address_that_cannot_be_is_refused(shared: Fleet, address: str, says: str) -> None:
    before = held_by_one()
    wanted = {"gateway": {"virtual_ip": address}}
    refused = deploy("--limit", "gw1", "--limit", "gw2", settings=wanted)
    assert refused.code != 0
    assert says in " ".join(refused.output.split()), refused.output[-4000:]
    assert holders() == [before]


def test_only_gateways_that_share_an_address_are_asked_about_it(
    shared: Fleet, tmp_path: Path
) -> None:
    well(ours("vllm-hosts", "verify", FLEET, "--promise", "GW-06", "--report", str(tmp_path)))
    for host in shared.settings:
        outcome = "kept" if host in GATEWAYS else "does not apply"
        assert "GW-06" in ended(tmp_path, host, outcome), host


@pytest.mark.parametrize("sabotage", [pytest.param(row, id=row.name) for row in ROWS])
def test_a_broken_promise_is_seen_and_healed(
    shared: Fleet, sabotage: Sabotage, tmp_path: Path
) -> None:
    host = sabotage.host
    look = ("verify", FLEET, "--host", host, "--ports", "1-10000")
    try:
        lab_hosts.run(host, sabotage.do)
        run = ours("vllm-hosts", *look, "--report", str(tmp_path), "--skip", "EDGE-12", timeout=900)
        assert run.code == 1, run.output[-4000:]
        assert ended(tmp_path, host, "broken") == sabotage.broken, run.output[-4000:]
        assert ended(tmp_path, host, "not checked") == set(), run.output[-4000:]
    finally:
        healed = deploy("--limit", host, settings=SHARED)
    well(healed)
    held_by_one()
    well(ours("vllm-hosts", *look, "--promise", "GW-06"))


def test_without_the_setting_it_goes(shared: Fleet) -> None:
    """The last one here: from now on the fleet is as before."""
    well(deploy())
    assert holders() == []
    for gateway in GATEWAYS:
        gone = lab_hosts.run(
            gateway, f"systemctl is-active {UNIT}; ls /etc/vllm-hosts/keepalived", check=False
        )
        assert gone.stdout.split() == ["inactive"], gone.stdout
    with pytest.raises(requests.ConnectionError):
        requests.get(f"{URL}/health", verify=str(shared.ca_file), timeout=5)
