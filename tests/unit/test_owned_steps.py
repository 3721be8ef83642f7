"""A host becomes one store's, step by step: what it had is written down, then both sides know."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tests.unit.operation_steps import Steps
from vllm_hosts.errors import HostError, SettingsError
from vllm_hosts.host.files import File
from vllm_hosts.host.shared import Shared, SharedFound, refusal
from vllm_hosts.keys.store_marks import Whose
from vllm_hosts.operations import ownership
from vllm_hosts.operations.ownership import not_anothers, owned

MARK = File("/etc/vllm-hosts/store", b"x")
TOLD = ("differs", MARK.path, "does not name this inventory's store")


class Claim:
    directory, host, mark, file = "/opt/vllm", "gpu1", "ours", MARK

    def __init__(self, whose: Whose) -> None:
        self.whose, self.in_store, self.wait = whose, True, ""
        self.opened = SimpleNamespace(anothers=set(), store=SimpleNamespace(encrypted=False))
        self.problems: list[str] = []
        self.keys = False

    def judge(self, found: object) -> Whose:
        return self.whose

    def has_keys(self, found: object) -> bool:
        return self.keys

    def refusal(self, found: object, *, listed: bool) -> str:
        return f"another's, listed {listed}"

    def must_wait(self) -> str:
        return self.wait

    def kept(self) -> bool:
        return self.in_store

    def keep(self) -> None:
        if self.problems:
            raise SettingsError(self.problems)
        self.in_store = True


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Steps:
    mark = SimpleNamespace(user="0", is_right=lambda wanted: wanted == "here", shared=SharedFound())
    steps = Steps(ownership, monkeypatch, {"HostMark": mark})
    monkeypatch.setattr(ownership, "change", lambda entries: ("change", entries))
    monkeypatch.setattr(ownership, "before_taken", lambda folders: f"before {list(folders)}")
    return steps


@pytest.fixture(autouse=True)
def by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def command(function: object, given: tuple[object, ...], words: object) -> tuple[object, ...]:
        assert function is ownership._keep and words == {}
        return ("keep", *given)

    monkeypatch.setattr(ownership, "FunctionCommand", command)


@pytest.mark.parametrize("whose", [Whose.ANOTHERS, Whose.UNREADABLE])
def test_another_store_s_host_is_refused(steps: Steps, whose: Whose) -> None:
    runs: list[tuple[Any, dict[str, bool]]] = [
        (not_anothers, {}),
        (owned, {}),
        (owned, {"listed": False}),
    ]
    for operation, given in runs:
        listed = given.get("listed", True)
        claim = Claim(whose)
        with pytest.raises(HostError, match=f"^another's, listed {listed}$"):
            steps.run(operation, claim, **given)
        assert claim.opened.anothers == {"gpu1"}
        asked: dict[str, object] = {"directory": "/opt/vllm", "shared": [], "above": None}
        assert steps.asked == [("HostMark", asked)]


@pytest.mark.parametrize("whose", [Whose.OURS, Whose.NOBODYS])
def test_looking_changes_nothing(steps: Steps, whose: Whose) -> None:
    claim = Claim(whose)
    assert steps.run(not_anothers, claim) == [] == steps.told
    assert claim.opened.anothers == set()


def test_without_root_nothing_is_judged(steps: Steps) -> None:
    steps.facts["HostMark"].user = "1000"
    for operation in (not_anothers, owned):
        with pytest.raises(HostError, match="root"):
            steps.run(operation, Claim(Whose.OURS))


def test_a_host_that_is_ours_and_known_is_left_alone(steps: Steps) -> None:
    claim = Claim(Whose.OURS)
    claim.mark = "here"
    assert steps.run(owned, claim) == [] == steps.told


def test_what_is_not_recorded_is_recorded(steps: Steps) -> None:
    claim = Claim(Whose.OURS)
    assert steps.run(owned, claim) == [("change", [MARK])]
    assert steps.told == [TOLD]
    claim.in_store = False
    assert steps.run(owned, claim) == [("keep", claim), ("change", [MARK])]
    claim.mark = "here"
    assert steps.run(owned, claim) == [("keep", claim)]
    assert steps.told == []


def test_a_new_host_is_written_down_before_it_gets_keys(steps: Steps) -> None:
    claim = Claim(Whose.NOBODYS)
    claim.in_store = False
    assert steps.run(owned, claim, folders=["/srv"]) == [
        "before ['/srv']", ("keep", claim), ("change", [MARK]),
    ]  # fmt: skip
    assert steps.run(owned, claim)[0] == "before []"


def test_a_host_without_keys_is_left_where_it_is_not_to_become_ours(steps: Steps) -> None:
    claim = Claim(Whose.NOBODYS)
    claim.wait = "later"
    assert steps.run(owned, claim, first=False) == [] == steps.told
    with pytest.raises(HostError, match="^later$"):
        steps.run(owned, claim)
    # One that is ours waits for nobody.
    claim.whose = Whose.OURS
    assert steps.run(owned, claim, first=False) == [("change", [MARK])]


SHARED = Shared(("/opt/vllm/.env",), ("/var/lib/vllm/agents/qwen",), above="/var/lib/vllm/agents")


@pytest.mark.parametrize("operation", [not_anothers, owned])
@pytest.mark.parametrize("whose", [Whose.OURS, Whose.NOBODYS])
def test_files_of_others_are_refused(steps: Steps, operation: Any, whose: Whose) -> None:
    noted = frozenset({"/opt/vllm/.env"}) if whose is Whose.OURS else frozenset[str]()
    steps.facts["HostMark"].shared = SharedFound(frozenset(SHARED.paths), noted)
    claim = Claim(whose)
    theirs = [path for path in SHARED.paths if path not in noted]
    with pytest.raises(HostError) as raised:
        steps.run(operation, claim, shared=SHARED)
    assert str(raised.value) == refusal(theirs, SHARED)
    assert claim.opened.anothers == set(), "it is no other inventory's"
    asked = {"shared": list(SHARED.paths), "above": SHARED.above}
    assert steps.asked == [("HostMark", {"directory": "/opt/vllm"} | asked)]


def test_what_will_be_ours_is_noted_before_the_mark(steps: Steps) -> None:
    note, mark = steps.run(owned, Claim(Whose.NOBODYS), shared=SHARED)
    assert note.startswith("before []\n"), "no execution more"
    assert "\nbrought 'file /opt/vllm/.env'" in note
    assert "\nbrought 'agent /var/lib/vllm/agents/qwen'" in note
    assert mark == ("change", [MARK])


def test_a_host_of_an_earlier_version_is_noted_once(steps: Steps) -> None:
    claim = Claim(Whose.OURS)
    claim.mark, claim.keys = "here", True
    found = SharedFound(frozenset(SHARED.paths), like_ours=("/var/lib/vllm/agents/former",))
    steps.facts["HostMark"].shared = found
    [note] = steps.run(owned, claim, shared=SHARED)
    assert "brought 'agent /var/lib/vllm/agents/former' 'agent /var/lib/vllm/agents/qwen'" in note
    assert note.startswith("set -eu; umask 077\n")
    told = "does not name what this deploy writes beside files of others"
    assert steps.told == [("differs", "/var/lib/vllm-hosts/manifest", told)]
    done = SharedFound(frozenset(SHARED.paths), frozenset(SHARED.files), frozenset(SHARED.folders))
    steps.facts["HostMark"].shared = done
    assert steps.run(owned, claim, shared=SHARED) == [] == steps.told


class TestKept:
    def run(self, claim: Claim, monkeypatch: pytest.MonkeyPatch) -> tuple[bool, list[str]]:
        said: list[str] = []

        def fail(state: object, host: object, words: str) -> bool:
            said.append(f"failed: {words}")
            return False

        monkeypatch.setattr(ownership, "fail", fail)
        monkeypatch.setattr(ownership, "shown", lambda path: f"<{path}>")
        state: Any = None
        host: Any = SimpleNamespace(log=said.append)
        given: Any = claim
        return ownership._keep(state, host, given), said

    def test_the_store_records_the_host(self, monkeypatch: pytest.MonkeyPatch) -> None:
        claim = Claim(Whose.OURS)
        claim.in_store = False
        assert self.run(claim, monkeypatch) == (True, [])
        assert claim.in_store

    def test_an_encrypted_one_is_to_be_committed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        claim = Claim(Whose.OURS)
        claim.opened.store = SimpleNamespace(encrypted=True, path="keys.age")
        words = "    <keys.age> now records this host: commit it"
        assert self.run(claim, monkeypatch) == (True, [words])

    def test_one_that_cannot_be_written_fails_the_host(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        claim = Claim(Whose.OURS)
        claim.problems = ["full", "again"]
        assert self.run(claim, monkeypatch) == (False, ["failed: full; again"])
