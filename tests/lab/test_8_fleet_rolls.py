"""Settings and keys that change over a fleet while clients ask."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab.settings import FLEET_AGENTS
from tests.lab.deploys import Run, changes, command
from tests.lab.fleet import (
    FLEET,
    GATEWAYS,
    GPU_HOSTS,
    Fleet,
    asked,
    deploy,
    key_of,
    keys,
    started,
    statuses,
    well,
)
from tests.lab.fleet_asks import Load

pytestmark = pytest.mark.nightly
#: A roll loads three models, one after the other, beside clients that ask.
JOB: dict[str, Any] = {"requests": 10_000, "seconds": 900, "pause": 2.5}


@pytest.fixture(autouse=True)
def whole(fleet: Fleet) -> None:
    """Each test begins with all agents in rotation."""
    fleet.wait_whole()


@pytest.fixture
def as_before(fleet: Fleet) -> Iterator[None]:
    """Afterwards the settings are the inventory's again."""
    yield
    well(deploy())
    assert changes(deploy()) == dict.fromkeys((*GATEWAYS, *GPU_HOSTS), 0)


def with_chat(**changed: Any) -> dict[str, Any]:
    """Settings in which the agent of all hosts is another one."""
    chat, draft = FLEET_AGENTS
    return {"agents": [chat | changed, draft]}


def containers() -> dict[str, str]:
    return {host: started(host) for host in GPU_HOSTS}


@pytest.mark.usefixtures("as_before")
def test_a_changed_setting_rolls_over_the_fleet_without_a_failed_request(
    fleet: Fleet, tmp_path: Path
) -> None:
    before, draft = containers(), started("gpu1", "draft")
    with Load(fleet, tmp_path, **JOB) as load:
        run = deploy(settings=with_chat(max_model_len=768))
        load.wait_for(40)
    after = containers()
    well(run)
    assert [host for host in GPU_HOSTS if after[host] == before[host]] == []
    assert started("gpu1", "draft") == draft, "the agent that did not change was recreated"
    print(f"the roll took {run.seconds:.0f} s")
    load.assert_none_failed()


@pytest.mark.usefixtures("as_before")
def test_a_model_that_does_not_come_up_stops_the_roll(fleet: Fleet, tmp_path: Path) -> None:
    before = containers()
    # Refused before anything is touched, unless that is overruled.
    broken = with_chat(extra_args=["--enforce-eager", "--no-such-argument"])
    with Load(fleet, tmp_path, **JOB) as load:
        run = deploy(settings=broken | {"capacity": {"preflight": "warn"}})
        load.wait_for(40)
    after = containers()
    assert run.code != 0, run.output[-6000:]
    assert "no-such-argument" in run.output, run.output[-6000:]
    changed = [host for host in GPU_HOSTS if after[host] != before[host]]
    assert len(changed) == 1, f"touched: {changed}"
    others = [host for host in GPU_HOSTS if host not in changed]
    assert left_alone(run) == set(others), run.output[-6000:]
    load.assert_none_failed()
    fleet.wait_whole()
    for host in others:
        assert all(fleet.up(gateway, host) for gateway in GATEWAYS), statuses(fleet)


@pytest.mark.usefixtures("as_before")
def test_a_host_from_which_everything_is_taken_off_costs_no_request(
    fleet: Fleet, tmp_path: Path
) -> None:
    with Load(fleet, tmp_path, **JOB) as load:
        run = command("pyinfra", "-y", "--limit", "gpu3", FLEET, "remove.py")
        removed = time.monotonic()
        load.wait_for(60)
    well(run)
    load.assert_none_failed()
    assert not any(fleet.up(gateway, "gpu3") for gateway in GATEWAYS), statuses(fleet)
    late = [one for one in load.asked if one.began > removed]
    assert set(load.answered_by(late)) == {"gpu1", "gpu2"}


def left_alone(run: Run) -> set[str]:
    """Hosts of which the run says that it left their agents as they are."""
    return set(re.findall(r"\[(gpu\d)\].*left as they are", run.output))


@pytest.fixture
def clients(fleet: Fleet) -> Iterator[tuple[str, str]]:
    """Two further clients, and none of them afterwards."""
    names = ("alice", "bob")
    for name in names:
        well(command("vllm-hosts", "keys", "add", FLEET, name))
    well(command("pyinfra", "-y", FLEET, "keys.py"))
    yield names
    for name in names:
        command("vllm-hosts", "keys", "revoke", FLEET, name)
    well(command("pyinfra", "-y", FLEET, "keys.py"))


def test_keys_change_at_all_gateways_under_load(
    fleet: Fleet, clients: tuple[str, str], tmp_path: Path
) -> None:
    secrets = {name: key_of(name).get_secret_value() for name in clients}
    everybody = [*secrets.items(), ("default", fleet.client_key.get_secret_value())]
    job = JOB | {"pause": 0.4}
    with Load(fleet, tmp_path, **job, keys=everybody) as load:
        keys("rotate", "alice", "--overlap", "15m")
        new = key_of("alice").get_secret_value()
        assert new != secrets["alice"]
        with Load(fleet, tmp_path, **job, keys=[("new alice", new)], clients=6) as renewed:
            revoking = time.monotonic()
            keys("revoke", "bob")
            revoked = time.monotonic()
            load.wait_for(200)
            renewed.wait_for(30)
    renewed.assert_none_failed(kept=False)
    for name in ("alice", "default"):
        failed = [one for one in load.of(name) if one.failed]
        assert not failed, f"{len(failed)} with a valid key, such as {failed[0]}"
        assert len(load.of(name)) > 50
    bob = load.of("bob")
    early = [one for one in bob if one.ended < revoking]
    assert early
    assert {one.status for one in early} == {200}
    late = [one for one in bob if one.began > revoked]
    assert late
    assert {one.status for one in late} == {401}, [str(one) for one in late if one.status != 401][
        :5
    ]
    assert {one.gateway for one in late} == {fleet.settings[one].address for one in GATEWAYS}
    # Nobody is told by a host what gateways do not know.
    assert asked(fleet, "gw1", key=key_of("alice")).status_code == 200
