"""What a mirror has, fetches for others and takes away again, to the letter."""

from __future__ import annotations

import os
import platform
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.unit.here import Ended, Here
from tests.unit.operation_steps import Steps
from vllm_hosts.errors import HostError
from vllm_hosts.facts.base import END
from vllm_hosts.facts.hub import asked_of
from vllm_hosts.facts.mirror import MirrorState
from vllm_hosts.host.files import Absent
from vllm_hosts.host.mirror import MirrorThere, image_key
from vllm_hosts.host.paths import (
    DEPLOYED,
    DOCKER_CERTS,
    MIRROR_CONF,
    MIRROR_IMAGES,
    MIRROR_KEY,
    MIRROR_STATE,
    MIRROR_UNIT,
)
from vllm_hosts.hub.hub_models import Download, Fetched, HubModel
from vllm_hosts.operations import mirror
from vllm_hosts.operations.hub import fetch_script
from vllm_hosts.operations.mirror import RESTART, image_script
from vllm_hosts.operations.tree import change

UNIT_FILE = f"/etc/systemd/system/{MIRROR_UNIT}"
CERTS = f"{DOCKER_CERTS}/192.0.2.9:8444"
OTHERS = f"{DOCKER_CERTS}/registry.example.com"
KEY, OTHER = "0123456789abcdef", "f" * 16
MACHINE = platform.machine()
IMAGE = "r.example.com:5000/a/b:v1"
MODEL, SECOND = HubModel("org/model"), HubModel("org/two", "v2")
DOWNLOAD = Download("vllm:v1", "7:8", "/var/lib/vllm", None, None, 4)


