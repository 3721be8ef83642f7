"""Asking the vLLM of an image on this machine, where there is no host that could be asked."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from secrets import token_hex
from threading import Timer, current_thread, main_thread
from types import FrameType

from vllm_hosts.capacity.result import PlannedGpu
from vllm_hosts.errors import HostError, SettingsError
from vllm_hosts.host.fetching import PROGRAM
from vllm_hosts.host.models import models_of
from vllm_hosts.host.nvidia_smi import QUERY, parse
from vllm_hosts.hub.hub_models import HubModel
from vllm_hosts.hub.local import contents, small_files
from vllm_hosts.keys.sources import hf_token
from vllm_hosts.rehearsal import remembered
from vllm_hosts.rehearsal.answer import Answer, read, unrehearsed
from vllm_hosts.rehearsal.asking import Said, question
from vllm_hosts.rehearsal.container import MODELS, MOST, Asked, container, key, script, words
from vllm_hosts.settings import Agent, HostSettings
from vllm_hosts.text import clean

ENGINES = ("docker", "podman")
#: Where a copy of an agent's model is in its container, if the agent names one of the hub's.
_COPY = "/copy"
_COMMIT = re.compile(r"[0-9a-f]{40}")
#: Seconds for one word of the engine's, and for one model's small files.
_WORD, _FETCH = 30, 180
#: The exit code of timeout(1), for one that did not end in time.
_LATE = 124


@dataclass(frozen=True)
class ContainerEngine:
    """A container engine of this machine, and an image that it has.

    :ivar program: ``docker`` or ``podman``.
    :ivar digest: the image's id.
    :ivar cards: names of this machine's GPUs by index; empty where containers get none.
    """

    program: str
    image: str
    digest: str
    cards: Mapping[int, str]


def engine(image: str) -> ContainerEngine:
    """The engine here that has an image.

    :raises SettingsError: there is none, it does not answer, or it does not have the image.
    """
    there = [program for program in ENGINES if shutil.which(program)]
    if not there:
        raise SettingsError(
            [
                "--image asks the vLLM of an image on this machine, and there is neither docker nor"
                " podman; install one, or leave --image out and have the hosts asked"
            ]
        )
    problems = []
    for program in there:
        code, said = _run(program, "image", "inspect", "--format", "{{.Id}}", image)
        digest = said.removeprefix("sha256:")
        if not code and re.fullmatch(r"[0-9a-f]{64}", digest):
            return ContainerEngine(program, image, f"sha256:{digest}", _cards(program))
        if code == _LATE or _run(program, "info")[0]:
            problems.append(
                f"{program} does not answer here: {clean(said, 300) or 'it says nothing'}; start"
                " it, or leave --image out and have the hosts asked"
            )
        else:
            problems.append(
                f"{image} is not on this machine; fetch it first: {program} pull {image}"
            )
    raise SettingsError(problems)


def _run(program: str, *words: str) -> tuple[int, str]:
    """How one word of the engine's ended, and what it said."""
    try:
        done = subprocess.run([program, *words], capture_output=True, timeout=_WORD, check=False)
    except subprocess.TimeoutExpired:
        return _LATE, f"nothing within {_WORD} seconds"
    except (OSError, ValueError) as error:
        return 1, str(error)
    said = done.stdout if not done.returncode else done.stderr
    return done.returncode, said.decode(errors="replace").strip()


