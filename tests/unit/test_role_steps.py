"""What roles hand to their operations, with stand-ins for all of these: removal, rollback, lock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from pyinfra.context import ctx_host

from tests.unit.samples import settings
from tests.unit.test_removal_plan import AGENT, HAD, IMAGE, THEIRS, removal
from vllm_hosts.errors import HostError
from vllm_hosts.host.files import Absent
from vllm_hosts.host.manifest import Before
from vllm_hosts.host.remains import Remains
from vllm_hosts.operations.partly import NginxAfter
from vllm_hosts.project import run
from vllm_hosts.roles import lock, rollback
from vllm_hosts.roles import removal as role
from vllm_hosts.roles.removal.plan import TIMERS


class Steps(dict[str, tuple[Any, ...]]):
    """By name, what each operation got, in order; ``operations``: their functions' names."""

    def __init__(self, module: ModuleType, names: list[str], patch: pytest.MonkeyPatch) -> None:
        self.operations: list[str] = []
        for name in names:
            patch.setattr(module, name, self._noting(name))

    def _noting(self, operation: str) -> Callable[..., None]:
        def note(*given: Any, name: str, **words: Any) -> None:
            self.operations.append(operation)
            self[name] = (*given, *words.values())

        return note


def called(steps: Steps, name: str, *given: Any) -> Any:
    """What the functions say that an operation of this name got."""
    found = [one(*given) if callable(one) else one for one in steps[name]]
    return found[0] if len(found) == 1 else found


