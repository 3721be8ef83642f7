"""`vllm-hosts images` and what a deploy says of old ones, with a Docker that has images."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from tests.unit.fakes import LocalHost, inspected
from tests.unit.test_images import REPOSITORY, WANTED, identifier, v

#: docker, with images and containers in a file. Refuses what Docker refuses.
_DOCKER = r"""
import json, os, sys
folder = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
path = folder + "/docker.json"
state = json.load(open(path))
words = sys.argv[1:]
def find(name):
    for one in state["images"]:
        if name == one["id"] or name in one["tags"] or name in one["digests"]:
            return one
    sys.exit("Error: No such image: " + name)
if words[:2] == ["image", "ls"]:
    for one in state["images"]:
        for _ in one["tags"] or [None]:
            print(one["id"])
elif words[:2] == ["image", "inspect"]:
    names = [w for w in words[2:] if w.startswith("sha256:") or "/" in w]
    for name in names:
        one = find(name)
        print(one["id"] if "json" not in " ".join(words) else json.dumps(one))
elif words[0] == "ps":
    for one in state["containers"]:
        if "--filter" not in words or one["project"] == "vllm":
            print(one["name"])
elif words[:2] == ["container", "inspect"]:
    for one in state["containers"]:
        if one["name"] in words:
            tags = find(one["image_id"])["tags"]
            print(json.dumps(one | {"image": tags[0] if tags else one["image_id"]}))
elif words[:2] == ["image", "rm"]:
    with open(folder + "/removed", "a") as log:
        log.write(" ".join(words[2:]) + "\n")
    for name in words[2:]:
        one = find(name)
        users = [c["name"] for c in state["containers"] if c["image_id"] == one["id"]]
        if users:
            sys.exit("Error: conflict: container " + users[0] + " is using it")
        if name in one["tags"]:
            one["tags"].remove(name)
        if not one["tags"]:
            state["images"].remove(one)
    json.dump(state, open(path, "w"))
elif words[0] == "info":
    print("/tmp null")
else:
    sys.exit("unknown: " + " ".join(words))
"""


class Fake:
    """This machine with images, a record of them, and the command."""

    def __init__(self, folder: Path) -> None:
        self.host = LocalHost.make(folder)
        self.record = self.host.folder / "images"
        self.host.program("docker", f"#!{sys.executable} -IS{_DOCKER}")
        self.program = self.host.project.patched(
            "from vllm_hosts.agents import prune",
            "from vllm_hosts.facts import vllm_images",
            f"prune.IMAGES_RECORD = vllm_images.IMAGES_RECORD = {str(self.record)!r}",
        )
        self.images: list[dict[str, Any]] = []
        self.containers: list[dict[str, Any]] = []
        lines = []
        for letter, name in {"a": v(30), "b": v(31), "c": v(32), "d": WANTED}.items():
            self.add(letter, name)
            lines.append(f"{identifier(letter)} {name}\n")
        self.add("e", f"{REPOSITORY}:theirs")
        self.add("f", "postgres:18")
        self.use("one", "d", "vllm")
        self.use("two", "d", "vllm")
        self.use("db", "f", None)
        self.record.write_text("".join(lines))

    def add(self, letter: str, *names: str) -> None:
        one = {"id": identifier(letter), "tags": list(names), "digests": [], "size": 9_800_000_000}
        self.images.append(one)
        self.write()

    def use(self, name: str, letter: str, project: str | None) -> None:
        one = inspected(name) | {"image_id": identifier(letter), "project": project or ""}
        self.containers.append(one | {"name": name})
        self.write()

    def write(self) -> None:
        state = {"images": self.images, "containers": self.containers}
        self.host.file("docker.json", json.dumps(state))

    def left(self) -> str:
        state = json.loads((self.host.folder / "docker.json").read_text())
        return "".join(one["id"][7] for one in state["images"])

    def run(self, *words: str) -> CompletedProcess[str]:
        done = self.host.project.run(self.program, "images", "inventory/prod.py", *words)
        assert "Traceback" not in done.stdout, done.stdout
        return done


@pytest.fixture
def fake(tmp_path: Path) -> Fake:
    return Fake(tmp_path)


def test_the_list(fake: Fake) -> None:
    done = fake.run()
    assert done.returncode == 0, done.stdout
    assert [line.split() for line in done.stdout.splitlines()] == [
        ["HOST", "IMAGE", "SIZE", "STATE", "USED", "BY"],
        ["@local", WANTED, "9.8", "GB", "in", "use", "one", "two"],
        ["@local", v(32), "9.8", "GB", "used", "before", "-"],
        ["@local", v(31), "9.8", "GB", "old", "-"],
        ["@local", v(30), "9.8", "GB", "old", "-"],
        ["@local", f"{REPOSITORY}:theirs", "9.8", "GB", "not", "ours", "-"],
    ]
    assert fake.left() == "abcdef"


def test_the_list_for_scripts(fake: Fake) -> None:
    fake.host.two_hosts()
    done = fake.run("--json")
    assert done.returncode == 1
    _, _, text = done.stdout.partition("[\n")
    rows = json.loads("[" + text.partition("\n]\n")[0] + "]")
    assert [row["host"] for row in rows] == ["down", *["@local"] * 5]
    assert rows[0]["error"].startswith("cannot be reached")
    assert rows[1] == {
        "host": "@local",
        "image": WANTED,
        "id": identifier("d"),
        "size_bytes": 9_800_000_000,
        "state": "in use",
        "used_by": ["one", "two"],
        "error": None,
    }


def test_a_prune_asks_where_somebody_can_answer(fake: Fake) -> None:
    done = fake.run("prune")
    assert done.returncode == 2
    assert (
        "confirmation is needed, and there is no terminal to ask on; nothing was changed"
        in done.stdout
    )
    assert f"@local: {v(31)}, 9.8 GB\n" in done.stdout
    assert fake.left() == "abcdef"


def test_a_prune_removes_old_ones_and_nothing_else(fake: Fake) -> None:
    done = fake.run("prune", "-y")
    assert done.returncode == 0, done.stdout
    assert fake.left() == "cdef"
    assert "freed on the disk" in done.stdout
    assert fake.record.read_text() == (f"{identifier('c')} {v(32)}\n{identifier('d')} {WANTED}\n")
    done = fake.run("prune", "-y")
    assert (done.returncode, done.stdout) == (0, "There is nothing to remove.\n")
    assert fake.run("prune", "-y", "--keep", "0").returncode == 0
    assert fake.left() == "def"


def test_a_prune_that_docker_refuses(fake: Fake) -> None:
    """A container came to use an image between the look and the removal; another one goes on."""
    fake.use("late", "b", "vllm")
    script = (fake.host.folder / "bin/docker").read_text()
    hidden = script.replace(
        '            print(one["name"])', '            one["name"] == "late" or print(one["name"])'
    )
    fake.host.program("docker", hidden)
    done = fake.run("prune", "-y")
    assert done.returncode == 1
    assert f"{v(31)} was not removed: Error: conflict: container late is using it" in done.stdout
    assert fake.left() == "bcdef"
    assert identifier("b") in fake.record.read_text()


def test_a_docker_that_does_not_answer(fake: Fake) -> None:
    fake.host.program(
        "docker", "#!/bin/sh\necho 'Cannot connect to the Docker daemon' >&2\nexit 1\n"
    )
    for words in ((), ("prune", "-y")):
        done = fake.run(*words)
        assert done.returncode == 1
        assert "the container images could not be read: Cannot connect to the Docker" in done.stdout
        assert "nothing to remove" not in done.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("prune", "--json"), "--json goes with the list"),
        (("-y",), "--yes with prune"),
        (("--host", "gpu9"), "has no host gpu9; it has @local"),
        (("prun",), "'prun' is not 'prune'"),
        (("prune", "--keep", "-1"), "-1"),
    ],
)
def test_misuse(fake: Fake, words: tuple[str, ...], said: str) -> None:
    done = fake.run(*words)
    assert (done.returncode, said in done.stdout) == (2, True), done.stdout
    assert fake.left() == "abcdef"


#: A deploy that is about images only, with the record below a folder of the test.
_DEPLOY = """
from pyinfra.api.deploy import deploy

