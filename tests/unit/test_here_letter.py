"""Asking an image's vLLM on this machine, to the letter: engines and the hub are stand-ins."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import SecretStr

from tests.unit.samples import CODER, QWEN, settings
from vllm_hosts.capacity.result import PlannedGpu
from vllm_hosts.errors import HostError, SettingsError
from vllm_hosts.host.fetching import PROGRAM
from vllm_hosts.host.models import models_of
from vllm_hosts.host.nvidia_smi import Gpu, Smi
from vllm_hosts.hub.local import contents, small_files
from vllm_hosts.rehearsal import here, remembered
from vllm_hosts.rehearsal.answer import Answer, unrehearsed
from vllm_hosts.rehearsal.asking import Said, question
from vllm_hosts.rehearsal.container import MOST, Asked, Request
from vllm_hosts.rehearsal.here import ContainerEngine, ask_here, engine

IMAGE, DIGEST = "vllm/vllm-openai:v0.33.0", "1" * 64
COMMIT = "c" * 40
HAS = ContainerEngine("docker", "vllm:x", f"sha256:{DIGEST}", {})
SAID = Answer(vllm="0.33.0", weights=1)
GIB = 1 << 30
MARK = "0123456789abcdef0123456789abcdef"


class TestEngine:
    @pytest.fixture
    def engines(self, monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[int, str]]:
        """What each word of an engine's is answered with; without one it is not here."""
        found: dict[str, tuple[int, str]] = {}
        monkeypatch.setattr(
            shutil, "which",
            lambda program: next((one for one in found if one.startswith(program)), None),
        )  # fmt: skip
        monkeypatch.setattr(here, "_run", lambda *words: found[" ".join(words)])
        monkeypatch.setattr(here, "_cards", lambda program: {0: f"card of {program}"})
        return found

    def inspect(self, program: str) -> str:
        return f"{program} image inspect --format {{{{.Id}}}} {IMAGE}"

    def problems(self) -> list[str]:
        with pytest.raises(SettingsError) as found:
            engine(IMAGE)
        return found.value.problems

    @pytest.mark.parametrize("program", ["docker", "podman"])
    @pytest.mark.parametrize("said", [DIGEST, f"sha256:{DIGEST}"])
    def test_the_one_that_has_the_image(
        self, engines: dict[str, Any], program: str, said: str
    ) -> None:
        engines[self.inspect("docker")] = (1, "no such image")
        engines["docker info"] = (0, "")
        engines[self.inspect(program)] = (0, said)
        cards = {0: f"card of {program}"}
        assert engine(IMAGE) == ContainerEngine(program, IMAGE, f"sha256:{DIGEST}", cards)

    def test_where_there_is_none(self, engines: dict[str, Any]) -> None:
        assert self.problems() == [
            "--image asks the vLLM of an image on this machine, and there is neither docker nor"
            " podman; install one, or leave --image out and have the hosts asked"
        ]

    @pytest.mark.parametrize("said", [(1, "no such image"), (0, "another"), (0, DIGEST[1:])])
    def test_where_none_has_it(self, engines: dict[str, Any], said: tuple[int, str]) -> None:
        engines |= {self.inspect("docker"): said, "docker info": (0, "")}
        engines |= {self.inspect("podman"): (125, ""), "podman info": (1, "")}
        assert self.problems() == [
            f"{IMAGE} is not on this machine; fetch it first: docker pull {IMAGE}",
            "podman does not answer here: it says nothing; start it, or leave --image out and have"
            " the hosts asked",
        ]

    def test_one_that_is_late_may_have_it(self, engines: dict[str, Any]) -> None:
        engines[self.inspect("docker")] = (124, "nothing within 30 seconds")
        [problem] = self.problems()
        assert problem.startswith("docker does not answer here: nothing within 30 seconds; start")

    def test_what_it_is_stays_so(self) -> None:
        with pytest.raises(FrozenInstanceError):
            HAS.image = "x"  # type: ignore[misc]