def _cards(program: str) -> Mapping[int, str]:
    """GPUs that a container here can have. Podman has another way to give them."""
    runtimes = "{{range $name, $_ := .Runtimes}}{{$name}} {{end}}"
    if program != "docker" or "nvidia" not in _run(program, "info", "--format", runtimes)[1]:
        return {}
    done = subprocess.run(
        ["sh", "-c", QUERY], stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    try:
        return {
            one.index: one.name
            for one in parse(done.stdout.decode(errors="replace").splitlines()).gpus
        }
    except ValueError:
        return {}


def ask_here(
    has: ContainerEngine,
    settings: HostSettings,
    agents: Sequence[Agent],
    cards: Mapping[int, PlannedGpu],
    copies: Mapping[str, Path],
    *,
    offline: bool = False,
) -> dict[str, Said]:
    """By agent what the image's vLLM says here, or why it could not be asked.

    :param cards: the host's, or supposed ones.
    :param copies: folders on this machine with agents' models, by agent.
    :param offline: do not query the hub.
    """
    found = {}
    for agent in agents:
        own = [cards[index] for index in agent.gpus if index in cards]
        with _told_to_end(), tempfile.TemporaryDirectory(prefix="vllm-hosts-") as place:
            try:
                asking = _One(has, settings, agent, Path(place), offline)
                found[agent.name] = asking.said(own, copies.get(agent.name))
            except (HostError, SettingsError, OSError) as error:
                found[agent.name] = Said(unrehearsed(str(error)), image=has.image)
    return found


@contextmanager
def _told_to_end() -> Iterator[None]:
    """By SIGTERM, or with its terminal, this ends as by Ctrl-C: nothing of it stays."""

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    changed = [
        number
        for number in (signal.SIGTERM, signal.SIGHUP)
        if current_thread() is main_thread() and signal.getsignal(number) is signal.SIG_DFL
    ]
    for number in changed:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in changed:
            signal.signal(number, signal.SIG_DFL)


class _One:
    """One agent that is asked about."""

    def __init__(
        self, has: ContainerEngine, settings: HostSettings, agent: Agent, place: Path, offline: bool
    ) -> None:
        self.has, self.settings, self.agent = has, settings, agent
        self.place, self.offline = place, offline
        self.models: dict[str, str] = {}

    def said(self, cards: Sequence[PlannedGpu], copy: Path | None) -> Said:
        """:param copy: a folder with the agent's model."""
        agent, own = self.agent, list(models_of(self.agent))
        folders: dict[str, str] = {}
        option = f"--model-dir {agent.name}="
        if agent.is_folder and copy is None and agent.copy_from:
            copy, option = Path(agent.copy_from).expanduser(), "copy_from "
        if agent.is_folder and copy is None:
            raise HostError(
                f"{agent.model} is a folder of the host's; name a copy of it:"
                f" --model-dir {agent.name}=FOLDER"
            )
        if copy is not None:
            target = agent.model if agent.is_folder else _COPY
            folders[target] = self._copied(copy, option)
            own = own if agent.is_folder else own[1:]
        asked = question(self.settings, agent, token_hex(16), folders, cards)
        gpus = (
            tuple(str(one) for one in agent.gpus) if set(agent.gpus) <= set(self.has.cards) else ()
        )
        command = asked.agent.command
        if copy is not None and not agent.is_folder:
            command = (_COPY, *command[1:])
        if own:
            folders[MODELS] = str(self.place / "hub")
        asked = replace(
            asked,
            agent=replace(
                asked.agent, image=self.has.image, command=command, gpus=gpus, folders=folders
            ),
        )
        # Which revision a name means is known once it was fetched.
        answer = self._recalled(asked, own)
        earlier = answer is not None
        if answer is None:
            for model in own:
                self.models[model.key] = self._fetched(model)
            answer = self._recalled(asked, own)
            earlier = answer is not None
        if answer is None:
            answer = self._answer(asked)
            remembered.keep(self._key(asked), answer)
        alike = not agent.gpus or [self.has.cards.get(int(one)) for one in gpus] == [
            card.name for card in cards
        ]
        return Said(answer, earlier, self.has.image, alike)

    def _recalled(self, asked: Asked, own: Sequence[HubModel]) -> Answer | None:
        for model in own:
            if _COMMIT.fullmatch(model.revision):
                self.models.setdefault(model.key, model.revision)
            if model.key not in self.models:
                return None
        return remembered.recall(self._key(asked))

    def _key(self, asked: Asked) -> str:
        """Never that of an answer from a host: the cards are this machine's."""
        cards = [f"{index} here: {self.has.cards[int(index)]}" for index in asked.agent.gpus]
        return key(asked, self.has.digest, self.models, tuple(cards or ["none here"]))

    def _copied(self, folder: Path, option: str) -> str:
        """The small files of a folder, where a container's user can read them."""
        target, files = self.place / "copy", small_files(str(folder), option)
        for file in files:
            (target / file.name).parent.mkdir(parents=True, exist_ok=True)
            with file.open() as content:
                (target / file.name).write_bytes(content.read())
        _readable(target)
        self.models[self.agent.model] = contents(files)
        return str(target)

    def _fetched(self, model: HubModel) -> str:
        """Fetch a model's small files as a host does. Returns its commit."""
        if self.offline:
            raise HostError(
                f"the hub was not queried for {model.model} (--offline); leave --offline out, or"
                " name a copy with --model-dir"
            )
        given = [model.model, "--revision", model.revision, "--small"]
        given += ["--allow-pickle"] if model.allow_pickle else []
        given += [f"--ignore={pattern}" for pattern in model.ignore_files]
        try:
            done = subprocess.run(
                [sys.executable, "-P", str(PROGRAM), *given],
                env=self._environment(model),
                capture_output=True,
                timeout=_FETCH,
                check=False,
                umask=0o022,
            )
        except subprocess.TimeoutExpired:
            raise HostError(f"the hub took {_FETCH} s for {model.model}; try again") from None
        told = done.stdout.decode(errors="replace")
        commit = re.search(r"^commit ([0-9a-f]{40,64})$", told, re.MULTILINE)
        if done.returncode or commit is None:
            words = done.stderr.decode(errors="replace")
            said = words.strip().splitlines()[-1:] or [f"it ended with {done.returncode}"]
            raise HostError(f"{model.model} could not be fetched here: {clean(said[0], 500)}")
        _readable(self.place / "hub")
        return commit[1]

    def _environment(self, model: HubModel) -> dict[str, str]:
        # The token of whoever is logged in here is not the host's.
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        endpoint = self.settings.hub.endpoint or os.environ.get("HF_ENDPOINT") or ""
        kept |= {"HF_HOME": str(self.place / "hub"), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        kept |= {"HF_ENDPOINT": endpoint} if endpoint else {}
        token = None if endpoint.startswith("http://") else hf_token(self.settings)
        kept |= {"HF_TOKEN": token.get_secret_value()} if token else {}
        return kept | dict(model.environment)

    def _answer(self, asked: Asked) -> Answer:
        """Run the container, and read no more of it than an answer can have."""
        name = container(asked.agent, asked.request.mark)
        with tempfile.TemporaryFile() as program, tempfile.TemporaryFile() as errors:
            program.write(script().encode())
            program.seek(0)
            started = subprocess.Popen(
                words(asked.agent, asked.request, self.has.program),
                stdin=program,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
            assert started.stdout is not None
            late = Timer(asked.request.seconds + 60, started.kill)
            late.start()
            try:
                said = started.stdout.read(MOST)
                started.stdout.close()
                code = started.wait()
                code = 124 if code < 0 else code
            finally:
                late.cancel()
                started.kill()
                started.wait()
                # Its client's end is not its own.
                _run(self.has.program, "rm", "--force", name)
            if not said:
                errors.seek(max(0, errors.seek(0, os.SEEK_END) - 600))
                said = errors.read()
        return read(said, asked.request.mark, code)


def _readable(folder: Path) -> None:
    """For a container's user, who is nobody here."""
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() else 0o644)