class Machine:
    """This machine as the mirror, with its files below a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "bin").mkdir()
        self.here = Here(folder / "bin")
        self.images = folder / "state/images"

    def program(self, name: str, does: str) -> None:
        self.here.program(name, f"echo {name} $* >>{self.folder}/asked\n{does}")

    @property
    def asked(self) -> list[str]:
        return (self.folder / "asked").read_text().splitlines()

    def run(self, script: str) -> Ended:
        for path, name in (
            (MIRROR_STATE, "state"), (DEPLOYED, "deployed"), (DOCKER_CERTS, "certs.d"),
        ):  # fmt: skip
            script = script.replace(path, str(self.folder / name))
        return self.here.run(script)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


class TestWhatIsThere:
    def look(self, machine: Machine) -> MirrorThere:
        # Paths in the record are those of the host.
        script = MirrorState().command()
        done = machine.run(script.replace(f"'^{DOCKER_CERTS}/'", r"'^/etc/docker/certs\.d/'"))
        assert (done.rc, done.stderr) == (0, "")
        return MirrorState().process(done.stdout.splitlines())

    def test_nothing(self, machine: Machine) -> None:
        assert self.look(machine) == MirrorThere()

    def test_what_deploys_wrote_for_a_mirror_and_nothing_else(self, machine: Machine) -> None:
        ours = [f"{CERTS}/ca.crt", UNIT_FILE, MIRROR_CONF]
        others = [f"{UNIT_FILE}.d/own.conf", f"/mnt{UNIT_FILE}", "/etc/docker/daemon.json", "/a b"]
        digests = [f"{digit * 64}  {path}\n" for path in (*ours, *others) for digit in "b2"]
        gone = f"-  {CERTS}/client.key\n"
        (machine.folder / "deployed").write_text("".join([*reversed(digests), gone]))
        assert self.look(machine) == MirrorThere(files=tuple(ours))

    def test_images_for_this_processor(self, machine: Machine) -> None:
        names = [f"{KEY}-{MACHINE}", f"{OTHER}-other", f"{'a' * 16}-{MACHINE}.new", f"b-{MACHINE}"]
        for name in names:
            (machine.images / name).mkdir(parents=True)
        assert self.look(machine) == MirrorThere(images=frozenset({KEY}), data=True)

    @pytest.mark.parametrize("path", [f"{CERTS}/a b", f"{DOCKER_CERTS}/$(x)/key", "/etc/shadow"])
    def test_a_path_that_is_no_file_of_ours_is_no_word_of_a_command(self, path: str) -> None:
        with pytest.raises(HostError, match="^what a mirror has, or was given, could not be"):
            MirrorState().process(["== files", path, "== images", "== data", END])

    def test_it_is_said_in_bounds(self) -> None:
        with pytest.raises(ValueError, match="^x{200}$"):
            MirrorState().parse(["== files", "x" * 300, "== images", "== data"])


class TestRestart:
    @pytest.fixture(autouse=True)
    def ready(self, machine: Machine) -> None:
        machine.program("sleep", "")
        machine.program("journalctl", "echo it says why")

    def test_with_its_unit_as_it_is_now(self, machine: Machine) -> None:
        machine.program("systemctl", "")
        assert machine.run(RESTART) == Ended(0, "", "")
        assert machine.asked == [
            "systemctl daemon-reload",
            f"systemctl restart {MIRROR_UNIT}",
            "sleep 1",
            f"systemctl -q is-active {MIRROR_UNIT}",
        ]

    @pytest.mark.parametrize("fails", ["restart", "-q"])
    def test_one_that_does_not_run_says_why(self, machine: Machine, fails: str) -> None:
        machine.program("systemctl", f"[ $1 != {fails} ]")
        assert machine.run(f"{RESTART}\necho on") == Ended(1, "it says why\n", "")
        assert machine.asked[-1] == f"journalctl -u {MIRROR_UNIT} -n 5 -o cat --no-pager"

    def test_hosts_are_told_what_they_notice(self) -> None:
        assert mirror.RESTARTED.startswith("the mirror is restarted; what hosts are fetching goes")


class TestLeft:
    """What is taken away of a mirror that is another one, or none."""

    def steps(self, monkeypatch: pytest.MonkeyPatch, there: MirrorThere) -> Steps:
        state = type("State", (), {"paths": {"found": "there"}})
        return Steps(mirror, monkeypatch, {"MirrorState": there, "TreeState": state})

    def gone(self, steps: Steps, *paths: str) -> list[Any]:
        seen: list[MirrorThere] = []

        def left(there: MirrorThere) -> list[Absent]:
            seen.append(there)
            return [Absent(path) for path in paths]

        commands = steps.run(mirror.mirror_left, left)
        assert seen == [steps.facts["MirrorState"]]
        return commands

    def test_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        steps = self.steps(monkeypatch, MirrorThere())
        assert self.gone(steps) == []
        assert steps.told == [("remember", [])]

    def test_of_a_host_that_asked_it(
        self, monkeypatch: pytest.MonkeyPatch, machine: Machine
    ) -> None:
        steps = self.steps(monkeypatch, MirrorThere())
        paths = [f"{CERTS}/ca.crt", f"{CERTS}/client.key", f"{OTHERS}/client.key"]
        removal, folders = self.gone(steps, *paths)
        going = [Absent(path) for path in paths]
        assert removal == str(change(going))
        assert steps.told == [
            ("remember", going),
            ("entries_differ", going, {"found": "there"}),
        ]
        assert steps.asked[1:] == [("TreeState", {"paths": paths})]
        # Folders go once they are empty, and what somebody put there stays.
        theirs = machine.folder / "certs.d/registry.example.com/ca.crt"
        (machine.folder / "certs.d/192.0.2.9:8444").mkdir(parents=True)
        theirs.parent.mkdir()
        theirs.touch()
        assert machine.run(folders) == Ended(0, "", "")
        assert [one.name for one in (machine.folder / "certs.d").iterdir()] == [theirs.parent.name]
        theirs.unlink()
        assert machine.run(folders).rc == 0
        assert not (machine.folder / "certs.d").exists()

    def test_of_the_mirror_itself(self, monkeypatch: pytest.MonkeyPatch, machine: Machine) -> None:
        steps = self.steps(monkeypatch, MirrorThere(data=True))
        stopped, removal, data = self.gone(steps, MIRROR_KEY, UNIT_FILE)
        going = [Absent(MIRROR_KEY), Absent(UNIT_FILE)]
        assert removal == str(change(going, activate="systemctl daemon-reload"))
        machine.program("systemctl", "echo no such unit >&2; exit 1")
        assert machine.run(stopped) == Ended(0, "", "")
        assert machine.asked == [f"systemctl disable --quiet --now {MIRROR_UNIT}"]
        machine.images.mkdir(parents=True)
        (machine.folder / "certs.d").mkdir()
        assert machine.run(data) == Ended(0, "", "")
        assert not machine.images.parent.exists()
        # The folder was there for somebody else before.
        assert (machine.folder / "certs.d").exists()

    def test_of_both_in_lines_of_their_own(
        self, monkeypatch: pytest.MonkeyPatch, machine: Machine
    ) -> None:
        (machine.folder / "certs.d/192.0.2.9:8444").mkdir(parents=True)
        machine.images.mkdir(parents=True)
        steps = self.steps(monkeypatch, MirrorThere())
        machine.run(self.gone(steps, f"{CERTS}/ca.crt", UNIT_FILE)[-1])
        assert sorted(one.name for one in machine.folder.iterdir()) == ["bin"]


class TestImages:
    @pytest.fixture(autouse=True)
    def ready(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps = Steps(mirror, monkeypatch, {})
        monkeypatch.setattr(mirror, "watched", lambda *given, **how: (*given, how))

    def test_what_is_there_is_not_fetched_again(self) -> None:
        self.steps.facts = {"MirrorState": MirrorThere(images=frozenset({image_key(IMAGE)}))}
        assert self.steps.run(mirror.images_mirrored, [IMAGE], "7") == []
        assert self.steps.told == []

    def test_what_nobody_asks_for_goes_and_what_is_missing_comes(self, machine: Machine) -> None:
        self.steps.facts = {"MirrorState": MirrorThere(images=frozenset({OTHER, KEY}))}
        removal, fetch = self.steps.run(mirror.images_mirrored, [IMAGE], "7")
        assert self.steps.told == [
            ("differs", MIRROR_IMAGES, "has images that no host asks for"),
            ("differs", f"image {IMAGE}", "is not at the mirror"),
        ]
        assert fetch == (f"mirroring {IMAGE}", image_script(IMAGE, "7"), {"notes": True})
        for name in (f"{KEY}-{MACHINE}", f"{OTHER}-other", f"{image_key(IMAGE)}-{MACHINE}"):
            (machine.images / name).mkdir(parents=True)
        assert machine.run(removal) == Ended(0, "", "")
        assert [one.name for one in machine.images.iterdir()] == [f"{image_key(IMAGE)}-{MACHINE}"]


MANIFEST = '{ "schemaVersion": 2,\n  "mediaType": "%s" }'
DOCKER = MANIFEST % "application/vnd.docker.distribution.manifest.v2+json"
OCI = MANIFEST % "application/vnd.oci.image.manifest.v1+json"
#: What skopeo does where all goes well, and by which proxies.
SKOPEO = """
for to; do :; done
to=${to#dir:}
mkdir "$to" && cp ../../manifest "$to/manifest.json" && : >"$to/version" && : >"$to/blob"
echo "$HTTP_PROXY $HTTPS_PROXY $NO_PROXY" >../../proxies
env >../../environment
"""


class TestImage:
    """The script that fetches one, run by this machine's shell."""

    @pytest.fixture(autouse=True)
    def ready(self, machine: Machine) -> None:
        self.machine = machine
        machine.images.mkdir(parents=True)
        machine.program(
            "docker",
            "case $3 in *HTTPProxy*) echo a ;; *HTTPSProxy*) echo b ;; *NoProxy*) echo c ;; esac",
        )
        machine.program("skopeo", SKOPEO)
        self.at = machine.images / f"{image_key(IMAGE)}-{MACHINE}"

    def fetched(self, manifest: str = OCI, image: str = IMAGE) -> Ended:
        (self.machine.folder / "manifest").write_text(manifest)
        script = image_script(image, str(os.getgid()))
        return self.machine.run(f"log={self.machine.folder}/log\n{script}")

    @pytest.mark.parametrize(("manifest", "kind"), [(DOCKER, "docker"), (OCI, "oci")])
    def test_it_is_there_whole_or_not_at_all(self, manifest: str, kind: str) -> None:
        self.at.mkdir()
        (self.at / "old").touch()
        assert self.fetched(manifest) == Ended(0, "", "")
        assert list(self.machine.images.iterdir()) == [self.at]
        assert sorted(one.name for one in self.at.iterdir()) == ["blob", f"manifest.{kind}"]
        assert (self.at / f"manifest.{kind}").read_text() == manifest

    def test_skopeo_copies_it_by_the_proxies_that_docker_has(self) -> None:
        self.fetched()
        assert self.machine.asked[-1] == (
            f"skopeo --insecure-policy copy --retry-times 3 docker://{IMAGE} dir:{self.at.name}.new"
        )
        assert (self.machine.folder / "proxies").read_text() == "a b c\n"
        environment = (self.machine.folder / "environment").read_text().splitlines()
        assert {"HTTP_PROXY=a", "HTTPS_PROXY=b", "NO_PROXY=c"} <= set(environment)

    def test_its_group_reads_it_and_nobody_else(self) -> None:
        self.machine.program("chgrp", "")
        self.machine.program("skopeo", f'{SKOPEO}chmod 604 "$to/blob"')
        self.fetched()
        assert f"chgrp -R {os.getgid()} {self.at.name}.new" in self.machine.asked
        for path, mode in ((self.at, 0o750), (self.at / "blob", 0o640)):
            assert stat.S_IMODE(path.stat().st_mode) == mode

    def test_what_comes_is_nobody_s_to_read_before(self) -> None:
        self.machine.program("chmod", "exit 0")
        self.fetched()
        assert stat.S_IMODE((self.at / "blob").stat().st_mode) == 0o640

    def test_what_was_cut_off_before_is_in_nobody_s_way(self) -> None:
        (self.machine.images / f"{self.at.name}.new").mkdir()
        assert self.fetched().rc == 0
        assert list(self.machine.images.iterdir()) == [self.at]

    def test_what_cannot_be_had_is_said_and_left_out(self) -> None:
        self.machine.program("skopeo", "for to; do :; done; mkdir ${to#dir:}; exit 1")
        (self.machine.folder / "log").write_text(f"much\n{'x' * 201}\n")
        assert self.fetched() == Ended(
            0,
            f"note: the mirror cannot have the image {IMAGE} ({'x' * 200});"
            " hosts get it from its registry themselves\n",
            "",
        )
        assert list(self.machine.images.iterdir()) == []

    def test_without_its_folder_nothing_is_fetched(self) -> None:
        self.machine.images.rmdir()
        assert self.fetched().rc == 1
        assert not (self.machine.folder / "asked").exists()


class TestModels:
    @pytest.fixture(autouse=True)
    def ready(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps = Steps(mirror, monkeypatch, {})
        monkeypatch.setattr(mirror, "watched", lambda *given, **how: (*given, how))

    def commands(self, *models: HubModel) -> list[Any]:
        return self.steps.run(mirror.models_mirrored, models, DOWNLOAD)

    def test_nobody_is_asked_about_nothing(self) -> None:
        assert (self.commands(), self.steps.asked) == ([], [])

    def test_those_that_are_not_complete_are_fetched(self) -> None:
        done = Fetched("c" * 40, "c" * 40, {"a": 1}, {"a": 1})
        self.steps.facts = {"HubModels": {MODEL.key: done, SECOND.key: replace(done, present={})}}
        [(label, _, how)] = self.commands(MODEL, SECOND)
        assert (label, how) == ("fetching org/two for others", {"seconds": 5, "notes": True})
        asked = asked_of([MODEL, SECOND], "/var/lib/vllm")
        assert self.steps.asked == [("HubModels", {"models": asked, "reader": "7:8"})]
        assert self.steps.told == [
            ("differs", "model org/two", "is not at the mirror at revision v2")
        ]

    @pytest.mark.parametrize("commit", [None, "c" * 40])
    def test_one_that_nobody_noted_is_not_trusted(
        self, commit: str | None, monkeypatch: pytest.MonkeyPatch, machine: Machine
    ) -> None:
        scripts = {
            distrust: fetch_script(MODEL, DOWNLOAD, distrust=distrust) for distrust in (True, False)
        }
        names = {script: str(distrust) for distrust, script in scripts.items()}
        monkeypatch.setattr(mirror, "quote", lambda script: f"'echo distrust {names[script]}'")
        self.steps.facts = {"HubModels": {MODEL.key: Fetched(commit, "", {"a": 1}, {})}}
        [(_, script, _)] = self.commands(MODEL)
        assert machine.run(script) == Ended(0, f"distrust {commit is None}\n", "")

    def test_what_cannot_be_had_is_said_and_ends_nothing(
        self, monkeypatch: pytest.MonkeyPatch, machine: Machine
    ) -> None:
        monkeypatch.setattr(mirror, "fetch_script", lambda *_, **__: """echo "it's off"; exit 7""")
        self.steps.facts = {"HubModels": {MODEL.key: Fetched(None, "", {}, {})}}
        [(_, script, _)] = self.commands(MODEL)
        (machine.folder / "log").write_text(f"much\n{'x' * 201}\n")
        assert machine.run(f"log={machine.folder}/log\n{script}") == Ended(
            0, f"it's off\nnote: the mirror cannot have org/model: {'x' * 200}\n", ""
        )
