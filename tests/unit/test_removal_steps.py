"""What is taken away from a host, command by command."""

from __future__ import annotations

from collections.abc import Mapping
from shlex import quote
from types import SimpleNamespace
from typing import Any

import pytest

from tests.unit.operation_steps import Steps
from vllm_hosts.errors import HostError, SettingsError
from vllm_hosts.facts.tree import TreeFound
from vllm_hosts.host import paths
from vllm_hosts.host.driver import INITRAMFS
from vllm_hosts.host.files import NOTHING, Found
from vllm_hosts.keys.store_content import Content, DeployedHost
from vllm_hosts.operations import removal

ROOT = ("root", "0")
UNITS = "/etc/systemd/system"


class Paths(dict[str, Found]):
    """What is at the paths that a test names; nothing at others."""

    def __missing__(self, path: str) -> Found:
        return NOTHING


def at(*names: str, kind: str = "f") -> TreeFound:
    found = Found(kind, 0o644, ROOT, ROOT, "digest")
    return TreeFound(Paths(dict.fromkeys(names, found)), "")


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Steps:
    steps = Steps(removal, monkeypatch, {"TreeState": at()})
    monkeypatch.setattr(removal, "watched", lambda label, script: (label, script))
    monkeypatch.setattr(removal, "purge", lambda names: f"purge {list(names)}")
    monkeypatch.setattr(removal, "FunctionCommand", lambda function, given, words: (
        function.__name__, *given, words))  # fmt: skip
    return steps


def lines(script: str) -> list[str]:
    return [line.strip() for line in script.splitlines() if line.strip()]


def kept(path: str) -> str:
    old = f"{paths.BEFORE}/files{path}"
    there, ours = quote(old), quote(path)
    return f"if [ -e {there} ] || [ -L {there} ]; then {back(old, path)}; else rm -f {ours}; fi"


def back(old: str, path: str) -> str:
    old, new, path = map(quote, (old, f"{path}.vllm-hosts-new", path))
    return (
        f"cp -a --remove-destination {old} {new}; [ -L {new} ] || sync {new}; mv -fT {new} {path}"
    )


def test_what_goes_is_said_once(steps: Steps) -> None:
    assert steps.run(removal.outlook, lambda: ["a\x1b[2J", "b"]) == []
    said = [("leads_to", "a\x1b[2J"), ("log", "    a"), ("leads_to", "b"), ("log", "    b")]
    assert steps.told == said
    steps.executing = False
    steps.run(removal.outlook, lambda: ["b"])
    assert steps.told == [("leads_to", "b")]


def test_timers(steps: Steps) -> None:
    names = ["a.timer", "b.timer", "c.timer"]
    assert steps.run(removal.timers_stopped, names) == [] == steps.told
    assert steps.asked == [("TreeState", {"paths": [f"{UNITS}/{name}" for name in names]})]
    steps.facts["TreeState"] = at(f"{UNITS}/a.timer", f"{UNITS}/c.timer")
    assert steps.run(removal.timers_stopped, names) == [
        "systemctl disable --quiet --now a.timer c.timer"
    ]
    assert steps.told == [("differs", "a.timer", "is there"), ("differs", "c.timer", "is there")]
    # Nothing that could be there is nothing to ask about.
    assert steps.run(removal.timers_stopped, []) == [] == steps.asked


def test_containers(steps: Steps) -> None:
    def run(going: list[str], nets: list[str]) -> list[Any]:
        return steps.run(removal.containers_removed, lambda: going, lambda: nets)

    assert run([], []) == [] == steps.told
    label = "stopping and removing the agents"
    stop = "docker stop -t 30 a b >/dev/null\ndocker rm -f a b"
    assert run(["a", "b"], []) == [(label, f"set -e\n{stop}")]
    assert steps.told == [("differs", "the agents", "are there")]
    net = "docker network rm n 'm x'"
    assert run([], ["n", "m x"]) == [(label, f"set -e\n{net}")]
    assert run(["a", "b"], ["n", "m x"]) == [(label, f"set -e\n{stop}\n{net}")]