from vllm_hosts.facts import vllm_images
from vllm_hosts.agents import prune as images
from vllm_hosts.operations import tree

vllm_images.IMAGES_RECORD = images.IMAGES_RECORD = {record!r}
for name in ("DEPLOYED", "COPIES", "PREVIOUS"):
    setattr(tree, name, {record!r} + "-" + name)


@deploy("Images")
def mine():
    images.images_noted({image!r}, name="Noted")
    images.old_images_named({image!r}, "inventory/prod.py", name="Named")


mine()
"""


class TestADeploy:
    def run(self, fake: Fake, image: str, *command: str) -> str:
        project = fake.host.project
        (project.folder / "deploy.py").unlink()
        project.write("deploy.py", _DEPLOY.format(record=str(fake.record), image=image))
        project.environment["XDG_CACHE_HOME"] = str(fake.host.folder)
        words = command or ("pyinfra", "-y", "inventory/prod.py", "deploy.py")
        done = project.run(*words)
        assert done.returncode == 0, done.stdout
        return done.stdout

    def test_it_notes_what_agents_have_and_get_and_names_old_ones(self, fake: Fake) -> None:
        fake.record.unlink()
        fake.add("9", v(34))
        first = self.run(fake, v(34))
        assert fake.record.read_text() == f"{identifier('d')} {WANTED}\n{identifier('9')} {v(34)}\n"
        assert fake.record.stat().st_mode & 0o777 == 0o600
        assert "no agent uses any more" not in first, "nobody knows who brought the others"
        before = fake.record.stat().st_mtime_ns
        again = self.run(fake, v(34))
        assert "Success" not in "".join(line for line in again.splitlines() if "[@local]" in line)
        assert fake.record.stat().st_mtime_ns == before

    def test_old_ones_are_named_in_one_line(self, fake: Fake) -> None:
        said = self.run(fake, WANTED)
        [line] = [line for line in said.splitlines() if "no agent uses any more" in line]
        assert (
            f"{v(31)} (9.8 GB), {v(30)} (9.8 GB); `vllm-hosts images inventory/prod.py prune`"
            in line
        )
        assert v(32) not in line

    def test_drift_and_a_dry_run_note_nothing(self, fake: Fake) -> None:
        fake.record.unlink()
        assert "nothing differs" in self.run(
            fake, WANTED, "vllm-hosts", "drift", "inventory/prod.py"
        )
        self.run(fake, WANTED, "pyinfra", "--dry", "inventory/prod.py", "deploy.py")
        assert not fake.record.exists()

    def test_a_host_without_the_image_has_nothing_to_note(self, fake: Fake) -> None:
        fake.record.unlink()
        self.run(fake, v(40))
        assert not fake.record.exists()
