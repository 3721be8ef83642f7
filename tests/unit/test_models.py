"""Which models a host needs, whether it has them, and the command that fetches one."""

from __future__ import annotations

import hashlib
import subprocess
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.unit.projects import ROOT
from tests.unit.samples import CODER, QWEN, settings
from vllm_hosts.facts import hub as facts
from vllm_hosts.facts.hub import HubModels, asked_of
from vllm_hosts.host.models import copies, download, hub_models
from vllm_hosts.hub.hub_models import Copy, Download, Fetched, HubModel, one_word
from vllm_hosts.operations import hub as operation
from vllm_hosts.operations.hub import fetch_script
from vllm_hosts.roles.vllm.plan import peers

TOKEN = "hf_secret_of_the_test"


class TestWhatIsNeeded:
    def test_agents_with_the_same_model_need_it_once(self) -> None:
        twin = QWEN | {"name": "twin", "port": 8002, "gpus": [1]}
        other = twin | {"name": "other", "port": 8003, "gpus": [2], "revision": "v2"}
        found = hub_models(
            settings(agents=[QWEN, twin, other, CODER | {"port": 8004, "gpus": [3, 4]}])
        )
        assert [(model.model, model.revision) for model in found] == [
            ("Qwen/Qwen3-8B", "main"),
            ("Qwen/Qwen3-8B", "v2"),
        ]
        assert len({model.key for model in found}) == 2

    def test_further_models_are_fetched_also_beside_a_folder(self) -> None:
        agents = [CODER | {"extra_models": ["org/draft"], "allow_pickle": True}]
        assert hub_models(settings(agents=agents)) == [HubModel("org/draft", allow_pickle=True)]

    def test_the_way_to_the_hub_is_the_agent_s_and_no_other_variable(self) -> None:
        env = {"https_proxy": "http://p:3128", "NO_PROXY": "lab", "OMP_NUM_THREADS": "1"}
        [model] = hub_models(settings(agents=[QWEN | {"env": env}]))
        assert dict(model.environment) == {"https_proxy": "http://p:3128", "NO_PROXY": "lab"}
        assert model.key == hub_models(settings(agents=[QWEN]))[0].key

    def test_folders_are_copied_once(self) -> None:
        one = CODER | {"copy_from": "/data/coder"}
        two = one | {"name": "two", "port": 8003, "gpus": [3]}
        found = copies(settings(agents=[one, two]))
        assert [(copy.source, copy.target) for copy in found] == [
            ("/data/coder", "/srv/models/coder")
        ]
        assert copies(settings(agents=[CODER])) == []

    def test_another_revision_is_no_peer(self) -> None:
        twin = QWEN | {"name": "twin", "port": 8002, "gpus": [1], "served_model_name": "q"}
        same = [QWEN | {"served_model_name": "q"}, twin]
        assert peers(settings(agents=same)) == {"qwen": ["twin"], "twin": ["qwen"]}
        other = [same[0], twin | {"revision": "v2"}]
        assert peers(settings(agents=other, edge={"by_model": False})) == {"qwen": [], "twin": []}

    @pytest.mark.parametrize(
        "name", ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "HF_HUB_DOWNLOAD_TIMEOUT"]
    )
    def test_each_variable_of_that_way(self, name: str) -> None:
        agents = [QWEN | {"env": {name: "1", f"{name}_": "2"}}]
        [model] = hub_models(settings(agents=agents))
        assert model.environment == ((name, "1"),)

    def test_all_downloads_share_the_token_if_there_is_one(self) -> None:
        assert download(settings()).token_file is None
        host = settings(secrets={"hf_token_env": "HF_TOKEN"}, vllm={"directory": "/opt/v"})
        assert download(host).token_file == "/opt/v/.env"