class TestRemoval:
    NAMES = (
        "not_anothers", "outlook", "edge_closed", "timers_stopped", "containers_removed",
        "images_removed", "sshd_configured", "daemon_restored", "files_removed", "packages_removed",
        "sources_restored", "folders_removed", "firewall_opened", "forgotten",
    )  # fmt: skip

    @pytest.fixture
    def asked(self) -> list[dict[str, Any]]:
        return []

    @pytest.fixture
    def steps(
        self, monkeypatch: pytest.MonkeyPatch, asked: list[dict[str, Any]]
    ) -> Callable[..., Steps]:
        def made(remains: Remains, **data: Any) -> Steps:
            def look(fact: type, **given: Any) -> Remains:
                asked.append({"fact": fact.__name__, **given})
                return remains

            steps = Steps(role, [*self.NAMES], monkeypatch)
            monkeypatch.setattr(role, "look", look)
            current = SimpleNamespace(settings=settings())
            monkeypatch.setattr(run, "current", lambda: current)
            hand = SimpleNamespace(claim="the claim")
            monkeypatch.setattr(run, "at_hand", lambda: hand)
            host: Any = SimpleNamespace(data=data)
            with ctx_host.use(host):
                role.removal._inner()
            return steps

        return made

    def test_in_this_order(self, steps: Callable[..., Steps], asked: list[Any]) -> None:
        """The edge first and the firewall last, so that nobody is let in on the way."""
        done = steps(removal(AGENT).remains)
        assert done.operations == [
            *self.NAMES[:12],
            "folders_removed",
            "firewall_opened",
            "packages_removed",
            "forgotten",
        ]
        assert [*done] == [
            "The host belongs to no other inventory",
            "What goes and what stays is known",
            "The edge is closed, and its keys are gone",
            "No timer of ours runs",
            "The agents and their networks are gone",
            "Their images are gone",
            "sshd has its own settings",
            "daemon.json has its own settings",
            "Our files are gone",
            "The packages that only we needed are gone",
            "apt has its own archives",
            "Our folders are gone",
            "What these packages left is gone",
            "The firewall is open, as it was",
            "The firewall's package is gone, where only we needed it",
            "Nothing of ours is left on the host",
        ]
        # Nothing is looked at before its operation is.
        assert asked == []

    def test_what_each_gets_is_what_is_there_when_it_is_due(
        self, steps: Callable[..., Steps], asked: list[Any]
    ) -> None:
        plan = removal(AGENT, THEIRS, docker={"networks": ("vllm_qwen",)})
        done = steps(plan.remains)
        first, *_, last = called(done, "What goes and what stays is known")
        assert first.startswith("agents qwen are stopped")
        assert last.startswith(("Docker stays", "packages", "iptables"))
        assert done["No timer of ours runs"] == (TIMERS,)
        assert called(done, "The agents and their networks are gone") == [
            [AGENT.id],
            ("vllm_qwen",),
        ]
        assert called(done, "Their images are gone") == [IMAGE]
        [gone] = done["sshd has its own settings"][0]
        assert gone == Absent("/etc/ssh/sshd_config.d/00-vllm-hosts.conf")
        assert called(done, "daemon.json has its own settings") == [True, True]
        assert called(done, "Our files are gone") == [plan.files, frozenset()]
        packages = called(done, "The packages that only we needed are gone")
        assert packages == [plan.holds, plan.packages(firewall=False)]
        last_ones = called(done, "The firewall's package is gone, where only we needed it")
        assert last_ones == [plan.holds, plan.packages(firewall=True)]
        assert packages != last_ones
        sources, given_way = done["apt has its own archives"]
        assert sources() == plan.sources
        assert given_way({"/etc/apt/sources.list.d/docker.list": ""}) == []
        assert called(done, "Our folders are gone") == [plan.folders, plan.short]
        assert called(done, "What these packages left is gone") == [
            plan.left_by_packages,
            plan.groups,
            plan.short,
        ]
        assert called(done, "The firewall is open, as it was") == ["agent qwen"]
        assert called(done, "Nothing of ours is left on the host") == ["the claim", plan.if_empty]
        assert done["The host belongs to no other inventory"] == ("the claim",)
        assert asked[0] == {
            "fact": "HostRemains",
            "directory": "/opt/vllm",
            "project": "vllm",
            "fetching": "vllm-hosts-fetch",
            "bridges": "vllm-",
            "folders": ["/opt/vllm", "/var/lib/vllm", "/var/lib/vllm/agents"],
        }

    def test_where_docker_goes_its_file_goes(self, steps: Callable[..., Steps]) -> None:
        assert called(steps(removal().remains), "daemon.json has its own settings") == [True, False]
        unknown = removal(before=None).remains
        assert called(steps(unknown), "daemon.json has its own settings") == [False, True]

    def test_models_go_where_somebody_says_so(self, steps: Callable[..., Steps]) -> None:
        plan = removal(models=True)
        folders, _ = called(steps(plan.remains, remove_models=True), "Our folders are gone")
        assert folders == plan.folders
        for data in ({}, {"remove_models": ""}):
            found, _ = called(steps(plan.remains, **data), "Our folders are gone")
            assert found == removal().folders != plan.folders

    def test_agents_that_are_elsewhere_are_not_left_behind(
        self, steps: Callable[..., Steps]
    ) -> None:
        remains = removal().remains
        manifest = replace(remains.manifest, files=("/srv/vllm/compose.yaml",))
        done = steps(replace(remains, manifest=manifest))
        with pytest.raises(HostError) as found:
            called(done, "Our files are gone")
        assert str(found.value) == (
            "deploys keep the agents of this host in /srv/vllm, and the settings say /opt/vllm;"
            " set vllm.directory = '/srv/vllm', and run again"
        )

    @pytest.mark.parametrize(
        ("before", "expected"),
        [
            (None, NginxAfter(stays=True)),
            (Before(HAD), NginxAfter(stays=False)),
            (Before(HAD | {"nginx"}), NginxAfter(True, False, False)),
            (
                Before(HAD | {"nginx"}, active=frozenset({"nginx.service"})),
                NginxAfter(True, True, False),
            ),
            (
                Before(HAD | {"nginx"}, enabled=frozenset({"nginx.service"})),
                NginxAfter(True, False, True),
            ),
        ],
    )
    def test_what_becomes_of_nginx(
        self, steps: Callable[..., Steps], before: Before | None, expected: NginxAfter
    ) -> None:
        done = steps(removal(before=before).remains)
        assert called(done, "The edge is closed, and its keys are gone") == expected

    def test_units_that_were_enabled_are_known_where_they_are_written_down(
        self, steps: Callable[..., Steps]
    ) -> None:
        enabled = frozenset({"x.service"})
        done = steps(removal(before=Before(HAD, enabled=enabled)).remains)
        assert called(done, "Our files are gone")[1] == enabled
        done = steps(removal(before=None).remains)
        assert called(done, "Our files are gone")[1] == frozenset()


def test_a_way_back_is_checked_announced_and_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["no_problems", "way_back_announced", "gone_back"]
    steps = Steps(rollback, names, monkeypatch)
    monkeypatch.setattr(run, "current", lambda: SimpleNamespace(way="the way"))
    monkeypatch.setattr(rollback, "refusals", lambda way: [f"no {way}"])
    rollback.rollback._inner()
    assert steps.operations == names
    assert [*steps] == [
        "There is something to go back to",
        "Hosts with the same model take turns",
        "The agents are those of before the last deploy",
    ]
    assert called(steps, "There is something to go back to") == ["no the way"]
    assert set(list(steps.values())[1:]) == {("the way",)}


def test_a_host_is_held_for_what_this_run_is_for(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = Steps(lock, ["host_held"], monkeypatch)
    monkeypatch.setattr(run, "purpose", lambda: "deploy.py of prod.py")
    lock.lock._inner()
    assert steps == {"No other deploy is at work on the host": ("deploy.py of prod.py",)}


def test_roles_have_their_names_in_front_of_their_steps() -> None:
    named = (role.removal, rollback.rollback, lock.lock)
    names = [one._inner.deploy_name for one in named]  # type: ignore[attr-defined]
    assert names == ["Removal", "Roll back", "Lock"]
