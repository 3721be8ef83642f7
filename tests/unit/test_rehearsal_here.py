"""`vllm-hosts plan --image`: an image's vLLM on this machine, through a stand-in for its engine
that answers what vLLM answered."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab.hub import Hub, Repo, RepoFile, Server
from tests.unit.model_files import safetensors
from tests.unit.projects import AGENT, SMI, Project
from tests.unit.test_plan_cli import PROD, SMALL, copy, plan, planned
from tests.unit.test_rehearsal import RECORDED, agent, option, recorded
from vllm_hosts.capacity import AgentPlan, PlannedGpu, Verdict
from vllm_hosts.errors import SettingsError
from vllm_hosts.rehearsal import here as on_this_machine
from vllm_hosts.rehearsal.asking import Said
from vllm_hosts.rehearsal.here import engine
from vllm_hosts.rehearsal.planned import instead

IMAGE = "vllm/vllm-openai-cpu:v0.32.0"
SMALL_FILES = ["config.json", "model.safetensors.index.json"]
CARD = ("--no-connect", "--gpu-memory", "40")
#: Calls and their words stand in the log with characters between them that none has.
ENGINE = """#!/bin/sh
{ printf '%s\\037' "$@"; printf '\\036'; } >>"$LOG"
case "$1 $2" in
    image\\ *) [ -z "$SAYS" ] || { echo "$SAYS" >&2; exit 1; }; echo "$ID"; exit ;;
    info*) echo "$RUNTIMES"; exit ${DOWN:-0} ;;
    run\\ *) ;;
    *) exit ;;
esac
cat >"$LOG.script"
for word; do
    case $word in type=bind,*) ls "$(echo "$word" | sed 's/.*source=\\([^,]*\\),.*/\\1/')" ;; esac