class TestNames:
    def test_of_what_is_fetched(self) -> None:
        model = HubModel("org/a model")
        key = one_word("org/a model@main", repr(("org/a model", "main", False, ())))
        assert model.key == key and key.startswith("org--a--model@main-")
        assert model.folder("/var/lib/v") == "/var/lib/v/huggingface/hub/models--org--a model"
        others = [
            HubModel("org/b"),
            HubModel("org/a model", "v2"),
            HubModel("org/a model", allow_pickle=True),
            HubModel("org/a model", ignore_files=("*.bin",)),
        ]
        assert len({one.key for one in [model, *others]}) == 5

    def test_of_what_is_copied(self) -> None:
        copy = Copy("/data/a", "/srv/models/a", allow_pickle=False)
        assert copy.staging == "/srv/models/a.vllm-hosts-new"
        assert copy.key == one_word("/srv/models/a", "/srv/models/a")
        assert copy.key.startswith("srv--models--a-")

    def test_one_word_that_differs_whenever_it_does(self) -> None:
        digest = hashlib.sha256(b"what").hexdigest()[:10]
        assert one_word("-.org/a b@main.-", "what") == f"org--a--b@main-{digest}"
        assert one_word("/", "what") == f"-{digest}"


class TestComplete:
    files = {"a": 1, "b": 2}  # noqa: RUF012

    def fetched(self, **changes: Any) -> Fetched:
        given = {"commit": "c" * 40, "ref": "c" * 40, "files": self.files, "present": self.files}
        return Fetched(**(given | changes))

    def test_all_there(self) -> None:
        assert self.fetched().complete("main")

    def test_a_commit_needs_no_ref(self) -> None:
        assert self.fetched(ref="").complete("c" * 40)
        assert not self.fetched(ref="").complete("main")

    @pytest.mark.parametrize(
        "changes",
        [
            {"commit": None, "files": {}, "present": {}},
            {"files": {}, "present": {}},
            {"present": {"a": 1}},
            {"present": {"a": 1, "b": 1}},
            {"ref": "d" * 40},
        ],
    )
    def test_anything_else_is_fetched_again(self, changes: dict[str, Any]) -> None:
        assert not self.fetched(**changes).complete("main")


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for module in (facts, operation):
        monkeypatch.setattr(module, "MODEL_NOTES", str(tmp_path / "models"))
    return tmp_path / "models"


def on_this_machine(models: list[HubModel], cache: Path) -> dict[str, Fetched]:
    command = HubModels().command(asked_of(models, str(cache)), "0:0")
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True)
    return HubModels().process(done.stdout.splitlines())


def test_the_look_sees_what_is_missing(notes: Path, tmp_path: Path) -> None:
    model, none = HubModel("org/model"), HubModel("org/none", "v1")
    commit = "a" * 40
    repo = Path(model.folder(str(tmp_path)))
    snapshot = repo / "snapshots" / commit
    (snapshot / "sub").mkdir(parents=True)
    (repo / "blobs").mkdir()
    (repo / "blobs/x").write_text("12345")
    (snapshot / "with space.json").symlink_to("../../blobs/x")
    (snapshot / "sub/b.json").write_text("1")
    (repo / "refs").mkdir()
    (repo / "refs/main").write_text(commit)
    notes.mkdir()
    (notes / model.key).write_text(f"commit {commit}\nfile 5 with space.json\nfile 1 sub/b.json\n")
    found = on_this_machine([model, none], tmp_path)
    assert found[model.key].complete("main")
    assert found[none.key] == Fetched(None, "", {}, {})
    (repo / "blobs/x").write_text("1234")
    assert not on_this_machine([model], tmp_path)[model.key].complete("main")
    (repo / "blobs/x").unlink()
    assert on_this_machine([model], tmp_path)[model.key].present == {"sub/b.json": 1}
    (repo / "blobs/x").write_text("12345")
    (repo / "refs/main").write_text("b" * 40)
    assert not on_this_machine([model], tmp_path)[model.key].complete("main")


