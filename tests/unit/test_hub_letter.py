"""Which models a host fetches from the hub, and by which script, to the letter."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.unit.fakes import docker
from vllm_hosts.facts.hub import HubModels, asked_of
from vllm_hosts.host import fetching
from vllm_hosts.host.paths import MODEL_NOTES
from vllm_hosts.hub.hub_models import Download, Fetched, HubModel, MirrorWay
from vllm_hosts.operations import hub
from vllm_hosts.operations.hub import fetch_script

MODEL = HubModel("org/model")
DOWNLOAD = Download("vllm:v1", "7:8", "/var/lib/vllm", None, None, 4)
WAY = MirrorWay("mirror", "192.0.2.9:8444", ("/ca", "/certificate", "/key"))


class TestOperation:
    @pytest.fixture(autouse=True)
    def ready(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[Any] = []
        self.told: list[tuple[str, str]] = []
        self.found: dict[str, Fetched] = {}
        self.scripts: list[Any] = []

        def look(fact: type, **given: Any) -> dict[str, Fetched]:
            assert fact is HubModels
            self.asked.append(given)
            return self.found

        def watched(label: str, script: str, **how: Any) -> str:
            self.scripts.append((label, script, how))
            return label

        monkeypatch.setattr(hub, "look", look)
        monkeypatch.setattr(hub, "differs", lambda *about: self.told.append(about))
        monkeypatch.setattr(hub, "watched", watched)

    def commands(self, *models: HubModel, download: Download = DOWNLOAD) -> list[object]:
        return list(hub.models_fetched._inner.__wrapped__(models, download))  # type: ignore[attr-defined]

    def test_nobody_is_asked_about_nothing(self) -> None:
        assert (self.commands(), self.asked) == ([], [])

    def test_a_model_that_is_complete_is_left_alone(self) -> None:
        commit = "c" * 40
        self.found = {MODEL.key: Fetched(commit, commit, {"a": 1}, {"a": 1})}
        assert (self.commands(MODEL), self.told) == ([], [])
        assert self.asked == [{"models": asked_of([MODEL], "/var/lib/vllm"), "reader": "7:8"}]

    @pytest.mark.parametrize("commit", [None, "c" * 40])
    def test_one_that_nobody_noted_is_not_trusted(self, commit: str | None) -> None:
        self.found = {MODEL.key: Fetched(commit, "", {"a": 1}, {})}
        assert self.commands(MODEL) == ["fetching org/model"]
        assert self.told == [("model org/model", "is not in the cache at revision main")]
        script = fetch_script(MODEL, DOWNLOAD, distrust=commit is None)
        assert self.scripts == [
            ("fetching org/model", script, {"seconds": 5, "tail": 2, "notes": False})
        ]
        assert script != fetch_script(MODEL, DOWNLOAD, distrust=commit is not None)

    def test_what_a_mirror_did_not_give_is_told_to_who_deploys(self) -> None:
        self.found = {MODEL.key: Fetched(None, "", {}, {})}
        self.commands(MODEL, download=replace(DOWNLOAD, mirror=WAY))
        assert self.scripts[0][2]["notes"] is True


class TestScript:
    """Run by this machine's shell, with a Docker that notes what it is told."""

    @pytest.fixture(autouse=True)
    def ready(self, tmp_path: Path) -> None:
        self.folder = tmp_path
        self.notes = tmp_path / "notes"

    def run(
        self,
        answers: str,
        *,
        distrust: bool = False,
        network: str = ":",
        download: Download = DOWNLOAD,
    ) -> subprocess.CompletedProcess[str]:
        script = fetch_script(MODEL, download, distrust=distrust)
        script = script.replace(MODEL_NOTES, str(self.notes))
        environment = docker(
            self.folder,
            f"""[ "$1" != run ] || cat >{self.folder}/program
            printf '%s ' "$@" >>{self.folder}/asked; echo >>{self.folder}/asked
            case $1 in
            network) [ "$2" != inspect ] || exit 1; [ "$2" != create ] || {{ {network}; }} ;;
            rm) echo no such container >&2; exit 1 ;;
            run) {answers} ;;
            esac""",
        )
        return subprocess.run(
            ["sh", "-c", f"umask 077; {script}"],
            env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip

    @property
    def asked(self) -> list[str]:
        lines = (self.folder / "asked").read_text().splitlines()
        return [line.strip() for line in lines]

    def test_what_it_says_is_noted_once_it_is_whole(self) -> None:
        done = self.run("echo commit abc; echo file 1 a")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        [note] = self.notes.iterdir()
        assert note.name == MODEL.key
        assert note.read_text() == "commit abc\nfile 1 a\n"
        assert self.notes.stat().st_mode & 0o777 == 0o755
        left, seen, made, ran, gone = self.asked
        assert left == "rm --force vllm-hosts-fetch"
        assert seen == f"network inspect {fetching.NETWORK}"
        assert made.startswith("network create ") and made.endswith(fetching.NETWORK)
        assert " --name vllm-hosts-fetch " in ran
        assert " type=bind,source=/var/lib/vllm/huggingface,target=/cache/huggingface " in ran
        assert gone == f"network rm {fetching.NETWORK}"
        assert (self.folder / "program").read_text() == fetching.PROGRAM.read_text()
        assert "--distrust" not in ran

    def test_nothing_is_trusted_where_it_is_told_so(self) -> None:
        self.run("exit 0", distrust=True)
        assert " --distrust" in self.asked[3]

    @pytest.mark.parametrize(
        ("code", "said"),
        [
            (3, ""),
            (
                137,
                "the download of org/model ended with 137; what came so far is kept, run again\n",
            ),
        ],
    )
    def test_what_failed_is_not_noted(self, code: int, said: str) -> None:
        self.notes.mkdir()
        (self.notes / MODEL.key).write_text("before\n")
        done = self.run(f"echo commit abc; exit {code}")
        assert (done.returncode, done.stdout, done.stderr) == (1, said, "")
        assert [path.name for path in self.notes.iterdir()] == [MODEL.key]
        assert (self.notes / MODEL.key).read_text() == "before\n"
        assert self.asked[-1] == f"network rm {fetching.NETWORK}"

    def test_without_its_network_nothing_is_fetched(self) -> None:
        done = self.run("echo commit abc", network="echo no more subnets >&2; exit 1")
        assert (done.returncode, done.stderr) == (1, "no more subnets\n")
        assert not [words for words in self.asked if words.startswith("run ")]
        assert not self.notes.exists()

    def test_secrets_come_with_the_environment_and_in_no_argument(self) -> None:
        token, ca, certificate, key = (
            self.folder / name for name in ("token", "ca", "certificate", "key")
        )
        token.write_text("# a comment\nHF_TOKEN=hf_secret\n")
        for file in (ca, certificate, key):
            file.write_text(f"{file.name.upper()} OF IT\n")
        way = replace(WAY, files=(str(ca), str(certificate), str(key)))
        download = replace(DOWNLOAD, token_file=str(token), mirror=way)
        seen = self.folder / "seen"
        done = self.run(f"env >{seen}", download=download)
        assert (done.returncode, done.stderr) == (0, "")
        environment = seen.read_text().splitlines()
        assert "HF_TOKEN=hf_secret" in environment
        assert "VLLM_HOSTS_MIRROR_CA=CA OF IT" in environment
        at = environment.index("VLLM_HOSTS_MIRROR_PEM=CERTIFICATE OF IT")
        assert environment[at + 1] == "KEY OF IT"
        assert not [words for words in self.asked if "secret" in words or "OF IT" in words]

    def test_a_token_that_cannot_be_read_ends_it(self) -> None:
        done = self.run("exit 0", download=replace(DOWNLOAD, token_file="/none"))
        assert done.returncode != 0
        assert not [words for words in self.asked if words.startswith("run ")]
        assert self.asked[-1] == f"network rm {fetching.NETWORK}"