def test_images(steps: Steps) -> None:
    assert steps.run(removal.images_removed, list) == [] == steps.told
    [(label, script)] = steps.run(removal.images_removed, lambda: ["a", "b"])
    assert label == "removing the agents' images"
    tags = "'{{range .RepoTags}}{{println .}}{{end}}'"
    assert lines(script) == [
        "for id in a b; do",
        f"docker image inspect $id --format {tags} | grep . | xargs -r docker image rm",
        "! docker image inspect $id >/dev/null 2>&1 || docker image rm $id || echo \"$id stays\"",
        "done",
    ]  # fmt: skip
    assert steps.told == [("differs", "image a", "is there"), ("differs", "image b", "is there")]


class TestFiles:
    def run(self, steps: Steps, *files: str, had: tuple[str, ...] = ()) -> list[Any]:
        return steps.run(removal.files_removed, lambda: files, lambda: had)

    def test_what_is_not_there_is_left(self, steps: Steps) -> None:
        assert self.run(steps, "/a") == [] == steps.told

    def test_a_file_that_was_somebody_s_is_theirs_again(self, steps: Steps) -> None:
        steps.facts["TreeState"] = at("/etc/a", "/etc/c")
        script = f"set -eu\n{kept('/etc/a')}\n{kept('/etc/c')}"
        assert self.run(steps, "/etc/a", "/etc/b", "/etc/c") == [("removing files", script)]
        told = [("differs", path, "is there") for path in ("/etc/a", "/etc/c")]
        assert steps.told == told

    def test_units_are_stopped_first_and_those_of_before_start(self, steps: Steps) -> None:
        a, b, drop = f"{UNITS}/a.service", f"{UNITS}/b.service", f"{UNITS}/x.service.d/y.conf"
        steps.facts["TreeState"] = at(a, b, drop)
        [(_, script)] = self.run(steps, a, b, drop, had=("b.service", "other.service"))
        assert lines(script) == [
            "set -eu",
            "systemctl disable --quiet --now a.service b.service || :",
            *map(kept, (a, b, drop)),
            "systemctl daemon-reload",
            "systemctl enable --quiet --now b.service",
        ]
        steps.facts["TreeState"] = at(drop)
        [(_, script)] = self.run(steps, drop)
        assert lines(script) == ["set -eu", kept(drop), "systemctl daemon-reload"]

    def test_nouveau_comes_back_with_the_next_boot(self, steps: Steps) -> None:
        steps.facts["TreeState"] = at(paths.NOUVEAU)
        [(_, script)] = self.run(steps, paths.NOUVEAU)
        assert script == f"set -eu\n{kept(paths.NOUVEAU)}\n{INITRAMFS}"


def test_packages(steps: Steps) -> None:
    assert steps.run(removal.packages_removed, list, list) == [] == steps.told
    done = steps.run(removal.packages_removed, lambda: ["a", "b"], lambda: ["c", "d"])
    assert done == ["apt-mark unhold a b", ("removing packages", "purge ['c', 'd']")]
    assert steps.told == [
        ("differs", "package a", "is held"), ("differs", "package b", "is held"),
        ("differs", "package c", "is installed"), ("differs", "package d", "is installed"),
    ]  # fmt: skip


class TestSources:
    def run(self, steps: Steps, ours: list[str], *back: str) -> list[Any]:
        self.digests: list[str] = []

        def returning(digests: Mapping[str, str]) -> list[str]:
            self.digests += [digests[path] for path in back]
            return list(back)

        return steps.run(removal.sources_restored, lambda: ours, returning)

    def test_ours_go_and_theirs_come_back(self, steps: Steps) -> None:
        old = f"{paths.PREVIOUS}/etc/old list"
        steps.facts["TreeState"] = at("/etc/ours", old, "/etc/old list")
        [script] = self.run(steps, ["/etc/ours", "/etc/gone"], "/etc/old list", "/etc/lost")
        assert lines(script) == [
            "set -eu",
            kept("/etc/ours"),
            f"mkdir -p /etc; {back(old, '/etc/old list')}",
            "apt-get indextargets >/dev/null",
        ]
        assert self.digests == ["digest", ""]
        told = [("differs", path, "is not as it was before")
                for path in ("/etc/ours", "/etc/old list")]  # fmt: skip
        assert steps.told == told

    def test_one_of_them_is_enough(self, steps: Steps) -> None:
        assert self.run(steps, ["/a"], "/b") == [] == steps.told
        steps.facts["TreeState"] = at("/a")
        assert len(self.run(steps, ["/a"])) == 1
        steps.facts["TreeState"] = at(f"{paths.PREVIOUS}/b")
        assert len(self.run(steps, [], "/b")) == 1

    def test_what_is_no_file_has_no_digest(self, steps: Steps) -> None:
        steps.facts["TreeState"] = at("/b", kind="l")
        self.run(steps, [], "/b")
        assert self.digests == ["l"]


