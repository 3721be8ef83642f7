"""What a host is asked about its images, to the letter: by a Docker that notes what it is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.unit.fakes import inspect_line
from tests.unit.here import Ended, Here
from vllm_hosts.errors import HostError
from vllm_hosts.facts.base import END, HostFact
from vllm_hosts.facts.vllm_images import (
    Image,
    ImageRoom,
    ImagesFound,
    ImagesThere,
    ImagesUsed,
    ImageUse,
    Used,
    recorded,
)
from vllm_hosts.host.containers import INSPECT
from vllm_hosts.host.paths import IMAGES_RECORD, WAY_BACK

A, B = (f"sha256:{letter * 64}" for letter in "ab")
#: One with every digit that an identifier may have.
DIGITS = f"sha256:{'0123456789abcdef' * 4}"
FORMAT = (
    '{"id":{{json .Id}},"tags":{{json .RepoTags}},"digests":{{json .RepoDigests}},"size":{{.Size}}}'
)
ONE = f'{{"id":"{A}","tags":["v:1","v:2"],"digests":["v@{B}"],"size":7}}'
BARE = f'{{"id":"{B}","tags":null,"digests":null,"size":9}}'


class Machine:
    """This machine as a host; what Docker prints is in files, a line for each that is asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "bin").mkdir()
        (folder / "way-back/now").mkdir(parents=True)
        (folder / "way-back/before").mkdir()
        self.here = Here(folder / "bin")
        self.docker(
            "case $1-$2 in image-ls) cat ids ;; ps-*) cat names ;;"
            " image-*) cat images ;; container-*) cat containers ;; esac"
        )
        for name in ("ids", "names", "images", "containers"):
            self.write(name, "")

    def docker(self, does: str) -> None:
        self.here.program("docker", f'cd {self.folder}; echo "$*" >>asked\n{does}')

    def write(self, name: str, *lines: str) -> None:
        (self.folder / name).write_text("".join(f"{line}\n" for line in lines if line))

    @property
    def asked(self) -> list[str]:
        return (self.folder / "asked").read_text().splitlines()

    def run(self, fact: HostFact[Any]) -> Ended:
        script = str(fact.command())
        for path, name in ((IMAGES_RECORD, "record"), (WAY_BACK, "way-back")):
            script = script.replace(f"{path} ", f"{self.folder}/{name} ")
            script = script.replace(f"{path}/", f"{self.folder}/{name}/")
        return self.here.run(script)

    def says(self, fact: HostFact[Any]) -> Any:
        done = self.run(fact)
        assert (done.rc, done.stderr) == (0, "")
        return fact.process(done.stdout.splitlines())


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


class TestAll:
    def test_a_docker_that_is_empty(self, machine: Machine) -> None:
        assert machine.says(ImagesThere()) == ImagesFound((), (), ())
        assert machine.asked == ["image ls --no-trunc --quiet", "ps --all --no-trunc --quiet"]

    def test_what_is_there_who_uses_it_and_what_agents_used(self, machine: Machine) -> None:
        machine.write("ids", B, A, B)
        machine.write("images", ONE, BARE)
        machine.write("names", "0c", "0d")
        machine.write("containers", inspect_line("one"), inspect_line("two", "exited", None))
        machine.write("record", f"{B} v:0", f"{A} r.example.com:5000/v:1")
        machine.write("way-back/now/definition.json", f'{{"one":{{"image_id":"{A}","x":1}}}}')
        machine.write("way-back/before/definition.json", f'{{"a":{{"image_id":"{DIGITS}"}}}}')
        found = machine.says(ImagesThere())
        assert found.images == (Image(A, ("v:1", "v:2"), (f"v@{B}",), 7), Image(B, (), (), 9))
        assert [(one.name, one.image_id, one.project) for one in found.users] == [
            ("one", A, "vllm"),
            ("two", A, "vllm"),
        ]
        assert found.record == (Used(B, "v:0"), Used(A, "r.example.com:5000/v:1"))
        assert found.way_back == {A, DIGITS}
        assert machine.asked == [
            "image ls --no-trunc --quiet",
            f"image inspect --format {FORMAT} {A} {B}",
            "ps --all --no-trunc --quiet",
            f"container inspect --format {INSPECT} 0c 0d",
        ]

    @pytest.mark.parametrize("fails", ["image-ls", "image-inspect", "ps---all", "container-*"])
    def test_a_docker_that_does_not_answer_is_no_empty_one(
        self, machine: Machine, fails: str
    ) -> None:
        machine.docker(
            f"case $1-$2 in {fails}) echo gone >&2; exit 1 ;; image-ls|ps-*) echo x ;; esac"
        )
        done = machine.run(ImagesThere())
        assert done.rc == 1
        with pytest.raises(HostError, match="the answer was cut short"):
            ImagesThere().process(done.stdout.splitlines())

    def test_names_are_bounded(self, machine: Machine) -> None:
        machine.write("ids", A)
        names = f'["{"v" * 800}"]'
        machine.write("images", f'{{"id":"{A}","tags":{names},"digests":{names},"size":7}}')
        [found] = machine.says(ImagesThere()).images
        assert found.names == found.digests == ("v" * 700 + " ...",)

    @pytest.mark.parametrize("odd", [A[:-1], f"{A}0", A.upper(), f"x{A[1:]}", "z" * 300])
    @pytest.mark.parametrize("where", ["images", "containers", "way back"])
    def test_an_identifier_becomes_a_word_of_a_command(self, odd: str, where: str) -> None:
        said = {
            "images": ONE.replace(A, odd),
            "containers": inspect_line("one", image_id=odd),
            "way back": odd,
        }
        lines = ["== record"]
        for name, line in said.items():
            lines += [f"== {name}", *([line] if name == where else [])]
        with pytest.raises(ValueError, match=f"^{odd[:100]}$"):
            ImagesThere().parse(lines)


