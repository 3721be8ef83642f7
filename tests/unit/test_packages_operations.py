"""Which packages are installed, held and removed, and from where: step by step."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from pyinfra.context import ctx_host, ctx_state

from tests.golden import check_golden
from tests.unit.driver_hosts import DEBIAN_13, H100, bare
from tests.unit.operation_steps import Steps
from tests.unit.samples import settings
from vllm_hosts.errors import HostError
from vllm_hosts.facts.apt import Packages
from vllm_hosts.facts.tree import TreeFound
from vllm_hosts.host.apt_entries import Edit
from vllm_hosts.host.archives import docker_archive
from vllm_hosts.host.driver import Install
from vllm_hosts.host.files import NOTHING, File, Found
from vllm_hosts.host.manifest import brought
from vllm_hosts.host.nvidia_smi import Failure
from vllm_hosts.host.systemctl import UnitState
from vllm_hosts.operations import apt, apt_lists, driver
from vllm_hosts.operations.base import NOTE

ARCHIVE = docker_archive(settings().docker, DEBIAN_13)
SOURCE = ARCHIVE.source
ROOT = ("root", "0")
RIGHT = Found("f", 0o644, ROOT, ROOT, SOURCE.sha256)
THERE = Found("f", 0o644, ROOT, ROOT, "1")
GET = apt._APT_GET


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Steps:
    made = Steps(apt, monkeypatch, {})
    monkeypatch.setattr(apt, "watched", lambda label, script, **_: (label, script))
    return made


class TestArchives:
    OLD = "/etc/apt/sources.list.d/docker.list"
    KEY = "/etc/apt/keyrings/docker.gpg"

    @pytest.fixture
    def there(self, steps: Steps, monkeypatch: pytest.MonkeyPatch) -> Steps:
        paths = {SOURCE.path: RIGHT, self.OLD: NOTHING, self.KEY: NOTHING}
        steps.facts = {
            "TreeState": TreeFound(paths, ""),
            "AptSourceFiles": {},
            "AptKeyFingerprints": (ARCHIVE.key_fingerprint,),
        }
        monkeypatch.setattr(apt, "archive_script", lambda archive, edits: (archive, edits))
        return steps

    def run(self, steps: Steps) -> list[Edit] | None:
        done = steps.run(apt.archive_present, lambda: ARCHIVE, stale=[self.OLD, self.KEY])
        assert steps.told[0] == ("remember", [SOURCE])
        assert steps.asked == [
            ("TreeState", {"paths": [SOURCE.path, self.OLD, self.KEY]}),
            ("AptSourceFiles", {}),
            ("AptKeyFingerprints", {"key_path": ARCHIVE.key_path}),
        ]
        if not done:
            assert len(steps.told) == 1
            return None
        [(label, (archive, edits))] = done
        assert (label, archive) == (f"adding {ARCHIVE.url}", ARCHIVE)
        return list(edits)

    def test_where_all_is_right_nothing_is_done(self, there: Steps) -> None:
        assert self.run(there) is None

    def test_another_key_is_replaced(self, there: Steps) -> None:
        there.facts["AptKeyFingerprints"] = (ARCHIVE.key_fingerprint, "another")
        assert self.run(there) == []
        assert there.told[2:] == [("differs", ARCHIVE.key_path, "is not the pinned key")]

    def test_another_source_is_replaced(self, there: Steps) -> None:
        paths = there.facts["TreeState"].paths
        paths[SOURCE.path] = THERE
        assert self.run(there) == []
        assert there.told[1:] == [("entries_differ", [SOURCE], paths)]

    def test_old_entries_and_their_key_give_way(self, there: Steps) -> None:
        there.facts["TreeState"].paths.update({self.OLD: THERE, self.KEY: THERE})
        old = Edit(self.OLD, None)
        assert self.run(there) == [old, Edit(self.KEY, None)]
        assert there.told[2:] == [
            ("differs", path, "names the same archive a second time")
            for path in (self.OLD, self.KEY)
        ]

    def test_a_key_that_another_archive_needs_stays(self, there: Steps) -> None:
        there.facts["TreeState"].paths.update({self.OLD: THERE, self.KEY: THERE})
        entry = f"deb [signed-by={self.KEY}] https://x.example/a b c\n"
        there.facts["AptSourceFiles"] = {"/etc/apt/sources.list.d/x.list": entry}
        assert self.run(there) == [Edit(self.OLD, None)]
        # That of an entry that leaves does not count.
        there.facts["AptSourceFiles"] = {self.OLD: entry}
        assert self.run(there) == [Edit(self.OLD, None), Edit(self.KEY, None)]

    def test_a_second_entry_is_named_once(self, there: Steps) -> None:
        """By what is read of it, and as one of those that older instructions left."""
        there.facts["TreeState"].paths[self.OLD] = THERE
        line = f"deb {ARCHIVE.url} {ARCHIVE.suite} stable\n"
        there.facts["AptSourceFiles"] = {self.OLD: line}
        [edit] = self.run(there) or []
        assert edit.path == self.OLD


class TestPackages:
    FOUND = Packages({"a": "1", "b": "2", "old": "7"}, frozenset({"a"}))

    def run(self, steps: Steps, *given: Any, **more: Any) -> list[Any]:
        steps.facts["AptPackages"] = self.FOUND
        return steps.run(apt.packages_present, *given, **more)

    def installed(
        self, words: str, new: Sequence[str], *, before: str = "  ", first: str = ":"
    ) -> str:
        """:param new: those that the host did not have."""
        command = (
            f"{GET} install --no-install-recommends --allow-downgrades"
            f" --allow-change-held-packages {words}"
        )
        noted = brought("package", new)
        return f"set -e; {before} {apt._read_lists()}; {first}; {noted}; {apt._finished(command)}"

    def test_what_is_there_stays_as_it_is(self, steps: Steps) -> None:
        assert self.run(steps, {"a": None, "b": "2"}) == []
        assert steps.told == [("will_change", [])]
        assert steps.asked == [("AptPackages", {"names": ["a", "b"]})]

    def test_what_is_missing_or_another_version_is_installed(self, steps: Steps) -> None:
        [(label, script)] = self.run(steps, lambda: {"a": "3", "b": None, "c": None, "d": "4~x"})
        assert label == "installing a b c d"
        assert script == self.installed("a=3 c 'd=4~x'", ["c", "d"], before=" ")
        why = "is not installed at this version"
        assert steps.told == [
            *(("differs", f"package {name}", why) for name in ("a=3", "c", "d=4~x")),
            ("will_change", ["a", "c", "d"]),
        ]

    def test_all_are_requested_anew(self, steps: Steps) -> None:
        steps.facts["AptPackages"] = self.FOUND
        inner: Any = SimpleNamespace(__wrapped__=apt.packages_installed)
        operation: Any = SimpleNamespace(_inner=inner)
        [(_, script)] = steps.run(operation, {"a": None, "b": None}, anew=True, first="FIRST")
        assert script == self.installed("a b", [], before=" ", first="FIRST")
        assert steps.told[-1] == ("will_change", ["a", "b"])

    def test_units_are_kept_from_starting(self, steps: Steps) -> None:
        [(_, script)] = self.run(steps, {"c": None}, without_starting=["x", "y"])
        assert script == self.installed(
            "c",
            ["c"],
            before="trap 'systemctl unmask --runtime --quiet x y' EXIT;"
            " systemctl mask --runtime --quiet x y;",
        )

    def test_what_is_not_held_yet_is_held(self, steps: Steps) -> None:
        assert self.run(steps, {"a": None, "b": None}, held=True) == [
            ("holding packages", f"set -e; {brought('hold', ['b'])}; apt-mark hold b")
        ]
        assert steps.told == [
            ("differs", "package b", "is not held"), ("will_change", [])
        ]  # fmt: skip

    def test_what_conflicts_goes_first_and_agents_with_it(
        self, steps: Steps, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def outage(commands: Any, serving: object, what: str) -> Any:
            steps.told.append((what, serving))
            yield from commands

        monkeypatch.setattr(apt, "outage", outage)
        serving = object()
        removal, (label, _) = self.run(
            steps, {"c": None}, conflicting=["old", "gone"], before_removing="BEFORE",
            serving=serving,
        )  # fmt: skip
        assert removal == (
            "removing old",
            f"BEFORE\n{apt._finished(f'{GET} remove old')}",
        )
        assert label == "installing c"
        assert steps.asked == [("AptPackages", {"names": ["c", "old", "gone"]})]
        assert steps.told == [
            ("differs", "package old", "should not be installed"),
            ("differs", "package c", "is not installed at this version"),
            ("will_change", ["old", "c"]),
            ("packages old are replaced by c", serving),
        ]

    def test_lists_are_read_by_themselves(self, steps: Steps) -> None:
        operation: Any = SimpleNamespace(_inner=SimpleNamespace(__wrapped__=apt.lists_read))
        assert steps.run(operation) == [("reading the archives' lists", apt._read_lists())]
        assert apt._read_lists(" -o X").endswith(" update -o X")
        assert GET == (
            "DEBIAN_FRONTEND=noninteractive NEEDRESTART_MODE=l apt-get -q -y"
            " -o DPkg::Lock::Timeout=600 -o Acquire::Retries=3 -o Dpkg::Use-Pty=0"
            " -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold"
        )


class TestLists:
    """Read once in a run, as long as nothing speaks against it."""

    READ = apt._read_lists()

    @pytest.fixture
    def now(self, monkeypatch: pytest.MonkeyPatch) -> list[float]:
        clock = [100.0]
        monkeypatch.setattr(time, "monotonic", lambda: clock[0])
        return clock

    def install(self, steps: Steps) -> str:
        steps.facts["AptPackages"] = Packages({}, frozenset())
        [(_, script)] = steps.run(apt.packages_present, {"c": None})
        return str(script)

    def at_once(self, script: str) -> bool:
        assert self.READ in script
        return f"set -e;   {self.READ};" in script

    def test_a_second_installation_has_those_of_the_first(
        self, steps: Steps, now: list[float]
    ) -> None:
        assert self.at_once(self.install(steps))
        now[0] += 599
        again = self.install(steps)
        assert not self.at_once(again)
        check_golden("scripts/apt-installed-again.sh", f"{again}\n")
        now[0] += 1
        assert self.at_once(self.install(steps))
        assert not self.at_once(self.install(steps))

    def test_those_that_aged_during_an_installation_are_not_new(
        self, steps: Steps, now: list[float]
    ) -> None:
        self.install(steps)
        now[0] += 599
        steps.facts["AptPackages"] = Packages({}, frozenset())
        with ctx_state.use(SimpleNamespace(is_executing=True)), ctx_host.use(steps.host):
            for _ in apt.packages_installed({"c": None}):
                now[0] += 2
        assert self.at_once(self.install(steps))

    def test_another_host_has_its_own(self, steps: Steps, now: list[float]) -> None:
        self.install(steps)
        steps.host = type(steps.host)(name="gpu2")
        assert self.at_once(self.install(steps))

    def test_nothing_is_read_while_a_run_is_prepared(self, steps: Steps, now: list[float]) -> None:
        steps.executing = False
        self.install(steps)
        steps.executing = True
        assert self.at_once(self.install(steps))

    def test_one_that_fails_has_read_none(self, steps: Steps, now: list[float]) -> None:
        """pyinfra does not go on with an operation then."""
        steps.facts["AptPackages"] = Packages({}, frozenset())
        with ctx_state.use(SimpleNamespace(is_executing=True)), ctx_host.use(steps.host):
            commands = apt.packages_installed({"c": None})
            next(commands)
            commands.close()
        assert self.at_once(self.install(steps))

    def test_other_sources_of_the_distribution_count(self, steps: Steps, now: list[float]) -> None:
        self.install(steps)
        with ctx_host.use(steps.host):
            apt_lists.changed()
        assert self.at_once(self.install(steps))

    @pytest.mark.parametrize("gpg", [True, False])
    def test_adding_an_archive_may_have_read_all(
        self, steps: Steps, now: list[float], gpg: bool
    ) -> None:
        """It says so, and else has read its own."""
        script = apt.archive_script(ARCHIVE, [])
        assert script.count(f"echo '{NOTE}{apt._GPG_FIRST}'") == 1
        said = f"    {apt._GPG_FIRST}" if gpg else ""
        with ctx_state.use(SimpleNamespace(is_executing=True)), ctx_host.use(steps.host):
            apt._all_lists(said)
        assert self.at_once(self.install(steps)) == (not gpg)


WELL = bare(H100)
UNIT = File("/etc/systemd/system/nvidia-persistenced.service", b"x")


class TestDriver:
    @pytest.fixture
    def there(self, monkeypatch: pytest.MonkeyPatch) -> Steps:
        steps = Steps(driver, monkeypatch, {"GpuState": WELL})
        stand_ins: dict[str, Any] = {
            "watched": lambda label, script: (label, script),
            "change": lambda entries, **how: ("change", entries, how),
            "archive_added": lambda archive, stale: iter([("archive", archive, stale)]),
            "packages_installed": lambda wanted, **how: iter([("packages", wanted, how)]),
            "may_have_changed": steps.may_have_changed,
            "conditional": lambda: steps.told.append(("conditional",)),
            "lists_read": lambda: iter([("lists",)]),
            "note": lambda text: ("note", text),
            "rebooted": lambda why, timeout: ("rebooted", why, timeout),
        }
        for name, stand_in in stand_ins.items():
            monkeypatch.setattr(driver, name, stand_in)
        monkeypatch.setattr(apt, "watched", stand_ins["watched"])
        told = steps.told
        monkeypatch.setattr(apt_lists, "changed", lambda: told.append(("other sources",)))

        def outage(commands: Any, serving: object, what: str) -> Any:
            steps.told.append((what, serving))
            yield from commands

        monkeypatch.setattr(driver, "outage", outage)
        return steps

    def test_nothing_is_installed_where_nothing_is_wanted(self, there: Steps) -> None:
        assert there.run(driver.driver_installed, lambda: None) == []
        assert there.told == []

    @pytest.mark.parametrize("loaded", [True, False])
    def test_from_an_archive_of_its_own(self, there: Steps, loaded: bool) -> None:
        there.facts["GpuState"] = replace(WELL, module="580.1" if loaded else None)
        assert there.facts["GpuState"].loaded == loaded
        wanted = Install(
            archive=ARCHIVE, first=("pin",), packages=("p", "q"), headers="linux-headers-1"
        )
        archive, first, packages = there.run(driver.driver_installed, lambda: wanted)
        assert archive == ("archive", ARCHIVE, driver._STALE)
        assert first == ("packages", {"pin": None}, {})
        headers = driver._headers_offered("linux-headers-1")
        assert packages == ("packages", {"p": None, "q": None}, {"anew": loaded, "first": headers})
        assert there.told == [
            ("will_change", ["the GPU driver"]),
            ("leads_to", "the GPU driver is installed, or replaced by another series"),
            ("remember", [SOURCE]),
        ]

    def test_old_names_of_its_archive(self) -> None:
        assert list(driver._STALE) == [
            "/etc/apt/sources.list.d/cuda.list",
            *(
                f"/etc/apt/sources.list.d/cuda-{release}-{machine}.list"
                for release in ("debian12", "debian13", "ubuntu2204", "ubuntu2404")
                for machine in ("x86_64", "sbsa")
            ),
        ]

    def test_from_the_distribution_whose_components_are_added(self, there: Steps) -> None:
        wanted = Install(components=("contrib",), packages=("p",))
        main = "Types: deb\nURIs: http://deb.debian.org/debian\nSuites: trixie\nComponents: main\n"
        there.facts |= {
            "OsRelease": DEBIAN_13,
            "AptSourceFiles": {"/etc/apt/sources.list.d/debian.sources": main},
        }

        class Tree(dict):  # type: ignore[type-arg]
            def __missing__(self, path: str) -> Found:
                return NOTHING

        there.facts["TreeState"] = TreeFound(Tree(), "")
        changed, packages = there.run(driver.driver_installed, lambda: wanted)
        assert changed[0] == "change" and b"contrib" in changed[1][0].content
        assert changed[2] == {"validate": "apt-get indextargets >/dev/null"}
        assert packages == ("packages", {"p": None}, {"anew": False, "first": ":"})
        assert there.told[-1] == ("other sources",)
        assert [one[0] for one in there.told[:-1]] == [
            "will_change", "leads_to", "remember", "entries_differ"
        ]  # fmt: skip
        for one in changed[1]:
            there.facts["TreeState"].paths[one.path] = Found("f", 0o644, ROOT, ROOT, one.sha256)
        assert [one[0] for one in there.run(driver.driver_installed, lambda: wanted)] == [
            "packages"
        ]

    def test_no_archive_of_the_distribution_is_refused(self, there: Steps) -> None:
        there.facts |= {"OsRelease": DEBIAN_13, "AptSourceFiles": {}}
        wanted = Install(components=("contrib", "non-free"), packages=("p",))
        with pytest.raises(HostError) as refused:
            there.run(driver.driver_installed, lambda: wanted)
        assert str(refused.value) == (
            "no apt source on this host has main of trixie, whose contrib and non-free the driver"
            " comes from; add the distribution's archive to /etc/apt, or set"
            " nvidia.driver_source = 'nvidia'"
        )

    def test_what_belongs_to_it_is_held(self, there: Steps) -> None:
        found = Packages({"n2": "1", "n1": "1", "n3": "1", "x": "1"}, frozenset({"n3"}))
        there.facts["AllPackages"] = found
        part = lambda name: name[0] == "n"  # noqa: E731
        held = there.run(driver.driver_held, part)
        noted = brought("hold", ["n1", "n2"])
        assert held == [("holding packages", f"set -e; {noted}; apt-mark hold n1 n2")]
        assert there.told == [("differs", f"package {n}", "is not held") for n in ("n1", "n2")]
        there.facts["AllPackages"] = Packages({"n3": "1"}, frozenset({"n3"}))
        assert there.run(driver.driver_held, part) == []
        assert ("changed", {"what": ["the GPU driver"]}) in there.asked
        there.changed = True
        assert len(there.run(driver.driver_held, part)) == 1

    START = "systemctl enable {0} && systemctl restart {0}"

    def test_persistence_where_there_is_the_daemon(self, there: Steps) -> None:
        assert there.run(driver.persistence_runs, UNIT) == []
        there.changed = True
        assert there.run(driver.persistence_runs, UNIT) == [
            ("note", "the driver that will be installed may have one")
        ]
        there.facts["GpuState"] = replace(WELL, has_persistenced=True)
        name = "nvidia-persistenced.service"
        start = self.START.format(name)
        right = Found("f", 0o644, ROOT, ROOT, UNIT.sha256)
        for found, active, enabled, done in (
            (right, True, True, []),
            (right, False, True, [start]),
            (right, True, False, [start]),
            (
                NOTHING, True, True,
                [("change", [UNIT], {"activate": f"systemctl daemon-reload && {start}"})],
            ),
        ):  # fmt: skip
            there.facts["TreeState"] = TreeFound({UNIT.path: found}, "")
            there.facts["Units"] = {name: UnitState(enabled, active)}
            assert there.run(driver.persistence_runs, UNIT) == done
            assert there.told[0] == ("remember", [UNIT])
            told = [one[0] for one in there.told[1:]]
            assert told == ["entries_differ" if found is NOTHING else "differs"] * bool(done)
        assert there.asked[1:] == [
            ("TreeState", {"paths": [UNIT.path]}), ("Units", {"names": [name]})
        ]  # fmt: skip

    def test_the_fabric_manager_at_the_driver_s_version(self, there: Steps) -> None:
        unit, names = "nvidia-fabricmanager.service", ("fm-580", "fm")
        answers = SimpleNamespace(smi=SimpleNamespace(driver="580.95.05"))
        there.facts |= {
            "GpuState": answers,
            "Units": {unit: UnitState(False, False)},
            "AptVersions": {"fm": ("580.95.05-1",)},
        }
        done = there.run(driver.fabric_manager_runs, lambda: names)
        assert done == [
            ("lists",),
            ("packages", {"fm": "580.95.05-1"}, {"held": True}),
            self.START.format(unit),
        ]
        assert there.told == [("differs", unit, "does not run, or not at boot")]
        assert there.asked[0] == ("Units", {"names": [unit]})
        assert there.asked[-1] == ("AptVersions", {"names": ["fm-580", "fm"]})
        there.executing = False
        assert there.run(driver.fabric_manager_runs, lambda: names) == [("lists",)]
        there.executing = True
        there.facts["AptVersions"] = {}
        with pytest.raises(HostError) as refused:
            there.run(driver.fabric_manager_runs, lambda: names)
        assert str(refused.value) == (
            "no archive of this host has a Fabric Manager at exactly the driver's version"
            " 580.95.05, which its NVSwitches need; see docs/driver.md"
        )
        assert there.run(driver.fabric_manager_runs, tuple) == []
        for active, enabled in ((True, False), (False, True), (True, True)):
            there.facts["Units"] = {unit: UnitState(enabled, active)}
            there.executing = False
            idle = not (active and enabled)
            assert there.run(driver.fabric_manager_runs, lambda: names) == [("lists",)] * idle


class TestAnswers:
    """The driver answers, or the host reboots, or it fails."""

    there = TestDriver.there
    WHY = Failure("it hangs", reboot_helps=True)

    def host(self, *troubles: Failure | None) -> Any:
        left = list(troubles)
        asked: list[object] = []

        def trouble(wanted: object) -> Failure | None:
            asked.append(wanted)
            return left.pop(0) if len(left) > 1 else left[0]

        return SimpleNamespace(smi=SimpleNamespace(trouble=trouble, asked=asked))

    def run(self, there: Steps, **more: Any) -> list[Any]:
        given: dict[str, Any] = {
            "refused": None, "timeout": 60, "wanted": (0,), "serving": "agents"
        }  # fmt: skip
        return there.run(driver.driver_answers, lambda host: self.WHY, **given | more)

    LOADED = ("loading the GPU driver", driver._LOAD)

    def test_where_it_answers_nothing_is_done(self, there: Steps) -> None:
        there.facts["GpuState"] = host = self.host(None)
        assert self.run(there) == []
        assert host.smi.asked == [(0,)]
        assert there.told == []

    def test_where_it_is_about_to_be_installed_it_is_loaded(self, there: Steps) -> None:
        there.facts["GpuState"] = self.host(None)
        there.changed = True
        assert self.run(there) == [self.LOADED]
        assert there.told[0] == ("conditional",)
        assert there.asked[1] == ("changed", {"what": ["the GPU driver"]})

    @pytest.mark.parametrize(
        ("refused", "words"),
        [(None, "the host is rebooted"), (str, "the host fails (nvidia.allow_reboot)")],
    )
    def test_a_dry_run_says_what_may_come_of_it(
        self, there: Steps, refused: Any, words: str
    ) -> None:
        there.facts["GpuState"] = self.host(self.WHY)
        there.executing = False
        assert self.run(there, refused=refused) == [self.LOADED]
        assert there.told == [
            ("differs", "the GPU driver", "does not answer"),
            ("conditional",),
            (
                "leads_to",
                "the kernel module of the GPU driver is loaded; where that does not work without a"
                f" reboot, {words}",
            ),
        ]

    def test_it_may_be_enough_to_load_it(self, there: Steps) -> None:
        there.facts["GpuState"] = self.host(self.WHY, None)
        assert self.run(there) == [self.LOADED]

    def test_a_reboot_in_the_host_s_turn(self, there: Steps) -> None:
        there.facts["GpuState"] = self.host(self.WHY, self.WHY, None)
        assert self.run(there) == [self.LOADED, ("rebooted", self.WHY.words, 60)]
        assert there.told[-1] == ("the host is rebooted", "agents")

    def test_a_reboot_that_did_not_help(self, there: Steps) -> None:
        there.facts["GpuState"] = self.host(self.WHY)
        with pytest.raises(HostError, match=r"^after a reboot \(.*it hangs.*\): the GPU driver"):
            self.run(there)

    def test_a_reboot_that_is_not_allowed(self, there: Steps) -> None:
        there.facts["GpuState"] = self.host(self.WHY)
        with pytest.raises(HostError, match=r"^no: it hangs"):
            self.run(there, refused=lambda why: f"no: {why.words}")

    def test_where_no_reboot_helps(self, there: Steps) -> None:
        there.facts["GpuState"] = self.host(self.WHY)
        with pytest.raises(HostError, match="^the GPU driver does not answer"):
            there.run(driver.driver_answers, lambda host: None, refused=None, timeout=1)