class Fake:
    """A `docker` that notes what it was told, and answers what the test wants."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "bin").mkdir()
        (folder / ".env").write_text(f"# for root\nVLLM_API_KEY_QWEN=k\nHF_TOKEN={TOKEN}\n")
        self.answer("commit abc", 0)

    def answer(self, text: str, code: int) -> None:
        docker = self.folder / "bin/docker"
        docker.write_text(
            f"""#!/bin/sh
            [ "$1" != network ] || {{ echo "$*" >>{self.folder}/networks; exit 0; }}
            [ "$1" = run ] || exit 1
            printf '%s\\n' "$@" >{self.folder}/argv
            env >{self.folder}/env
            cat >{self.folder}/stdin
            echo '{text}'; exit {code}
            """
        )
        docker.chmod(0o755)

    def run(
        self, model: HubModel, *, distrust: bool = False, **changes: Any
    ) -> subprocess.CompletedProcess[str]:
        given: dict[str, Any] = {
            "image": "vllm:v1",
            "user": "64102:64101",
            "cache_directory": "/var/lib/vllm",
            "token_file": str(self.folder / ".env"),
            "endpoint": None,
            "connections": 4,
        }
        return subprocess.run(
            ["sh", "-c", fetch_script(model, Download(**(given | changes)), distrust=distrust)],
            env={"PATH": f"{self.folder}/bin:/usr/bin:/bin"},
            capture_output=True,
            text=True,
            check=False,
            timeout=20,
        )

    def argv(self) -> list[str]:
        return (self.folder / "argv").read_text().splitlines()


@pytest.fixture
def fake(tmp_path: Path, notes: Path) -> Fake:
    return Fake(tmp_path)


def test_the_token_is_in_the_environment_and_in_no_argument(fake: Fake) -> None:
    done = fake.run(HubModel("org/model"))
    assert (done.returncode, done.stderr) == (0, "")
    assert f"HF_TOKEN={TOKEN}" in (fake.folder / "env").read_text().splitlines()
    assert TOKEN not in " ".join(fake.argv())
    assert TOKEN not in (fake.folder / "stdin").read_text()
    at = fake.argv().index("HF_TOKEN")
    assert fake.argv()[at - 1] == "--env"
    fake.run(HubModel("org/model"), token_file=None)
    assert "HF_TOKEN" not in (fake.folder / "env").read_text()
    assert "HF_TOKEN" not in fake.argv()


def test_the_container_has_no_privileges_and_no_gpu(fake: Fake) -> None:
    fake.run(HubModel("org/model"))
    argv = fake.argv()
    for option, value in (
        ("--user", "64102:64101"),
        ("--cap-drop", "ALL"),
        ("--security-opt", "no-new-privileges:true"),
        ("--env", "NVIDIA_VISIBLE_DEVICES=void"),
        ("--pull", "never"),
        ("--network", "vllm-fetch"),
    ):
        assert (option, value) in pairwise(argv), option
    assert "--read-only" in argv and "--privileged" not in argv and "--gpus" not in argv
    mounts = [argv[at + 1] for at, word in enumerate(argv) if word == "--mount"]
    assert mounts[0] == "type=bind,source=/var/lib/vllm/huggingface,target=/cache/huggingface"
    assert len(mounts) > 1 and all(mount.endswith("readonly") for mount in mounts[1:])
    assert "host" not in argv, "the fetching container shares something with the host"


def test_the_program_gets_what_the_settings_say(fake: Fake) -> None:
    given = settings(
        agents=[
            QWEN
            | {"revision": "refs/pr/1", "allow_pickle": True, "ignore_files": ["consolidated*"]}
        ],
        hub={"endpoint": "https://mirror.example/hf", "connections": 9},
    )
    [model] = hub_models(given)
    fake.run(
        model,
        distrust=True,
        endpoint=download(given).endpoint,
        connections=download(given).connections,
    )
    argv = fake.argv()
    assert "HF_ENDPOINT=https://mirror.example/hf" in argv
    assert argv[argv.index("vllm:v1") + 1 :] == [
        *["-", "Qwen/Qwen3-8B", "--revision", "refs/pr/1", "--workers", "9"],
        *["--cache", "/var/lib/vllm", "--allow-pickle", "--distrust"],
        "--ignore=consolidated*",
    ]
    program = (fake.folder / "stdin").read_text()
    assert program == (ROOT / "vllm_hosts/hub/fetch.py").read_text()


def test_a_model_is_noted_as_whole_only_after_success(fake: Fake, notes: Path) -> None:
    model = HubModel("org/model")
    fake.answer("half", 3)
    done = fake.run(model)
    assert (done.returncode, done.stdout) == (1, "")
    assert list(notes.iterdir()) == []
    fake.answer("half", 137)
    done = fake.run(model)
    assert done.stdout == (
        "the download of org/model ended with 137; what came so far is kept, run again\n"
    )
    assert list(notes.iterdir()) == []
    fake.answer("commit abc", 0)
    assert fake.run(model).returncode == 0
    assert (notes / model.key).read_text() == "commit abc\n"
    fake.answer("", 3)
    assert fake.run(model).returncode == 1
    assert (notes / model.key).read_text() == "commit abc\n", "a whole model was forgotten"
