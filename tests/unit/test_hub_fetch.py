"""The program that fetches models, run as in its container, with the real client, from the lab's
hub on 127.0.0.1."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.hub import Hub, Repo, RepoFile, Server
from tests.unit import hub_program
from tests.unit.hub_program import PROGRAM
from vllm_hosts.hub.fetch import REFUSED, Cache, FetchRefusedError, Remote, chosen, sentence

WEIGHTS = b"weights " * 40_000
FILES = {
    "config.json": RepoFile(b"{}"),
    "tokenizer.json": RepoFile(b'{"a": 1}'),
    "model.safetensors": RepoFile(WEIGHTS, weights=True),
    "pytorch_model.bin": RepoFile(b"pickle", weights=True),
    "original/consolidated.safetensors": RepoFile(b"again", weights=True),
    ".gitattributes": RepoFile(b"x"),
    "README.md": RepoFile(b"x"),
}
FILES_COMMIT = Repo(FILES).commit


class Local:
    """A hub of this process, and a cache to fill from it."""

    def __init__(self, folder: Path) -> None:
        self.tokens = folder / "tokens"
        self.cache = folder / "hf"
        slow = {**FILES, "model.safetensors": RepoFile(WEIGHTS * 80, weights=True)}
        pickled = {"config.json": FILES["config.json"], "model.bin": RepoFile(b"p", weights=True)}
        self.hub = Hub(
            {
                "org/model": Repo(FILES),
                "org/gated": Repo(FILES, gated=True),
                "org/slow": Repo(slow, rate=12_000_000),
                "org/pickled": Repo(pickled),
            },
            self.tokens,
        )
        self.server = Server(self.hub, "127.0.0.1", 0)
        port = self.server.server_address[1]
        self.endpoint, self.hub.cdn = f"http://127.0.0.1:{port}", f"http://localhost:{port}"
        # How long it takes to end, at most.
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def environment(self, token: str | None) -> dict[str, str]:
        environment = {"PATH": os.environ["PATH"], "HF_HOME": str(self.cache), "HOME": "/nowhere"}
        environment |= {"HF_ENDPOINT": self.endpoint, "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        if token:
            environment["HF_TOKEN"] = token
        return environment

    def start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            # Its text comes by standard input, as in the container.
            [sys.executable, "-", *words],
            stdin=PROGRAM.open(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment(None),
        )

    def run(self, *words: str, token: str | None = None) -> tuple[int, str, str]:
        done = hub_program.run(*words, environment=self.environment(token))
        return done.returncode, done.stdout, done.stderr

    def refused(self, *words: str, token: str | None = None) -> str:
        """The one sentence; nothing was put into the cache's snapshots."""
        code, out, err = self.run(*words, token=token)
        assert (code, out) == (REFUSED, ""), err
        *_, said = err.strip().splitlines()
        assert "Traceback" not in err
        assert not list(self.cache.rglob("snapshots/*/*.safetensors"))
        return said

    def of(self, file: str) -> list[tuple[str, str, str, int]]:
        """Requests for a file's content."""
        return [item for item in self.hub.asked if item[0] == "GET" and file in item[1]]


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Local]:
    local = Local(tmp_path)
    yield local
    local.server.shutdown()
    local.server.server_close()


def test_what_agents_need_is_laid_out_as_huggingface_hub_does(local: Local) -> None:
    process = local.start("org/model")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    commit, *files = out.splitlines()
    assert commit == f"commit {local.hub.repos['org/model'].commit}"
    assert sorted(files) == [
        "file 2 config.json",
        f"file {len(WEIGHTS)} model.safetensors",
        "file 8 tokenizer.json",
    ]
    model = local.cache / "hub/models--org--model"
    snapshot = model / "snapshots" / commit.split()[1]
    assert (snapshot / "model.safetensors").read_bytes() == WEIGHTS
    assert (model / "refs/main").read_text() == commit.split()[1]
    assert "0.00 GB of 0.00 GB" in err