def test_folders(steps: Steps) -> None:
    assert steps.run(removal.folders_removed, lambda: ["/srv/x/a"]) == [] == steps.told
    steps.facts["TreeState"] = at("/srv/x/a", "/srv/x/c", kind="d")
    [(label, script)] = steps.run(
        removal.folders_removed, lambda: ["/srv/x/a", "/srv/x/b", "/srv/x/c"], lambda: ["docker"]
    )
    assert label == "removing folders"
    assert lines(script) == [
        "set -u",
        "! getent group docker | grep -q ':$' || groupdel docker",
        *(
            f"if mountpoint -q {path}; then find {path} -xdev -mindepth 1 -delete;"
            f" else rm -rf --one-file-system {path}; fi || exit 1"
            for path in ("/srv/x/a", "/srv/x/c")
        ),
    ]
    assert steps.told == [("differs", "/srv/x/a", "is there"), ("differs", "/srv/x/c", "is there")]
    [(_, script)] = steps.run(removal.folders_removed, lambda: ["/srv/x/a"])
    assert len(lines(script)) == 2


@pytest.mark.parametrize(
    "path", ["/", "/var", "/var/lib", "a/b/c", "/a//b/c", "/a/../b/c", "/a/./b"]
)
def test_a_folder_that_is_hardly_ours(steps: Steps, path: str) -> None:
    steps.facts["TreeState"] = at(path, kind="d")
    with pytest.raises(HostError, match="would go with all that is in it, and is no folder that"):
        steps.run(removal.folders_removed, lambda: ["/srv/x/a", path])
    assert steps.told == [] == steps.asked, "nothing is begun"


def test_a_folder_near_the_top_that_is_known(steps: Steps) -> None:
    steps.facts["TreeState"] = at("/etc/cni", "/srv/a b/c", kind="d")
    folders = ["/etc/cni", "/srv/a b/c"]
    [(_, script)] = steps.run(
        removal.folders_removed, lambda: folders, short=lambda: {"/etc/cni", "/"}
    )
    assert "rm -rf --one-file-system /etc/cni;" in script
    assert "rm -rf --one-file-system '/srv/a b/c';" in script


def test_each_name_is_one_word(steps: Steps) -> None:
    unit = f"{UNITS}/a;b.service"
    steps.facts["TreeState"] = at(unit)
    [(_, script)] = steps.run(removal.files_removed, lambda: [unit], lambda: ["a;b.service"])
    assert lines(script)[1] == "systemctl disable --quiet --now 'a;b.service' || :"
    assert lines(script)[2] == kept(unit)
    assert lines(script)[-1] == "systemctl enable --quiet --now 'a;b.service'"