done >"$LOG.files"
while [ "$1" != rehearsal ]; do shift; done
mark=$(printf %s "$2" | sed 's/.*"mark": "\\([^"]*\\)".*/\\1/')
echo noise; printf %s "$mark"; cat "$ANSWER"; printf %s "$mark"
"""


class Here:
    """A project, and an engine that is there under a name."""

    def __init__(self, project: Project) -> None:
        self.project, self.bin = project, project.folder / "bin"
        self.bin.mkdir()
        self.log = project.folder / "log"
        self.log.touch()
        project.environment |= {
            "PATH": f"{self.bin}:/usr/bin:/bin",
            "LOG": str(self.log),
            "ID": f"sha256:{'a' * 64}",
            "SAYS": "",
            "RUNTIMES": "io.containerd.runc.v2 runc",
        }
        self.answers("fits")

    def engine(self, name: str = "docker") -> None:
        (self.bin / name).write_text(ENGINE)
        (self.bin / name).chmod(0o755)

    def answers(self, name: str) -> None:
        self.project.environment["ANSWER"] = str(RECORDED / f"{name}.json")

    @property
    def runs(self) -> list[list[str]]:
        """The words of containers that were run."""
        calls = [call.split("\037") for call in self.log.read_text().split("\036")]
        return [words for words in calls if words[0] == "run"]


@pytest.fixture
def here(tmp_path: Path) -> Here:
    (tmp_path / "project").mkdir()
    project = Project(tmp_path / "project")
    project.environment = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "HF_HOME": str(tmp_path)}
    return Here(project)


def refused(here: Here, *words: str) -> str:
    said = plan(here.project, *CARD, "--image", IMAGE, *words, code=1)
    return " ".join(said.split())


def test_without_an_engine_here_the_way_out_is_said(here: Here) -> None:
    said = refused(here)
    assert "there is neither docker nor podman; install one, or leave --image out" in said


def test_an_engine_that_is_slow_may_have_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(words: list[str], **_: object) -> None:
        raise subprocess.TimeoutExpired(words, 30)

    monkeypatch.setattr(shutil, "which", lambda name: name if name == "docker" else None)
    monkeypatch.setattr(subprocess, "run", slow)
    with pytest.raises(SettingsError, match="docker does not answer here: nothing within 30 sec"):
        engine(IMAGE)


def test_an_engine_that_does_not_answer_is_quoted(here: Here) -> None:
    here.engine()
    here.project.environment |= {
        "SAYS": "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker"
        " daemon running?",
        "DOWN": "1",
    }
    said = refused(here)
    assert "docker does not answer here: Cannot connect to the Docker daemon" in said
    assert "start it, or leave --image out" in said


@pytest.mark.parametrize("name", ["docker", "podman"])
def test_an_image_that_is_not_here_is_fetched_by_the_user(here: Here, name: str) -> None:
    here.engine(name)
    here.project.environment["SAYS"] = "Error response from daemon: No such image"
    assert f"{IMAGE} is not on this machine; fetch it first: {name} pull {IMAGE}" in refused(here)


def test_asking_and_not_asking_is_misuse(here: Here) -> None:
    said = plan(here.project, *CARD, "--image", IMAGE, "--no-rehearse", code=2)
    assert "leave one of them out" in said


@pytest.mark.parametrize("image", ["", "-x", "--help", "a b", "x;id"])
def test_what_is_no_image_is_misuse(here: Here, image: str) -> None:
    """An empty variable would ask nobody, and an engine would take it for an option of its own."""
    here.engine()
    said = plan(here.project, *CARD, f"--image={image}", code=2)
    assert f"{image!r} does not name an image; write one such as" in said
    assert not here.log.read_text()


def test_a_folder_that_leads_elsewhere_is_named_as_it_was_given(here: Here) -> None:
    here.engine()
    folder = copy(here.project, SMALL)
    Path(folder, "vocab.json").symlink_to("/etc/hostname")
    [found] = planned(here.project, *CARD, "--image", IMAGE, "--model-dir", f"one={folder}")
    said = found["source"]
    assert f"--model-dir one={folder} has the link vocab.json -> /etc/hostname" in said
    assert "copy_from" not in said and not here.runs


@pytest.mark.parametrize("name", ["docker", "podman"])
def test_figures_say_that_they_were_asked_for_here(here: Here, name: str) -> None:
    here.engine(name)
    # Podman names images without the kind of digest.
    here.project.environment["ID"] = ("sha256:" * (name == "docker")) + "a" * 64
    words = [*CARD, "--image", IMAGE, "--model-dir", f"one={copy(here.project, SMALL)}"]
    [found] = planned(here.project, *words)
    assert found["source"] == f"vLLM 0.32.0 in {IMAGE}, asked here without such a GPU"
    assert found["weights"] == recorded("fits").weights
    # Kernels of a card keep weights in another shape.
    assert found["weights_exact"] is False
    [again] = planned(here.project, *words)
    assert again["source"].endswith("without such a GPU, which said so earlier")
    [run] = here.runs
    assert run[:4] == ["run", "--rm", "--interactive", "--pull"] and IMAGE in run
    assert option(run, "--network") == ["none"] and "--gpus" not in run
    assert run[run.index("rehearsal") + 2] == "/copy"
    assert Path(f"{here.log}.files").read_text().split() == SMALL_FILES
    assert "def rehearse(" in Path(f"{here.log}.script").read_text()


def test_other_arguments_images_and_models_are_asked_about_anew(here: Here) -> None:
    here.engine()
    folder = copy(here.project, SMALL)
    words = [*CARD, "--image", IMAGE, "--model-dir", f"one={folder}"]
    planned(here.project, *words)
    here.project.group(agents=[dict(AGENT, max_model_len=4096)])
    planned(here.project, *words)
    here.project.environment["ID"] = f"sha256:{'b' * 64}"
    planned(here.project, *words)
    Path(folder, "generation_config.json").write_text("{}")
    planned(here.project, *words)
    assert len(here.runs) == 4


def test_copy_from_is_the_model_of_a_folder_that_no_host_has_yet(here: Here) -> None:
    here.engine()
    source = copy(here.project, SMALL)
    Path(source, "model.safetensors").write_bytes(safetensors())
    here.project.group(agents=[dict(AGENT, model="/srv/one", copy_from=source)])
    [found] = planned(here.project, *CARD, "--image", IMAGE)
    assert found["source"].startswith("vLLM 0.32.0 in")
    [run] = here.runs
    assert run[run.index("rehearsal") + 2] == "/srv/one"
    assert any(",target=/srv/one,readonly" in word for word in run)
    # What is not weights.
    assert Path(f"{here.log}.files").read_text().split() == SMALL_FILES


def test_a_folder_of_the_host_s_needs_a_copy(here: Here) -> None:
    here.engine()
    here.project.group(agents=[dict(AGENT, model="/srv/one")])
    said = refused(here)
    assert "name a copy of it: --model-dir one=FOLDER" in said and not here.runs


def test_what_another_platform_refuses_is_only_doubted(here: Here) -> None:
    here.engine()
    words = [*CARD, "--image", IMAGE, "--model-dir", f"one={copy(here.project, SMALL)}"]
    here.answers("online_mxfp8")
    [found] = planned(here.project, *words, code=3)
    assert found["verdict"] == "probably not" and "Failed to find a kernel" in found["warnings"][0]
    here.project.group(agents=[dict(AGENT, extra_args=["--no-such"])])
    here.answers("unknown_argument")
    [found] = planned(here.project, *words, code=3)
    assert found["verdict"] == "does not fit" and "unrecognized" in found["problems"][0]


@pytest.mark.parametrize("runtimes", ["nvidia runc", "runc"])
def test_containers_here_get_this_machine_s_cards(here: Here, runtimes: str) -> None:
    """The host is this machine, so that its card is one of the agent's kind."""
    here.engine()
    here.project.environment["RUNTIMES"] = runtimes
    here.project.write(PROD, 'gpu_hosts = [("@local", {"ssh_hostname": "192.0.2.1"})]\n')
    (here.bin / "nvidia-smi").write_text(f"#!/bin/sh\necho '{SMI}'\n")
    (here.bin / "nvidia-smi").chmod(0o755)
    folder = copy(here.project, SMALL)
    [found] = planned(here.project, "--image", IMAGE, "--model-dir", f"one={folder}")
    alike = "nvidia" in runtimes
    assert found["weights_exact"] is alike
    assert found["source"].endswith("asked here" if alike else "without such a GPU")
    [run] = here.runs
    assert option(run, "--gpus") == (['"device=0"'] if alike else [])