class TestRun:
    def program(self, folder: Path, text: str) -> str:
        (folder / "engine").write_text(f"#!/bin/sh\n{text}\n")
        (folder / "engine").chmod(0o755)
        return str(folder / "engine")

    def test_how_a_word_ended_and_what_it_said(self, tmp_path: Path) -> None:
        assert here._run(self.program(tmp_path, 'echo " $1 "; echo x >&2'), "a b") == (0, "a b")
        assert here._run(self.program(tmp_path, "echo x; echo no >&2; exit 3")) == (3, "no")
        assert here._run(str(tmp_path / "none"))[0] == 1
        assert "null byte" in here._run(self.program(tmp_path, ":"), "a\0")[1]

    def test_one_that_does_not_end(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        assert here._WORD == 30
        monkeypatch.setattr(here, "_WORD", 0.2)
        said = here._run(self.program(tmp_path, "exec sleep 9"))
        assert said == (124, "nothing within 0.2 seconds")

    @pytest.fixture
    def runtimes(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        said = ["runc nvidia "]
        asks = ("docker", "info", "--format", "{{range $name, $_ := .Runtimes}}{{$name}} {{end}}")
        answers: dict[tuple[str, ...], tuple[int, list[str]]] = {asks: (0, said)}

        def run(*words: str) -> tuple[int, str]:
            code, lines = answers[words]
            return code, lines[0]

        monkeypatch.setattr(here, "_run", run)
        monkeypatch.setattr(here, "QUERY", "printf 'a\\nb\\n'")
        monkeypatch.setattr(
            here, "parse", lambda lines: Smi((Gpu(1, f"{lines}"), Gpu(0, "L4")), None)
        )
        return said

    def test_cards_that_containers_get(self, runtimes: list[str]) -> None:
        assert here._cards("docker") == {1: "['a', 'b']", 0: "L4"}
        assert here._cards("podman") == {}
        runtimes[0] = "runc"
        assert here._cards("docker") == {}

    def test_a_driver_that_says_something_else(
        self, runtimes: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def odd(lines: list[str]) -> Smi:
            raise ValueError

        monkeypatch.setattr(here, "parse", odd)
        assert here._cards("docker") == {}


class World:
    """A machine that asks; ``asked`` has the questions, ``fetched`` the models."""

    def __init__(self, patch: pytest.MonkeyPatch, *agents: dict[str, Any], **more: Any) -> None:
        self.settings = settings(agents=[*agents], **more)
        self.asked: list[Asked] = []
        self.small: list[list[str]] = []
        self.fetched: list[str] = []
        self.kept: dict[str, Answer] = {}
        self.keys: list[Any] = []
        patch.setattr(here, "token_hex", lambda size: MARK if size == 16 else "")
        patch.setattr(remembered, "recall", self.kept.get)
        patch.setattr(remembered, "keep", self.kept.__setitem__)
        patch.setattr(here, "key", self.key)
        patch.setattr(here._One, "_answer", lambda one, asked: self.answer(asked))
        patch.setattr(here._One, "_fetched", lambda one, model: self.fetch(one, model))

    def key(self, asked: Asked, digest: str, models: Any, cards: Any) -> str:
        self.keys.append((digest, dict(models), cards))
        return repr((asked.agent.agent, models))

    def answer(self, asked: Asked) -> Answer:
        self.asked.append(asked)
        for folder in asked.agent.folders.values():
            if Path(folder).name == "copy":
                files = [one for one in Path(folder).rglob("*") if one.is_file()]
                self.small.append(sorted(str(one.relative_to(folder)) for one in files))
                assert {oct(one.stat().st_mode & 0o777) for one in files} == {"0o644"}
                assert Path(folder).stat().st_mode & 0o777 == 0o755
        return SAID

    def fetch(self, one: Any, model: Any) -> str:
        if one.offline:
            raise HostError("offline")
        self.fetched.append(model.model)
        return COMMIT

    def run(self, has: ContainerEngine = HAS, **words: Any) -> dict[str, Said]:
        cards = words.pop("cards", {0: PlannedGpu(0, "L4", 24 * GIB)})
        self.asked.clear()
        self.keys.clear()
        self.fetched.clear()
        copies = words.pop("copies", {})
        return ask_here(has, self.settings, self.settings.agents, cards, copies, **words)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "sub/tokenizer.json").write_text("{}")
    (folder / "sub/vocab.json").write_text("{}")
    (folder / "model.safetensors").write_text("weights")
    for path in (folder, folder / "sub", folder / "config.json"):
        path.chmod(0o700)
    return folder


class TestAsked:
    def test_a_model_of_the_hub_s_is_fetched_and_asked_about(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        world = World(monkeypatch, QWEN | {"extra_models": ["org/draft"]})
        assert world.run() == {"qwen": Said(SAID, False, "vllm:x", False)}
        assert world.fetched == ["Qwen/Qwen3-8B", "org/draft"]
        [asked] = world.asked
        assert (asked.agent.image, asked.agent.gpus) == ("vllm:x", ())
        [(target, source)] = asked.agent.folders.items()
        assert target == "/models" and source.endswith("/hub") and not Path(source).exists()
        assert asked.agent.command[0] == "Qwen/Qwen3-8B"
        assert asked.request.memory == 24 * GIB
        # What stays is kept under the image's digest, and the cards are this machine's.
        digest, models, cards = world.keys[-1]
        assert (digest, cards) == (f"sha256:{DIGEST}", ("none here",))
        assert set(models.values()) == {COMMIT}
        assert list(world.kept.values()) == [SAID]

    def test_the_same_is_asked_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        world = World(monkeypatch, QWEN)
        world.run()
        assert world.run() == {"qwen": Said(SAID, True, "vllm:x", False)}
        # Which commit a name means has to be found out each time.
        assert (world.asked, world.fetched) == ([], ["Qwen/Qwen3-8B"])

    def test_of_a_commit_nothing_has_to_be_fetched_twice(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        world = World(monkeypatch, QWEN | {"revision": COMMIT})
        world.run()
        assert world.fetched == ["Qwen/Qwen3-8B"] and len(world.asked) == 1
        found = world.run(offline=True)
        assert (found["qwen"].remembered, world.fetched, world.asked) == (True, [], [])

    def test_one_of_several_that_is_not_known_is_found_out(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        world = World(monkeypatch, QWEN | {"revision": COMMIT, "extra_models": ["org/draft"]})
        world.run()
        assert world.fetched == ["Qwen/Qwen3-8B", "org/draft"]

    def test_a_copy_of_a_model_needs_no_hub(
        self, monkeypatch: pytest.MonkeyPatch, model: Path
    ) -> None:
        world = World(monkeypatch, QWEN)
        # Whatever whoever asks keeps from others.
        before = os.umask(0o077)
        try:
            found = world.run(copies={"qwen": model}, offline=True)
        finally:
            os.umask(before)
        assert found["qwen"].answer == SAID and world.fetched == []
        [asked] = world.asked
        assert set(asked.agent.folders) == {"/copy"}
        assert asked.agent.command[0] == "/copy" and "Qwen/Qwen3-8B" not in asked.agent.command
        assert world.small == [["config.json", "sub/tokenizer.json", "sub/vocab.json"]]
        assert world.keys[-1][1] == {"Qwen/Qwen3-8B": contents(small_files(str(model)))}

    def test_what_it_reads_besides_is_fetched(
        self, monkeypatch: pytest.MonkeyPatch, model: Path
    ) -> None:
        world = World(monkeypatch, QWEN | {"extra_models": ["org/draft"]})
        world.run(copies={"qwen": model})
        assert world.fetched == ["org/draft"]
        assert set(world.asked[0].agent.folders) == {"/copy", "/models"}

    def test_a_folder_of_the_host_s_is_where_it_is_there(
        self, monkeypatch: pytest.MonkeyPatch, model: Path
    ) -> None:
        for given, copies in (({}, {"coder": model}), ({"copy_from": str(model)}, {})):
            world = World(monkeypatch, CODER | given)
            found = world.run(copies=copies)
            assert found["coder"].answer == SAID
            assert set(world.asked[0].agent.folders) == {"/srv/models/coder"}
            assert world.asked[0].agent.command[0] == "/srv/models/coder"
        # A copy that somebody names goes before.
        world = World(monkeypatch, CODER | {"copy_from": "/none"})
        assert world.run(copies={"coder": model})["coder"].answer == SAID

    def test_a_folder_that_is_the_host_s_alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        world = World(monkeypatch, CODER)
        why = unrehearsed(
            "/srv/models/coder is a folder of the host's; name a copy of it: --model-dir"
            " coder=FOLDER"
        )
        assert world.run() == {"coder": Said(why, image="vllm:x")}

    def test_a_copy_that_cannot_be_read_is_named_as_it_was_given(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        world = World(monkeypatch, CODER | {"copy_from": str(tmp_path / "none")}, QWEN)
        found = world.run(copies={"qwen": tmp_path / "gone"})
        assert found["coder"].answer.unknown["all"].startswith(f"copy_from {tmp_path}/none ")
        words = found["qwen"].answer.unknown["all"]
        assert words.startswith(f"--model-dir qwen={tmp_path}/gone ")

    def test_one_agent_s_fault_is_its_own(self, monkeypatch: pytest.MonkeyPatch) -> None:
        world = World(monkeypatch, CODER, QWEN)
        found = world.run()
        assert "is a folder of the host's" in found["coder"].answer.unknown["all"]
        assert found["qwen"].answer == SAID

        def full(one: Any, asked: Asked) -> Answer:
            raise OSError("no space")

        monkeypatch.setattr(here._One, "_answer", full)
        world.kept.clear()
        assert world.run()["qwen"].answer == unrehearsed("no space")

    @pytest.mark.parametrize(
        ("here_", "host", "gpus", "alike"),
        [
            ({0: "L4", 1: "L4"}, ["L4", "L4"], ("0", "1"), True),
            ({0: "L4", 1: "A100"}, ["L4", "L4"], ("0", "1"), False),
            ({0: "L4"}, ["L4", "L4"], (), False),
            ({0: "L4", 1: "L4", 2: "L4"}, ["L4"], ("0", "1"), False),
        ],
    )
    def test_cards_here_are_given_where_there_are_enough(
        self,
        monkeypatch: pytest.MonkeyPatch,
        here_: dict[int, str],
        host: list[str],
        gpus: tuple[str, ...],
        alike: bool,
    ) -> None:
        world = World(monkeypatch, QWEN | {"gpus": [0, 1]})
        cards = {index: PlannedGpu(index, name, GIB) for index, name in enumerate(host)}
        found = world.run(replace(HAS, cards=here_), cards=cards)
        assert (world.asked[0].agent.gpus, found["qwen"].alike) == (gpus, alike)
        names = tuple(f"{one} here: {here_[int(one)]}" for one in gpus) or ("none here",)
        assert world.keys[-1][2] == names

    def test_an_agent_without_cards_is_asked_as_it_will_run(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        world = World(monkeypatch, QWEN | {"gpus": []})
        assert world.run()["qwen"].alike is True


class TestFetched:
    @pytest.fixture
    def one(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
        for name in list(os.environ):
            if name.startswith("HF_"):
                monkeypatch.delenv(name)
        return self.made(tmp_path)

    def made(self, place: Path, offline: bool = False, agent: Any = None, **more: Any) -> Any:
        host = settings(agents=[QWEN | (agent or {})], **more)
        return here._One(HAS, host, host.agents[0], place, offline)

    @pytest.fixture
    def ran(self, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
        """What the program is started with, and in ``done`` how it ends."""
        seen: dict[str, Any] = {"done": (0, f"x\ncommit {COMMIT}\n", "")}

        def run(words: list[str], **given: Any) -> Any:
            seen["words"], seen["given"] = words, given
            if isinstance(seen["done"], Exception):
                raise seen["done"]
            folder = Path(given["env"]["HF_HOME"])
            folder.mkdir(exist_ok=True)
            (folder / "config.json").touch(mode=0o600)
            (folder / "link").symlink_to("/not/there") if not (folder / "link").is_symlink() else 0
            code, told, odd = seen["done"]
            return SimpleNamespace(returncode=code, stdout=told.encode(), stderr=odd.encode())

        monkeypatch.setattr(subprocess, "run", run)
        return seen

    def model(self, one: Any) -> Any:
        return models_of(one.agent)[0]

    def test_small_files_come_as_a_host_gets_them(
        self, one: Any, ran: dict[str, Any], tmp_path: Path
    ) -> None:
        assert one._fetched(self.model(one)) == COMMIT
        assert ran["words"] == [
            *(sys.executable, "-P", str(PROGRAM), "Qwen/Qwen3-8B"),
            *("--revision", "main", "--small"),
        ]
        given = ran["given"]
        environment = given.pop("env")
        assert given == {
            "capture_output": True, "timeout": 180, "check": False, "umask": 0o022,
        }  # fmt: skip
        assert environment["HF_HOME"] == f"{tmp_path}/hub"
        assert environment["HF_HUB_DISABLE_PROGRESS_BARS"] == "1"
        assert environment["PATH"] == os.environ["PATH"]
        assert not {"HF_TOKEN", "HF_ENDPOINT"} & set(environment)
        # Whoever the container's user is can read them.
        assert (tmp_path / "hub/config.json").stat().st_mode & 0o777 == 0o644

    def test_its_options_are_the_agent_s(self, ran: dict[str, Any], tmp_path: Path) -> None:
        more = {"allow_pickle": True, "ignore_files": ["*.md", "x*"], "env": {"NO_PROXY": "x"}}
        one = self.made(tmp_path, agent=more)
        one._fetched(self.model(one))
        assert ran["words"][-3:] == ["--allow-pickle", "--ignore=*.md", "--ignore=x*"]
        assert ran["given"]["env"]["NO_PROXY"] == "x"

    def test_whose_token_and_hub(
        self, ran: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HF_TOKEN", "of who is logged in")
        monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example")
        monkeypatch.setattr(here, "hf_token", lambda found: SecretStr("the host's"))

        def environment(**more: Any) -> Any:
            one = self.made(tmp_path, **more)
            one._fetched(self.model(one))
            return ran["given"]["env"].get("HF_ENDPOINT"), ran["given"]["env"].get("HF_TOKEN")

        assert environment() == ("https://mirror.example", "the host's")
        own = "https://own.example"
        assert environment(hub={"endpoint": own}) == (own, "the host's")
        monkeypatch.delenv("HF_ENDPOINT")
        assert environment() == (None, "the host's")
        # It would be readable on its way.
        monkeypatch.setenv("HF_ENDPOINT", "http://mirror.example")
        assert environment() == ("http://mirror.example", None)

    @pytest.mark.parametrize(
        ("done", "words"),
        [
            ((3, f"commit {COMMIT}\n", "x\nit is gated\n"), "it is gated"),
            ((0, "", ""), "it ended with 0"),
            ((7, "", "\n"), "it ended with 7"),
            ((0, f" commit {COMMIT}\n", "odd"), "odd"),
            ((0, f"commit {COMMIT[1:]}\n", "odd"), "odd"),
        ],
    )
    def test_one_that_cannot_be_had(
        self, one: Any, ran: dict[str, Any], done: Any, words: str
    ) -> None:
        ran["done"] = done
        with pytest.raises(HostError) as found:
            one._fetched(self.model(one))
        assert str(found.value) == f"Qwen/Qwen3-8B could not be fetched here: {words}"

    def test_a_hub_that_takes_too_long(self, one: Any, ran: dict[str, Any]) -> None:
        ran["done"] = subprocess.TimeoutExpired("x", 180)
        with pytest.raises(HostError, match="the hub took 180 s for Qwen/Qwen3-8B; try again"):
            one._fetched(self.model(one))

    def test_offline_nobody_is_asked(self, ran: dict[str, Any], tmp_path: Path) -> None:
        one = self.made(tmp_path, offline=True)
        with pytest.raises(HostError) as found:
            one._fetched(self.model(one))
        assert str(found.value) == (
            "the hub was not queried for Qwen/Qwen3-8B (--offline); leave --offline out, or name a"
            " copy with --model-dir"
        )
        assert "words" not in ran


class TestAnswer:
    """The container: a program of the test's in its place."""

    @pytest.fixture
    def run(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
        ended: list[Any] = []
        monkeypatch.setattr(here, "_run", lambda *words: ended.append(words))
        monkeypatch.setattr(here, "read", lambda said, mark, code: (said, mark, code))
        monkeypatch.setattr(here, "script", lambda: "the script")
        host = settings(agents=[QWEN])
        asked = question(host, host.agents[0], MARK, {}, [])

        def run(program: str, seconds: int = 9) -> Any:
            started: list[Any] = []

            def words(agent: Any, request: Request, engine: str) -> list[str]:
                started.append((agent, engine))
                return ["sh", "-c", program]

            monkeypatch.setattr(here, "words", words)
            short = replace(asked, request=replace(asked.request, seconds=seconds - 60))
            one = here._One(HAS, host, host.agents[0], tmp_path, False)
            ended.clear()
            found = one._answer(short)
            assert started == [(asked.agent, "docker")]
            name = f"vllm-hosts-rehearsal-qwen-{MARK[:8]}"
            assert ended == [("docker", "rm", "--force", name)]
            return found

        return run

    def test_it_gets_the_script_and_its_output_is_read(self, run: Any) -> None:
        assert run("cat; echo odd >&2; exit 3") == (b"the script", MARK, 3)

    def test_where_it_prints_nothing_its_errors_are_read(self, run: Any) -> None:
        assert run("echo no such image >&2; exit 125") == (b"no such image\n", MARK, 125)
        said, _, code = run("seq -s '' 999 >&2; printf end >&2")
        assert (len(said), said[-6:], code) == (600, b"99\nend", 0)

    def test_no_more_is_read_than_an_answer_has(
        self, run: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert MOST == 256 << 10
        monkeypatch.setattr(here, "MOST", 10)
        said, _, _ = run("trap '' PIPE; yes 2>/dev/null")
        assert said == b"y\n" * 5

    def test_one_that_does_not_end_is_ended(self, run: Any) -> None:
        said, _, code = run("exec sleep 30", seconds=1)
        assert (said, code) == (b"", 124)


class TestToldToEnd:
    """Told to end, it cleans up first."""

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
    def test_a_signal_ends_it_in_order(self, number: signal.Signals) -> None:
        assert signal.getsignal(number) is signal.SIG_DFL
        with pytest.raises(SystemExit) as ended, here._told_to_end():
            signal.raise_signal(number)
        assert ended.value.code == 128 + number
        assert signal.getsignal(number) is signal.SIG_DFL

    def test_who_has_an_end_of_its_own_keeps_it(self) -> None:
        before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
        try:
            with here._told_to_end():
                signal.raise_signal(signal.SIGTERM)
                assert signal.getsignal(signal.SIGHUP) is not signal.SIG_DFL
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
        finally:
            signal.signal(signal.SIGTERM, before)

    def test_threads_leave_signals_alone(self) -> None:
        seen = []

        def ask() -> None:
            with here._told_to_end():
                seen.append(signal.getsignal(signal.SIGTERM))

        thread = Thread(target=ask)
        thread.start()
        thread.join()
        assert seen == [signal.SIG_DFL]