class TestFirewall:
    FILES = (paths.FIREWALL_RULES, f"{UNITS}/{paths.FIREWALL_UNIT}")

    def run(self, steps: Steps, *left: str) -> list[Any]:
        return steps.run(removal.firewall_opened, lambda: left)

    def test_where_there_is_none_nothing_is_done(self, steps: Steps) -> None:
        assert self.run(steps, "agent qwen") == [] == steps.told
        assert steps.asked == [("TreeState", {"paths": list(self.FILES)})]

    @pytest.mark.parametrize("path", FILES)
    def test_it_opens_last(self, steps: Steps, path: str) -> None:
        steps.facts["TreeState"] = at(path)
        [script] = self.run(steps)
        assert lines(script) == [
            "set -eu",
            f"systemctl disable --quiet --now {paths.FIREWALL_UNIT} 2>/dev/null || :",
            "! command -v nft >/dev/null ||"
            " nft 'table inet vllm_hosts; delete table inet vllm_hosts'",
            f"rm -f {self.FILES[1]} {self.FILES[0]}",
            "systemctl daemon-reload",
        ]
        words = "the firewall's table is removed last; what others listen on can then be reached"
        assert steps.told == [
            ("differs", "table inet vllm_hosts", "is in force"), ("leads_to", words),
        ]  # fmt: skip

    def test_it_stays_closed_while_it_protects_something(self, steps: Steps) -> None:
        steps.facts["TreeState"] = at(*self.FILES)
        with pytest.raises(HostError) as caught:
            self.run(steps, "agent a", "agent b")
        assert str(caught.value) == (
            "the firewall stays closed, since agent a, agent b is still there; stop it, and run"
            " again"
        )
        # Before the run they are there, and will have gone.
        steps.executing = False
        assert len(self.run(steps, "agent a")) == 1


class TestForgotten:
    def claim(self, content: Content | None, *, encrypted: bool = False) -> Any:
        def update(change: Any) -> None:
            assert content is not None
            store.now = change(content)

        store = SimpleNamespace(
            peek=lambda: content, update=update, encrypted=encrypted, path="keys.age", now=content
        )
        return SimpleNamespace(host="gpu1", opened=SimpleNamespace(store=store))

    KNOWN = Content(hosts={"gpu1": DeployedHost(), "gpu2": DeployedHost()})
    OURS = ("/etc/vllm-hosts", paths.STATE, f"{paths.STATE}.removed", paths.UNDO)

    @pytest.mark.parametrize("path", OURS)
    def test_our_records_go_the_mark_first(self, steps: Steps, path: str) -> None:
        steps.facts["TreeState"] = at(path)
        [script] = steps.run(removal.forgotten, self.claim(None), lambda: ["/opt/x"])
        assert lines(script) == [
            "set -eu",
            f": >{paths.LOCK}.removed",
            "rmdir /opt/x 2>/dev/null || :",
            f"rm -rf /etc/vllm-hosts {paths.UNDO}",
            "rm -rf --one-file-system /run/vllm-hosts.?????? /run/vllm-hosts-look.*"
            " /run/vllm-hosts-verify.* /run/vllm-hosts-rehearsal.*",
            f"rm -rf {paths.STATE}.removed; [ ! -e {paths.STATE} ] ||"
            f" mv -T {paths.STATE} {paths.STATE}.removed",
            f"rm -rf {paths.STATE}.removed",
        ]
        assert steps.told == [("differs", paths.STATE, "is there")]

    def test_the_store_forgets_a_host_that_it_knows(self, steps: Steps) -> None:
        claim = self.claim(self.KNOWN)
        # Without a history: it was never ours.
        gone = f": >{paths.LOCK}.removed"
        assert steps.run(removal.forgotten, claim, list) == [gone, ("_release", claim, {})]
        assert steps.told == []
        for content in (None, Content(), Content(hosts={"gpu2": DeployedHost()})):
            assert steps.run(removal.forgotten, self.claim(content), list) == []

    @pytest.mark.parametrize("encrypted", [True, False])
    def test_the_store_is_to_be_committed(
        self, steps: Steps, encrypted: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(removal, "shown", lambda path: f"<{path}>")
        claim = self.claim(self.KNOWN, encrypted=encrypted)
        state: Any = None
        assert removal._release(state, steps.host, claim) is True
        assert list(claim.opened.store.now.hosts) == ["gpu2"]
        words = ("log", "    <keys.age> records this host no more: commit it")
        assert steps.told == ([words] if encrypted else [])

    def test_one_that_cannot_be_written_fails(
        self, steps: Steps, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        said: list[str] = []

        def fail(state: object, host: object, words: str) -> bool:
            said.append(words)
            return False

        def full(change: object) -> None:
            raise SettingsError(["full", "again"])

        monkeypatch.setattr(removal, "fail", fail)
        claim = self.claim(self.KNOWN)
        claim.opened.store.update = full
        state: Any = None
        assert removal._release(state, steps.host, claim) is False
        assert said == ["full; again"]