class TestUsed:
    def test_what_the_agents_of_a_host_have(self, machine: Machine) -> None:
        machine.write("names", "0c", "0d", "0e")
        older = {"image": "vllm/vllm-openai:v0.32.0", "image_id": B}
        machine.write(
            "containers", inspect_line("one"), inspect_line("two"), inspect_line("three", **older)
        )
        machine.write("record", f"{B} v:0")
        assert machine.says(ImagesUsed()) == ImageUse(
            agents=(Used(A, "vllm/vllm-openai:v0.33.0"), Used(B, "vllm/vllm-openai:v0.32.0")),
            record=(Used(B, "v:0"),),
        )
        assert machine.asked == [
            "ps --all --quiet --filter label=com.docker.compose.project=vllm",
            f"container inspect --format {INSPECT} 0c 0d 0e",
        ]

    def test_nothing(self, machine: Machine) -> None:
        assert machine.says(ImagesUsed()) == ImageUse((), ())
        assert len(machine.asked) == 1

    def test_a_host_without_docker(self, machine: Machine) -> None:
        script = ImagesUsed().command().replace("-v docker", "-v no-docker")
        done = machine.here.run(script.replace(IMAGES_RECORD, f"{machine.folder}/record"))
        assert ImagesUsed().process(done.stdout.splitlines()) == ImageUse((), ())
        assert not (machine.folder / "asked").exists()

    @pytest.mark.parametrize("fails", ["ps", "container"])
    def test_a_docker_that_does_not_answer_is_no_empty_one(
        self, machine: Machine, fails: str
    ) -> None:
        machine.docker(f"case $1 in {fails}) exit 1 ;; ps) echo x ;; esac")
        assert machine.run(ImagesUsed()).rc == 1

    def test_an_odd_answer_names_what_it_is_about(self) -> None:
        with pytest.raises(HostError, match="^the agents' images could not be understood"):
            ImagesUsed().process(["== record", "odd", "== agents", END])


@pytest.mark.parametrize(
    "line",
    [
        *(f"{A} ", f"{A} -v:1", f"{A} v:1 x", f"{A[:-1]} v:1", f"{A} $(v)"),
        *(f"{A} v{'x' * 601}", "?" * 300),
    ],
)
def test_a_record_that_somebody_edited_is_no_empty_one(line: str) -> None:
    with pytest.raises(ValueError) as found:
        recorded([f"{A} {'v' * 601}", line])
    assert str(found.value) == line[:200]


class TestRoom:
    @pytest.mark.parametrize(
        ("kind", "free"), [([], 10), (["kind docker"], 10), (["kind containerd"], 20)]
    )
    def test_free_where_docker_keeps_images(self, kind: list[str], free: int) -> None:
        lines = ["== images", *kind, "feature -", "root /a", "free root 10", "store /b"]
        assert ImageRoom().process([*lines, "free store 20", END]) == free

    def test_this_machine(self, machine: Machine) -> None:
        machine.docker("exit 1")
        assert machine.says(ImageRoom()) > 0

    def test_an_odd_answer_names_what_it_is_about(self) -> None:
        with pytest.raises(HostError, match="^the disk with the container images could not be und"):
            ImageRoom().process(["== images", END])
