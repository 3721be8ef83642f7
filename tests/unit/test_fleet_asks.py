"""What tests of gateways say about a load: nothing that failed is taken for something else."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from pydantic import SecretStr

from lab import hosts as lab_hosts
from tests.lab import fleet, fleet_asks
from tests.lab.conftest import pytest_collection_modifyitems
from tests.lab.fleet_asks import LOG, Front, HostLogs, Load
from tests.lab.fleet_load import Asked
from vllm_hosts.settings.fleet import Pool

FRONT = cast(
    Front,
    SimpleNamespace(urls=["https://10.87.0.41"], ca_file=Path("ca"), client_key=SecretStr("key")),
)


class Written:
    """A load that is over, and the logs of the hosts that it came to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for host in fleet.GPU_HOSTS:
            (folder / host / LOG).parent.mkdir(parents=True)
            self.logged(host, "0" * 32)
        self.load = Load(FRONT, folder)
        self.number = 0

    def logged(
        self, host: str, request: str, status: int = 200, gateway: str | None = "gw1"
    ) -> None:
        entry = {"request_id": request, "status": status, "gateway": gateway}
        with (self.folder / host / LOG).open("a") as file:
            file.write(json.dumps(entry) + "\n")

    def asked(self, host: str = "", **changed: Any) -> None:
        """One request: whole unless something else is said."""
        self.number += 1
        usual: dict[str, Any] = {
            "first": 1.5,
            "ended": 2.0,
            "status": 200,
            "id": f"{self.number:032x}",
        }
        one = Asked(self.number, "default", "10.87.0.41", False, "", 1.0, **(usual | changed))
        if host:
            self.logged(host, one.id)
        with self.load._out.open("a") as file:
            file.write(json.dumps(asdict(one)) + "\n")


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Written:
    monkeypatch.setattr(lab_hosts, "root", lambda name: tmp_path / name)
    monkeypatch.setattr(fleet_asks, "_LOGGED", 0.0)
    found = Written(tmp_path)
    for host in fleet.GPU_HOSTS:
        found.asked(host)
    return found


CUT: dict[str, Any] = {"why": "cut short"}
REFUSED: dict[str, Any] = {"status": 503, "why": "no agent", "id": ""}
NEVER: dict[str, Any] = {"status": 0, "first": 0.0, "why": "no answer", "id": ""}


def test_whole_answers_are_no_failures(written: Written) -> None:
    written.load.assert_none_failed()
    written.load.assert_only_begun_at("gpu2")
    assert written.load.answered_by() == {"gpu1": 1, "gpu2": 1, "gpu3": 1}


@pytest.mark.parametrize("how", [CUT, REFUSED, NEVER])
def test_whatever_failed_is_a_failure(written: Written, how: dict[str, Any]) -> None:
    written.asked("gpu2", **how)
    with pytest.raises(AssertionError, match="1 of 4 requests failed"):
        written.load.assert_none_failed()


@pytest.mark.parametrize("how", [REFUSED, NEVER])
def test_what_had_not_begun_may_not_fail(written: Written, how: dict[str, Any]) -> None:
    written.asked("gpu2", **how)
    with pytest.raises(AssertionError, match="before an answer began"):
        written.load.assert_only_begun_at("gpu2")


def test_what_had_begun_may_fail_at_one_host_only(written: Written) -> None:
    written.asked("gpu2", **CUT)
    written.asked("", **CUT)
    written.load.assert_only_begun_at("gpu2")
    with pytest.raises(AssertionError, match="at other hosts than gpu1"):
        written.load.assert_only_begun_at("gpu1")


def test_a_request_that_was_sent_on_is_that_host_s_which_answered(written: Written) -> None:
    for host, status in (("gpu1", 200), ("gpu2", 503)):
        written.logged(host, "a" * 32, status=status)
    written.asked(id="a" * 32)
    assert written.load.hosts()["a" * 32] == "gpu1"
    written.load.assert_only_begun_at("gpu2")


def test_no_host_may_get_a_request_twice(written: Written) -> None:
    for status in (503, 200):
        written.logged("gpu1", "a" * 32, status=status)
    written.asked(id="a" * 32)
    with pytest.raises(AssertionError, match="twice to one host"):
        written.load.assert_only_begun_at("gpu2")


def test_what_clients_had_to_send_again_is_said(written: Written) -> None:
    written.asked("gpu1", again=1)
    written.load.assert_none_failed(kept=False)
    with pytest.raises(AssertionError, match="sent twice"):
        written.load.assert_none_failed()


def test_an_answer_that_no_host_logged_is_said(written: Written) -> None:
    written.asked()
    with pytest.raises(AssertionError, match="no host logged"):
        written.load.answered_by()


def test_a_host_that_had_nothing_to_do_proves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lab_hosts, "root", lambda name: tmp_path / name)
    found = Written(tmp_path)
    found.asked("gpu1")
    with pytest.raises(AssertionError, match="gpu2 answered nothing"):
        found.load.assert_only_begun_at("gpu2")


def test_only_new_lines_that_came_through_a_gateway_count(written: Written) -> None:
    logs = HostLogs()
    written.logged("gpu1", "b" * 32, gateway=None)
    written.logged("gpu1", "c" * 32)
    assert logs.by_id() == {"c" * 32: "gpu1"}


def test_haproxy_s_words_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    said = (
        "# pxname,svname,status,weight,uweight,\nchat,FRONTEND,OPEN,,,\nchat,chat.h1,UP,1,1,\n"
        "chat,chat.h2,DOWN 1/2,1,1,\nchat,BACKEND,UP,2,2,\nchat,chat.h3,UP,1,16,\n"
        "stats,chat.h1,MAINT,1,1,\n\n"
    )
    monkeypatch.setattr(lab_hosts, "run", lambda *_: SimpleNamespace(stdout=said))
    pools = [Pool("chat", "lab/chat", ())]
    assert fleet.states("gw1", pools) == {
        "chat.h1": "UP",
        "chat.h2": "DOWN 1/2",
        "chat.h3": "UP, slow",
    }


def test_tests_of_gateways_come_last() -> None:
    names = ["fleet one", "deployed one", "fleet two", "plain"]
    items = [SimpleNamespace(name=name, fixturenames=name.split()[:1]) for name in names]
    pytest_collection_modifyitems(cast(list[pytest.Item], items))
    assert [one.name for one in items] == ["deployed one", "plain", "fleet one", "fleet two"]