@pytest.mark.parametrize("revision", ["main", "v1", FILES_COMMIT])
def test_vllm_finds_the_model_without_the_hub(local: Local, revision: str) -> None:
    """As vLLM looks it up with HF_HUB_OFFLINE=1 (vllm/transformers_utils/repo_utils.py), and as
    it looks for the weights of further models."""
    assert local.run("org/model", "--revision", revision)[0] == 0
    look_up = (
        "from huggingface_hub import snapshot_download as s;"
        f" a = s('org/model', revision={revision!r}, ignore_patterns='*', local_files_only=True);"
        f" b = s('org/model', revision={revision!r}, allow_patterns='*.safetensors',"
        " local_files_only=True); assert a == b; print(a)"
    )
    offline = {"HF_HOME": str(local.cache), "HF_HUB_OFFLINE": "1", "PATH": os.environ["PATH"]}
    done = hub_program.run(environment=offline, text=look_up)
    assert done.returncode == 0, done.stderr
    folder = local.cache / "hub/models--org--model/snapshots" / FILES_COMMIT
    assert Path(done.stdout.strip()) == folder
    assert (folder / "config.json").is_file()


def test_a_rehearsal_needs_no_weights(local: Local) -> None:
    code, out, err = local.run("org/model", "--small")
    assert code == 0, err
    assert sorted(out.splitlines()) == [
        f"commit {FILES_COMMIT}",
        "file 2 config.json",
        "file 8 tokenizer.json",
    ]
    snapshot = local.cache / "hub/models--org--model/snapshots" / FILES_COMMIT
    assert sorted(path.name for path in snapshot.iterdir()) == ["config.json", "tokenizer.json"]
    assert (local.cache / "hub/models--org--model/refs/main").read_text() == FILES_COMMIT
    assert local.of("safetensors") == [] and local.of(".bin") == []


def test_pickle_is_never_fetched_beside_safetensors(local: Local) -> None:
    assert local.run("org/model", "--allow-pickle")[0] == 0
    assert local.of("pytorch_model.bin") == []
    assert not list(local.cache.rglob("*.bin"))


def test_a_second_time_only_asks_what_there_is(local: Local) -> None:
    assert local.run("org/model")[0] == 0
    content = local.of("/cdn/")
    assert len(content) == 1
    assert local.run("org/model")[0] == 0
    assert local.of("/cdn/") == content


def test_a_killed_download_goes_on_where_it_stopped(local: Local) -> None:
    process = local.start("org/slow")
    weights = local.hub.repos["org/slow"].files["model.safetensors"]
    partial = local.cache / "hub/models--org--slow/blobs" / f"{weights.sha256}.partial"
    deadline = time.monotonic() + 30
    # The client writes in pieces of 10 MB.
    while not (partial.exists() and partial.stat().st_size >= 10_000_000):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    have = partial.stat().st_size
    assert 0 < have < len(weights.content)
    code, _, err = local.run("org/slow")
    assert code == 0, err
    assert local.of("/cdn/")[-1][2:] == (f"bytes={have}-", 206)
    [found] = local.cache.rglob("snapshots/*/model.safetensors")
    assert found.read_bytes() == weights.content


def test_a_damaged_part_is_thrown_away_not_served(local: Local) -> None:
    weights = FILES["model.safetensors"]
    blobs = local.cache / "hub/models--org--model/blobs"
    blobs.mkdir(parents=True)
    (blobs / f"{weights.sha256}.partial").write_bytes(b"damaged")
    assert "arrived damaged" in local.refused("org/model")
    assert list(blobs.glob("*.partial")) == []
    assert local.run("org/model")[0] == 0


