"""The balancer on gateways where it is, is not, or is not as it was."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit import recorded_looks as looks
from tests.unit.fleets import fleet
from tests.unit.recorded_host import Host
from tests.unit.recording import InLine, Recorder
from vllm_hosts.host.paths import BALANCER_CONF, GATEWAY_CA, GATEWAY_CLIENT
from vllm_hosts.host.systemctl import UnitState
from vllm_hosts.roles.balancer import balancer
from vllm_hosts.roles.inner_tls import inner_tls

UNIT = "vllm-hosts-balancer.service"
LOADED = "Balancer | The balancer is configured and HAProxy has loaded it"


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Recorder:
    host = Host(fleet()["gw1"], looks.FRESH, looks.AFTER, offered=looks.OFFERED)
    made = Recorder(tmp_path_factory.mktemp("gateway"), host)
    assert not made.run(inner_tls).failed
    return made


@pytest.fixture
def in_order(fresh: Recorder, tmp_path: Path) -> Recorder:
    made = fresh.copied(tmp_path)
    assert not made.run(balancer).failed
    return made


def test_it_is_installed_checked_loaded_and_run(fresh: Recorder, tmp_path: Path) -> None:
    done = fresh.copied(tmp_path).run(balancer)
    installed, configured, enabled = done.operations
    assert "install --no-install-recommends" in installed
    assert "systemctl mask --runtime --quiet haproxy.service" in installed
    # The package enables its own service, which has nothing to listen on.
    assert "unmask --runtime --quiet haproxy.service; systemctl disable --quiet" in installed
    assert f"( haproxy -c -f {BALANCER_CONF} )" in configured
    assert f"systemctl reload {UNIT}" in configured
    assert enabled.commands == [f"systemctl enable --now {UNIT}"]
    assert done.effects == []


def test_somebody_s_own_haproxy_is_left_alone(fresh: Recorder, tmp_path: Path) -> None:
    made = fresh.copied(tmp_path)
    made.host.packages["haproxy"] = "3.0.11-1"
    installed, *_ = made.run(balancer).operations
    assert "socat" in installed
    # Its service starts at boot, if it did.
    made = fresh.copied(tmp_path)
    made.host.packages |= {"haproxy": "3.0.11-1", "socat": "1.8.0.3-1"}
    assert made.run(balancer).operations[0].commands == []


def test_a_second_run_changes_nothing(in_order: Recorder) -> None:
    assert in_order.run(balancer).changed == []


@pytest.mark.parametrize("path", [GATEWAY_CLIENT, GATEWAY_CA])
def test_it_is_reloaded_for_another_certificate(in_order: Recorder, path: str) -> None:
    found = in_order.host.paths[path]
    in_order.host.paths[path] = replace(found, sha256="0" * 64)
    done = in_order.run(balancer)
    assert done.changed == [LOADED]
    assert done.effects == [
        "HAProxy is reloaded; open requests are finished, and no connection is refused"
    ]


def test_one_that_does_not_run_is_started(in_order: Recorder) -> None:
    in_order.host.facts["Units"][UNIT] = UnitState(enabled=True, active=False)
    assert in_order.run(balancer).changed == ["Balancer | The balancer runs, now and at boot"]


def test_hosts_with_agents_have_none(in_line: InLine) -> None:
    assert in_line().run(balancer).operations == []