def test_a_card_here_like_the_host_s_is_as_good(here: Here) -> None:
    card = PlannedGpu(0, "NVIDIA A100-SXM4-40GB", 40 << 30)
    formulas = AgentPlan("qwen", "Qwen/Qwen3-8B", (0,), Verdict.FITS)
    alike = instead(agent(), Said(recorded("fits"), image=IMAGE), formulas, [card])
    assert alike.source == f"vLLM 0.32.0 in {IMAGE}, asked here"
    assert alike.needs is not None and alike.needs.weights.exact


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[str]:
    files: dict[str, Any] = {
        "config.json": RepoFile(b"{}"),
        "tokenizer.json": RepoFile(b"{}"),
        "model.safetensors": RepoFile(b"weights", weights=True),
    }
    server = Server(Hub({"org/model": Repo(files)}, tmp_path / "tokens"), "127.0.0.1", 0)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_small_files_of_the_hub_s_are_fetched_here(here: Here, hub: str) -> None:
    here.engine()
    here.project.group(hub={"endpoint": hub})
    [found] = planned(here.project, *CARD, "--image", IMAGE)
    assert found["source"].startswith("vLLM 0.32.0 in")
    [run] = here.runs
    assert run[run.index("rehearsal") + 2] == "org/model"
    assert "HF_HUB_CACHE=/models/hub" in option(run, "--env")
    assert any(",target=/models,readonly" in word for word in run)
    assert "hub" in Path(f"{here.log}.files").read_text().split()
    [again] = planned(here.project, *CARD, "--image", IMAGE)
    assert again["source"].endswith("which said so earlier") and len(here.runs) == 1
    # A branch may mean another commit by now, which only the hub knows.
    [offline] = planned(here.project, *CARD, "--image", IMAGE, "--offline", code=1)
    assert "the hub was not queried for org/model (--offline)" in offline["source"]