class TestDistrust:
    """An agent could write what is in the cache: nothing of it is believed."""

    @pytest.fixture
    def model(self, local: Local) -> Path:
        assert local.run("org/model")[0] == 0
        return local.cache / "hub/models--org--model"

    def honest(self, local: Local) -> None:
        code, _, err = local.run("org/model", "--distrust")
        assert code == 0, err
        snapshot = local.cache / "hub/models--org--model/snapshots" / FILES_COMMIT
        assert sorted(path.name for path in snapshot.iterdir()) == [
            "config.json",
            "model.safetensors",
            "tokenizer.json",
        ]
        for name in ("config.json", "model.safetensors", "tokenizer.json"):
            assert (snapshot / name).read_bytes() == FILES[name].content, name

    def test_what_is_right_is_not_fetched_again(self, local: Local, model: Path) -> None:
        before = local.of("/cdn/")
        self.honest(local)
        assert local.of("/cdn/") == before

    def test_weights_of_the_right_size_and_another_content(self, local: Local, model: Path) -> None:
        blob = model / "blobs" / str(FILES["model.safetensors"].sha256)
        blob.write_bytes(b"x" * len(WEIGHTS))
        # Without it, the size is enough.
        assert local.run("org/model")[0] == 0
        assert blob.read_bytes() != WEIGHTS
        self.honest(local)

    def test_who_holds_the_old_files_open_changes_nothing(self, local: Local, model: Path) -> None:
        weights = model / "blobs" / str(FILES["model.safetensors"].sha256)
        [small] = model.glob("snapshots/*/config.json")
        with weights.open("r+b") as held, small.open("r+b") as held_too:
            self.honest(local)
            held.write(b"evil")
            held_too.write(b"evil")
        assert weights.read_bytes() == WEIGHTS
        assert small.read_bytes() == FILES["config.json"].content

    def test_a_small_file_under_its_right_name(self, local: Local, model: Path) -> None:
        [small] = model.glob("snapshots/*/config.json")
        small.resolve().write_bytes(b'{"evil": 1}')
        self.honest(local)

    def test_files_that_the_hub_does_not_have(self, local: Local, model: Path) -> None:
        (model / "snapshots" / FILES_COMMIT / "modeling_evil.py").write_text("evil")
        self.honest(local)

    @pytest.mark.parametrize("name", ["blobs", "snapshots", "refs"])
    def test_folders_that_lead_elsewhere(
        self, local: Local, model: Path, tmp_path: Path, name: str
    ) -> None:
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        (model / name).rename(tmp_path / "away")
        (model / name).symlink_to(elsewhere)
        self.honest(local)
        assert list(elsewhere.iterdir()) == []

    def test_links_and_fifos_in_the_place_of_weights(self, local: Local, model: Path) -> None:
        blob = model / "blobs" / str(FILES["model.safetensors"].sha256)
        blob.unlink()
        blob.symlink_to("/etc/passwd")
        os.mkfifo(f"{blob}.partial")
        self.honest(local)


class TestRefusals:
    def test_a_model_that_is_not_there(self, local: Local) -> None:
        said = local.refused("org/none")
        assert said == (
            f"org/none is not on {local.endpoint}, or is private and there is no token"
            " (secrets.hf_token_env); correct model"
        )

    def test_a_gated_model_without_a_token(self, local: Local) -> None:
        said = local.refused("org/gated")
        assert said.startswith("org/gated is gated and there is no token; accept its terms on")

    def test_a_gated_model_with_a_token_that_may_not(self, local: Local) -> None:
        local.tokens.write_text("hf_good\nhf_other\n")
        said = local.refused("org/gated", token="hf_other")
        assert said.startswith("org/gated is gated, and the token's account may not use it")
        assert "hf_other" not in said
        assert local.run("org/gated", token="hf_good")[0] == 0

    def test_a_token_that_nobody_knows(self, local: Local) -> None:
        said = local.refused("org/gated", token="hf_wrong")
        assert said == (
            f"{local.endpoint} refuses the token: it is wrong or has expired; set a new one"
        )

    def test_a_revision_that_is_not_there(self, local: Local) -> None:
        assert local.refused("org/model", "--revision", "v9") == (
            f"org/model has no revision 'v9' on {local.endpoint}; set revision to one it has"
        )

    def test_only_pickle(self, local: Local) -> None:
        said = local.refused("org/pickled")
        assert said.startswith("org/pickled has no safetensors, only model.bin")
        assert local.of("model.bin") == []
        assert local.run("org/pickled", "--allow-pickle")[0] == 0

    def test_a_hub_that_does_not_answer(self, local: Local) -> None:
        local.endpoint = "http://127.0.0.1:9"
        said = local.refused("org/model")
        assert said.startswith("http://127.0.0.1:9 cannot be reached from this host")

    def test_a_disk_that_is_too_small(self, local: Local) -> None:
        local.cache.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(local.cache)]
        subprocess.run(mount, check=True)
        try:
            said = local.refused("org/model", "--cache", "/var/lib/vllm")
        finally:
            subprocess.run(["umount", local.cache], check=True)
        assert said.startswith("org/model needs 0.00 GB more and 1.07 GB of reserve in /var/lib/")
        assert "0.00 GB are free" in said
        assert local.of("/cdn/") == []


