"""What a host is asked about models of the hub and of the controller, to the letter."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.unit.here import Ended, Here
from vllm_hosts.errors import HostError
from vllm_hosts.facts.base import END, HostFact
from vllm_hosts.facts.hub import CopyFound, HubModels, ModelCopy, asked_of
from vllm_hosts.host.paths import MODEL_NOTES
from vllm_hosts.hub.hub_models import Fetched, HubModel

COMMIT = "a" * 40
MODEL, OTHER = HubModel("org/model"), HubModel("org/other", "v1")
READER = f"{os.getuid()}:{os.getgid()}"


class Machine:
    """This machine as a host, with its files below a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "bin").mkdir()
        self.here = Here(folder / "bin")

    def write(self, name: str, text: str = "") -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def run(self, fact: HostFact[Any], *given: Any) -> Ended:
        script = str(fact.command(*given))
        return self.here.run(script.replace(MODEL_NOTES, f"{self.folder}/notes"))

    def says(self, fact: HostFact[Any], *given: Any) -> Any:
        done = self.run(fact, *given)
        assert (done.rc, done.stderr) == (0, "")
        return fact.process(done.stdout.splitlines())


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


class TestFromTheHub:
    @pytest.fixture(autouse=True)
    def ready(self, machine: Machine) -> None:
        self.machine = machine
        self.cache = Path(MODEL.folder(str(machine.folder))).relative_to(machine.folder)

    def seen(self, *models: HubModel) -> dict[str, Fetched]:
        asked = asked_of(models, str(self.machine.folder))
        found: dict[str, Fetched] = self.machine.says(HubModels(), asked, READER)
        return found

    def test_a_look_is_told_no_more_than_it_needs(self) -> None:
        model = HubModel("org/model", "v1", environment=(("https_proxy", "http://u:password@p"),))
        assert asked_of([model, MODEL], "/c") == [
            (model.key, "/c/huggingface/hub/models--org--model", "v1"),
            (MODEL.key, "/c/huggingface/hub/models--org--model", "main"),
        ]

    def test_what_nobody_noted_is_not_looked_for(self) -> None:
        self.machine.write(f"{self.cache}/refs/main", COMMIT)
        self.machine.write(f"{self.cache}/snapshots/{COMMIT}/a", "1")
        assert self.seen(MODEL, OTHER) == dict.fromkeys(
            (MODEL.key, OTHER.key), Fetched(None, "", {}, {})
        )

    def test_what_was_fetched_and_is_there(self) -> None:
        note = f"commit {COMMIT}\nfile 5 with  space.json\nfile 1 sub/b\nfile 9 gone\n"
        self.machine.write(f"notes/{MODEL.key}", note)
        self.machine.write(f"notes/{OTHER.key}", f"commit {'b' * 40}\nfile 1 a\n")
        self.machine.write(f"{self.cache}/refs/main", "c" * 300)
        blob = self.machine.write(f"{self.cache}/blobs/x", "1234")
        self.machine.write(f"{self.cache}/snapshots/{COMMIT}/sub/b", "1")
        self.machine.write(f"{self.cache}/snapshots/{COMMIT}/unasked", "1")
        (self.machine.folder / f"{self.cache}/snapshots/{COMMIT}/with  space.json").symlink_to(blob)
        assert self.seen(MODEL, OTHER) == {
            MODEL.key: Fetched(
                COMMIT,
                "c" * 200,
                {"with  space.json": 5, "sub/b": 1, "gone": 9},
                {"with  space.json": 4, "sub/b": 1},
            ),
            OTHER.key: Fetched("b" * 40, "", {"a": 1}, {}),
        }

    def test_a_file_s_name_is_no_option(self) -> None:
        self.machine.write(f"notes/{MODEL.key}", f"commit {COMMIT}\nfile 1 --version\n")
        self.machine.write(f"{self.cache}/snapshots/{COMMIT}/--version", "1")
        assert self.seen(MODEL)[MODEL.key].present == {"--version": 1}

    def test_a_look_that_fails_is_no_empty_cache(self) -> None:
        self.machine.write(f"notes/{MODEL.key}", f"commit {COMMIT}\nfile 1 a\n")
        self.machine.here.program("timeout", "exit 124")
        done = self.machine.run(HubModels(), asked_of([MODEL, OTHER], "/c"), READER)
        assert done.rc == 1
        with pytest.raises(HostError, match="^the models in the cache could not be read: the answ"):
            HubModels().process(done.stdout.splitlines())


class TestFromTheController:
    def seen(self, machine: Machine) -> CopyFound:
        places = machine.folder / "srv/model", machine.folder / "srv/model.new"
        found: CopyFound = machine.says(ModelCopy(), *places, "key")
        return found

    def test_nothing(self, machine: Machine) -> None:
        machine.here.program(
            "df", '[ "$1 $2" = "--output=avail -B1" ] && echo "    Avail" && echo "$3" | wc -c'
        )
        free = len(str(machine.folder)) + 1
        assert self.seen(machine) == CopyFound(None, {}, frozenset(), {}, free)

    def test_a_folder_that_is_empty_is_there(self, machine: Machine) -> None:
        (machine.folder / "srv/model").mkdir(parents=True)
        assert self.seen(machine).present == {}

    def test_what_was_sent_and_what_was_noted(self, machine: Machine) -> None:
        machine.write("srv/model/config.json", "{}")
        machine.write("srv/model/sub/with  space", "1")
        (machine.folder / "srv/model/link").symlink_to("config.json")
        machine.write("srv/model.new/part", "123")
        machine.write(
            "notes/key", "source one\nsource two words\nfile 0a config.json\nfile 0b with  space\n"
        )
        found = self.seen(machine)
        assert found.free > 0
        assert found == CopyFound(
            present={"config.json": 2, "sub/with  space": 1},
            staged={"part": 3},
            sources=frozenset({"one", "two words"}),
            digests={"config.json": "0a", "with  space": "0b"},
            free=found.free,
        )

    @pytest.mark.parametrize(("code", "reads"), [(1, True), (124, False)])
    def test_a_folder_that_hangs_is_no_folder_without_files(
        self, machine: Machine, code: int, reads: bool
    ) -> None:
        """Some of it may be for nobody to see, and the rest is compared."""
        folder = machine.write("srv/model/config.json", "{}").parent
        machine.here.program(
            "timeout", f'echo "$1" >{machine.folder}/seconds; shift; "$@"; exit {code}'
        )
        done = machine.run(ModelCopy(), folder, machine.folder / "new", "key")
        assert (machine.folder / "seconds").read_text() == "60\n"
        if reads:
            found = ModelCopy().process(done.stdout.splitlines())
            assert (done.stderr, found.present) == ("", {"config.json": 2})
        else:
            assert (done.rc, done.stderr) == (1, f"looking at {folder} took 60 s\n")

    def test_an_odd_answer_names_what_it_is_about(self) -> None:
        lines = ["== free", "many", "== folder", "== staged", "== stamp", END]
        with pytest.raises(HostError, match="^a model's folder could not be understood"):
            ModelCopy().process(lines)
