"""Packages and archives to the letter: several at once, what is said of them, and their units."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from tests.unit.driver_hosts import DEBIAN_13
from tests.unit.operation_steps import Steps
from tests.unit.samples import settings
from vllm_hosts.facts.apt import Packages
from vllm_hosts.facts.tree import TreeFound
from vllm_hosts.host.archives import docker_archive
from vllm_hosts.host.files import NOTHING
from vllm_hosts.operations import apt
from vllm_hosts.operations.base import NOTE

READ = f"set -e;   {apt._read_lists()};"


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Steps:
    return Steps(
        apt, monkeypatch, {"AptPackages": Packages({"old": "1", "older": "1"}, frozenset())}
    )


def installed(
    steps: Steps, monkeypatch: pytest.MonkeyPatch, wanted: Mapping[str, None], **how: Any
) -> list[tuple[str, str]]:
    """What is done, each with its label."""
    monkeypatch.setattr(apt, "watched", lambda label, script: (label, script))
    return steps.run(apt.packages_present, wanted, **how)


def test_several_packages_take_the_place_of_several(
    steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    outages: list[str] = []

    def outage(commands: Any, serving: object, what: str) -> Any:
        outages.append(what)
        return commands

    monkeypatch.setattr(apt, "outage", outage)
    removal, (label, _) = installed(
        steps, monkeypatch, {"a": None, "b": None}, conflicting=["old", "older"]
    )
    assert removal[0] == "removing old older"
    assert removal[1].endswith(f"{apt._finished(f'{apt._APT_GET} remove old older')}")
    assert label == "installing a b"
    assert outages == ["packages old older are replaced by a b"]


@pytest.mark.parametrize(
    ("wanted", "disabled"), [("a", "; systemctl disable --quiet x y"), ("old", "")]
)
def test_units_of_new_packages_alone_are_kept_from_starting_at_boot(
    steps: Steps, monkeypatch: pytest.MonkeyPatch, wanted: str, disabled: str
) -> None:
    monkeypatch.setattr(apt, "_missing", lambda *given: True)
    [(_, script)] = installed(
        steps,
        monkeypatch,
        {wanted: None},
        without_starting=["x"],
        without_enabling=["x", "y"],
    )
    assert script.startswith(
        f"set -e; trap 'systemctl unmask --runtime --quiet x{disabled}' EXIT;"
        " systemctl mask --runtime --quiet x;"
    )


def test_lists_that_were_read_by_themselves_are_not_read_again(
    steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    [(_, before)] = installed(steps, monkeypatch, {"a": None})
    steps.host = type(steps.host)(name="gpu2")
    lists: Any = SimpleNamespace(_inner=SimpleNamespace(__wrapped__=apt.lists_read))
    steps.run(lists)
    [(_, after)] = installed(steps, monkeypatch, {"a": None})
    assert before.startswith(READ)
    assert not after.startswith(READ)


def test_adding_an_archive_says_what_it_brought(steps: Steps) -> None:
    """Its log is kept from people, but for lines that are meant for them."""
    archive = docker_archive(settings().docker, DEBIAN_13)
    steps.facts = {
        "TreeState": TreeFound({archive.source.path: NOTHING}, ""),
        "AptSourceFiles": {},
        "AptKeyFingerprints": (),
    }
    [script] = steps.run(apt.archive_present, lambda: archive)
    assert f"sed -n 's/^{NOTE}/" in script
