"""Merging daemon.json: other people's keys survive, and nothing is written without need."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.golden import check_golden
from vllm_hosts.errors import HostError
from vllm_hosts.host.daemon_json import PATH, merged, restored
from vllm_hosts.roles.docker.plan import daemon_settings
from vllm_hosts.roles.nvidia_container_toolkit.plan import RUNTIME
from vllm_hosts.settings import Docker


def docker(existing: bytes | None) -> bytes | None:
    return merged(existing, lambda current: daemon_settings(Docker(), current))


def test_golden_from_nothing() -> None:
    text = docker(None)
    assert text is not None
    check_golden("docker/from-nothing.json", text.decode())


def test_golden_with_other_people_s_settings() -> None:
    theirs = {
        "registry-mirrors": ["https://mirror.example.org"],
        "default-network-opts": {"bridge": {"com.docker.network.driver.mtu": "1400"}},
        "runtimes": {"kata": {"path": "kata"}},
        "live-restore": False,
        "features": {"cdi": True, "buildkit": True},
    }
    first = docker(json.dumps(theirs).encode())
    assert first is not None
    both = merged(first, lambda current: RUNTIME)
    assert both is not None
    check_golden("docker/merged.json", both.decode())


@pytest.mark.parametrize("empty", [b"", b"\n", b"{}"])
def test_an_empty_file_counts_as_no_settings(empty: bytes) -> None:
    assert docker(empty) == docker(None)


def test_a_file_that_has_it_all_is_left_alone() -> None:
    text = docker(b'{"debug": true}')
    assert text is not None
    assert docker(text) is None
    assert docker(json.dumps(json.loads(text)).encode()) is None, "formatting is no difference"


def test_a_log_driver_that_somebody_chose_keeps_its_options() -> None:
    text = docker(b'{"log-driver": "journald", "log-opts": {"tag": "x"}}')
    assert text is not None
    assert json.loads(text)["log-opts"] == {"tag": "x"}


@pytest.mark.parametrize("broken", [b"{", b"[]", b'"text"', b"{} trailing", b"\xff\xfe"])
def test_a_broken_file_stops_the_host_and_is_named(broken: bytes) -> None:
    with pytest.raises(HostError, match="/etc/docker/daemon.json"):
        docker(broken)


def test_null_where_an_object_belongs_is_replaced() -> None:
    text = merged(b'{"runtimes": null}', lambda current: RUNTIME)
    assert text is not None
    assert json.loads(text) == RUNTIME


#: Few, so that the same stands on both sides, on every level.
KEYS = st.sampled_from(["a", "b", "c", "runtimes"]) | st.text(max_size=3)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(KEYS, JSON, max_size=4)


@given(OBJECTS, OBJECTS)
def test_merging_adds_what_is_wanted_and_loses_nothing_else(
    theirs: dict[str, Any], ours: dict[str, Any]
) -> None:
    text = merged(json.dumps(theirs).encode(), lambda current: ours)
    result = theirs if text is None else json.loads(text)
    for key in theirs.keys() - ours.keys():
        assert result[key] == theirs[key]
    for key, value in ours.items():
        if not isinstance(value, dict):
            assert result[key] == value
    assert merged(json.dumps(result).encode(), lambda current: ours) is None


class TestRestored:
    """On a host that is left: our keys as they were, and everybody's else as it is."""

    LIVE = {"live-restore": True}  # noqa: RUF012

    def text(self, now: object, before: object, deployed: object) -> bytes | None:
        packed = [
            None if one is None else json.dumps(one).encode() for one in (now, before, deployed)
        ]
        return restored(*packed)

    def test_it_is_written_as_people_read_it(self) -> None:
        assert PATH == "/etc/docker/daemon.json"
        found = self.text(self.LIVE | {"mtu": 1400}, None, self.LIVE)
        assert found == b'{\n    "mtu": 1400\n}\n'

    def test_an_object_that_was_there_empty_stays(self) -> None:
        options = {"log-opts": {"max-size": "50m"}, "x": 1}
        assert (
            self.text(options, {"log-opts": {}}, options)
            == b'{\n    "log-opts": {},\n    "x": 1\n}\n'
        )
        # One that came with ours goes, at each depth; what somebody has put beside it stays.
        deep = {"runtimes": {"nvidia": {"args": [], "path": "p"}}, "x": 1}
        assert self.text(deep, None, deep) == b'{\n    "x": 1\n}\n'
        more = {"runtimes": {"nvidia": {"args": [], "path": "p"}, "kata": {}}}
        assert self.text(more, None, deep) == (
            b'{\n    "runtimes": {\n        "kata": {}\n    }\n}\n'
        )

    def test_what_has_another_form_by_now_is_somebody_s(self) -> None:
        now = {"log-opts": "none", "runtimes": {"nvidia": []}}
        deployed = {"log-opts": {"max-size": "50m"}, "runtimes": {"nvidia": {"path": "p"}}}
        found = self.text(now, None, deployed)
        assert found is not None and json.loads(found) == now

    def test_what_nobody_deployed_is_not_ours(self) -> None:
        found = self.text(self.LIVE, None, None)
        assert found is not None and json.loads(found) == self.LIVE