def names(*files: str, **options: object) -> list[str]:
    listing = [Remote(name, 1, None) for name in files]
    given = {"allow_pickle": False, "ignored": [], **options}
    return [file.name for file in chosen(listing, "m", **given)]  # type: ignore[arg-type]


def test_files_are_chosen_by_what_vllm_reads() -> None:
    found = names(
        *["config.json", "merges.txt", "tokenizer.model.v3", "chat_template.jinja", "model.py"],
        *["model-1.safetensors", "1_Pooling/config.json", "2_Dense/model.safetensors"],
        *["onnx/model.onnx", "onnx/config.json", "consolidated.safetensors", "x.gguf", "a.png"],
        *[".cache/x.json", "bad\nname.json", "training_args.bin"],
        ignored=["consolidated*"],
    )
    assert found == [
        *["config.json", "merges.txt", "tokenizer.model.v3", "chat_template.jinja", "model.py"],
        *["1_Pooling/config.json", "model-1.safetensors", "2_Dense/model.safetensors"],
    ]


def test_one_kind_of_pickle_is_enough() -> None:
    files = ["a.bin", "b.bin", "c.pt", "optimizer.bin", "sub/d.bin"]
    assert names(*files, allow_pickle=True) == ["a.bin", "b.bin"]
    with pytest.raises(FetchRefusedError, match="only a.bin and the like"):
        names(*files)
    with pytest.raises(FetchRefusedError, match="no other weights"):
        names("model.gguf", allow_pickle=True)


def test_progress_counts_parts_and_wholes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    cache = Cache("org/model")
    digest = hashlib.sha256(b"x").hexdigest()
    whole, part, text = Remote("a", 5, digest), Remote("b", 9, "f" * 64), Remote("c", 7, None)
    cache.blobs.mkdir(parents=True)
    cache.blob(whole).write_bytes(b"12345")
    cache.partial(part).write_bytes(b"123")
    assert cache.bytes_of([whole, part, text]) == 8


def test_an_unknown_error_is_still_one_sentence() -> None:
    said = sentence(ValueError("a\nb"), "org/model", "main", "https://hub", False)
    assert said == "org/model cannot be fetched from https://hub: ValueError: a b"


@pytest.mark.parametrize(
    ("name", "word"),
    [("etag", "../../../../../owned"), ("oid", "../../owned"), ("sha256", "../../../owned")],
)
def test_a_hub_that_names_files_elsewhere(
    local: Local, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, word: str
) -> None:
    """In a header of one file, or in its list: nothing is written or removed there."""
    monkeypatch.setattr(RepoFile, name, property(lambda _: word))
    before = {path for path in tmp_path.rglob("*") if local.cache not in path.parents}
    code, out, said = local.run("org/model")
    assert (code, out) == (REFUSED, "")
    assert "which could lead anywhere; tell who runs it" in said.splitlines()[-1]
    assert {path for path in tmp_path.rglob("*") if local.cache not in path.parents} <= {
        *before,
        local.cache,
    }
    assert not list(tmp_path.rglob("*owned*"))