def test_a_commit_that_was_asked_about_needs_no_hub(here: Here, hub: str) -> None:
    here.engine()
    files = {"config.json": RepoFile(b"{}"), "tokenizer.json": RepoFile(b"{}")}
    files["model.safetensors"] = RepoFile(b"weights", weights=True)
    agents = [dict(AGENT, revision=Repo(files).commit)]
    here.project.group(agents=agents, hub={"endpoint": hub})
    planned(here.project, *CARD, "--image", IMAGE)
    [found] = planned(here.project, *CARD, "--image", IMAGE, "--offline")
    assert found["source"].endswith("which said so earlier")


def test_a_hub_that_has_no_such_model_is_said(here: Here, hub: str) -> None:
    here.engine()
    here.project.group(agents=[dict(AGENT, model="org/none")], hub={"endpoint": hub})
    said = refused(here)
    assert "org/none could not be fetched here: org/none is not on" in said and not here.runs


def test_json_of_several_agents(here: Here) -> None:
    """One that cannot be asked about keeps nobody else from it."""
    here.engine()
    two = dict(AGENT, name="two", port=8002, gpus=[1], model="/srv/two")
    here.project.group(agents=[AGENT, two])
    words = ["--image", IMAGE, "--model-dir", f"one={copy(here.project, SMALL)}"]
    said = plan(here.project, "--json", *CARD, *words, code=1)
    [host] = json.loads(said[said.index("[\n") :])
    first, second = host["agents"]
    assert first["source"].startswith("vLLM") and second["source"].startswith("formulas: vLLM did")
    assert len(here.runs) == 1


def test_a_host_gets_small_files_of_a_folder_that_it_lacks_yet(here: Here) -> None:
    """This machine as the host, through pyinfra's own connector: the files come over its standard
    input, and go with the rehearsal."""
    here.engine()
    here.project.write(PROD, 'gpu_hosts = [("@local", {"ssh_hostname": "192.0.2.1"})]\n')
    source = Path(copy(here.project, SMALL))
    (source / "tokenizer.json").write_text("x" * 200_000)
    (source / "model.safetensors").write_bytes(safetensors())
    here.project.group(agents=[dict(AGENT, model="/srv/no-such", copy_from=str(source))])
    (here.bin / "nvidia-smi").write_text(f"#!/bin/sh\necho '{SMI}'\n")
    (here.bin / "nvidia-smi").chmod(0o755)
    [found] = planned(here.project)
    assert found["source"] == "vLLM 0.32.0" and found["weights_exact"]
    [run] = here.runs
    end = "/copies/0,target=/srv/no-such,readonly"
    [copies] = [word.removesuffix(end) for word in run if word.endswith(end)]
    listed = Path(f"{here.log}.files").read_text().split()
    assert listed == [*SMALL_FILES, "tokenizer.json"]
    there = Path(copies.partition("source=")[2])
    assert there.name.startswith("vllm-hosts-rehearsal.") and not there.exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_told_to_end_it_leaves_nothing(number: signal.Signals) -> None:
    before = signal.signal(number, signal.SIG_DFL)
    try:
        with pytest.raises(SystemExit) as ended, on_this_machine._told_to_end():
            signal.raise_signal(number)
        assert ended.value.code == 128 + number
        assert signal.getsignal(number) is signal.SIG_DFL
        # What nohup, or who calls this, has made of it stays.
        signal.signal(number, signal.SIG_IGN)
        with on_this_machine._told_to_end():
            signal.raise_signal(number)
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)
