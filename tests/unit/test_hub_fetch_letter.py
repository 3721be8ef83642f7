"""Fetching a model, to the letter: each decision, with a hub that answers from memory."""

from __future__ import annotations

import hashlib
import os
import shutil
import ssl
import sys
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from vllm_hosts.hub import fetch as program
from vllm_hosts.hub.fetch import (
    RESERVE,
    Cache,
    FetchRefusedError,
    MirrorClient,
    Remote,
    chosen,
    fetch_large,
    guard,
    sentence,
)

COMMIT = "c" * 40
WEIGHTS = b"weights"
DIGEST = hashlib.sha256(WEIGHTS).hexdigest()
LARGE = Remote("model.safetensors", len(WEIGHTS), DIGEST, "b" * 40)
SMALL = Remote("config.json", 2, None, "a" * 40)


class Memory:
    """A hub, and a cache to fill from it. What the client was asked is noted."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "hub"
        self.listing: list[Any] = [listed("config.json", 2), listed("model.safetensors", 7, DIGEST)]
        self.content = {"model.safetensors": WEIGHTS}
        self.commit = self.laid_out = COMMIT
        self.free = RESERVE + 9
        self.asked: list[Any] = []
        self.laid: dict[str, bytes] = {"config.json": b"{}", "model.safetensors": WEIGHTS}
        self.reported: list[Any] = []

    def model_info(self, model: str, **how: Any) -> Any:
        self.asked.append(("info", model, how))
        return SimpleNamespace(sha=self.commit, siblings=self.listing)

    def hf_hub_url(self, model: str, name: str, *, revision: str) -> str:
        return f"{model}/{revision}/{name}"

    def metadata(self, url: str) -> None:
        self.asked.append(("metadata", url))

    def http_get(self, url: str, target: Any, **how: Any) -> None:
        self.asked.append(("get", url, how))
        target.write(self.content[url.rpartition("/")[2]][how["resume_size"] :])

    def disk_usage(self, path: str) -> Any:
        assert path == str(self.root)
        assert self.root.is_dir()
        return SimpleNamespace(free=self.free)

    def snapshot_download(self, model: str, **how: Any) -> str:
        self.asked.append(("snapshot", model, how))
        folder = Cache(model).folder / "snapshots" / self.laid_out
        for name, content in self.laid.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        trees = Cache(model).folder / "trees"
        trees.mkdir(exist_ok=True)
        (trees / f"{self.laid_out}.json").write_text("[]")
        return str(folder)

    def of(self, kind: str) -> list[Any]:
        return [rest for what, *rest in self.asked if what == kind]

    def fetch(self, **how: Any) -> tuple[str, list[Remote]]:
        given: dict[str, Any] = {
            "allow_pickle": False,
            "ignored": [],
            "workers": 3,
            "shown_cache": "/shown",
        }
        return program.fetch("org/model", "main", **(given | how))


def listed(name: str, size: int | None, digest: str | None = None, blob: str = "a" * 40) -> Any:
    lfs = SimpleNamespace(sha256=digest) if digest else None
    return SimpleNamespace(rfilename=name, size=size, lfs=lfs, blob_id=blob)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Memory:
    made = Memory(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(made.root))
    monkeypatch.setattr(program, "HfApi", lambda: made)
    monkeypatch.setattr(program, "hf_hub_url", made.hf_hub_url)
    monkeypatch.setattr(program, "get_hf_file_metadata", made.metadata)
    monkeypatch.setattr(program, "http_get", made.http_get)
    monkeypatch.setattr(program, "snapshot_download", made.snapshot_download)
    monkeypatch.setattr(program, "build_hf_headers", lambda: {"who": "me"})
    monkeypatch.setattr(
        program, "shutil", SimpleNamespace(disk_usage=made.disk_usage, rmtree=shutil.rmtree)
    )
    monkeypatch.setattr(program, "_report", lambda *about: made.reported.append(about))
    return made


class TestChosen:
    """Which of a model's files are fetched."""

    @pytest.mark.parametrize(
        "name",
        [
            *("a.json", "a.txt", "a.model", "a.jinja", "a.tiktoken", "a.py", "tokenizer.model.v3"),
            *("sub/tokenizer.model", "b.safetensors", "sub/b.safetensors"),
        ],
    )
    def test_what_vllm_reads(self, name: str) -> None:
        assert name in names(name, "z.safetensors")

    @pytest.mark.parametrize(
        "name",
        [
            *("a.png", "sub/a.tokenizer.model.x", "a.bin", "a.pt", "a.pth", "a.json.gz"),
            *("original/a.json", "onnx/a.json", "openvino/a.json", "metal/a.json"),
            *("coreml/a.json", "flax/a.json", ".a.json", ".git/a.json", "sub/.a/b.json"),
            *("training_args.json", "optimizer.json", "scheduler.json", "rng_state.json"),
            *("trainer_state.json", "a\x1b.json", "mine.json"),
        ],
    )
    def test_what_it_does_not(self, name: str) -> None:
        assert names(name, "z.safetensors", ignored=["mine*"]) == ["z.safetensors"]

    @pytest.mark.parametrize("suffix", [".bin", ".pt", ".pth"])
    def test_pickles_where_there_is_nothing_else(self, suffix: str) -> None:
        files = ["a.json", f"a{suffix}", f"sub/b{suffix}"]
        assert names(*files, allow_pickle=True) == ["a.json", f"a{suffix}"]
        with pytest.raises(FetchRefusedError) as refused:
            names(*files)
        assert str(refused.value) == (
            f"org/m has no safetensors, only a{suffix} and the like, and loading pickle files can"
            " run code; name another model, or set allow_pickle = True"
        )
        assert names(*files, "c.safetensors", allow_pickle=True) == ["a.json", "c.safetensors"]

    def test_the_first_kind_of_pickle_is_enough(self) -> None:
        assert names("a.pth", "a.pt", "a.bin", allow_pickle=True) == ["a.bin"]

    def test_no_weights_at_all(self) -> None:
        for allow in (True, False):
            with pytest.raises(FetchRefusedError) as refused:
                names("a.json", "sub/a.bin", allow_pickle=allow)
            assert (
                str(refused.value)
                == "org/m has no safetensors, and no other weights that vLLM reads"
            )


def names(*files: str, **options: Any) -> list[str]:
    listing = [Remote(name, 1, None) for name in files]
    given = {"allow_pickle": False, "ignored": [], **options}
    return [file.name for file in chosen(listing, "org/m", **given)]


class TestWordsOfTheHub:
    """What a hub says becomes the names of files: only what leads nowhere else."""

    @pytest.mark.parametrize(
        "word", ["../a", "a/b", "", "A" * 40, "a" * 39, "a" * 65, "g" * 40, "a" * 40 + "\n"]
    )
    @pytest.mark.parametrize("where", ["commit", "digest", "blob"])
    def test_in_its_list(self, hub: Memory, word: str, where: str) -> None:
        if where == "commit":
            hub.commit = word
        elif word or where == "blob":
            file = listed("model.safetensors", 7, word if where == "digest" else DIGEST)
            file.blob_id = word if where == "blob" else "a" * 40
            hub.listing[1] = file
        else:
            return
        with pytest.raises(FetchRefusedError) as refused:
            hub.fetch()
        assert str(refused.value) == (
            f"the hub names a file of the cache {ascii(word)[:80]}, which could lead anywhere;"
            " tell who runs it, or set hub.endpoint to another hub"
        )
        assert not hub.root.exists()

    @pytest.mark.parametrize("well", [DIGEST, "a" * 40, '"', "x" * 200, "x" * 201, "../x", ".x"])
    @pytest.mark.parametrize("where", ["etag", "commit_hash"])
    def test_in_its_headers(self, monkeypatch: pytest.MonkeyPatch, well: str, where: str) -> None:
        said: dict[str, Any] = {"etag": "e", "commit_hash": None, where: well}
        asked: list[Any] = []

        def ask(*words: Any, **how: Any) -> Any:
            asked.append((words, how))
            return SimpleNamespace(**said)

        client = SimpleNamespace(get_hf_file_metadata=ask)
        monkeypatch.setattr(program, "file_download", client)
        guard()
        if well in (DIGEST, "a" * 40, "x" * 200):
            assert client.get_hf_file_metadata("url", token=1) == SimpleNamespace(**said)
        else:
            with pytest.raises(FetchRefusedError, match="could lead anywhere"):
                client.get_hf_file_metadata("url", token=1)
        assert asked == [(("url",), {"token": 1})]
        assert not hasattr(client, program._FROM_LIST)

    def test_a_list_of_the_client_s_own_is_not_asked(self, monkeypatch: pytest.MonkeyPatch) -> None:
        client: Any = SimpleNamespace(
            get_hf_file_metadata=None, _xet_file_metadata_from_tree_cache=lambda **_: "evil"
        )
        monkeypatch.setattr(program, "file_download", client)
        guard()
        assert client._xet_file_metadata_from_tree_cache(a=1) is None


class TestDistrust:
    """What does not match is removed, whoever wrote it."""

    @pytest.fixture
    def cache(self, hub: Memory) -> Cache:
        cache = Cache("org/model")
        for name in ("blobs", "snapshots", "refs", "trees", ".no_exist"):
            (cache.folder / name).mkdir(parents=True)
        return cache

    def test_weights_are_read_and_exchanged_for_their_copy(self, cache: Cache) -> None:
        cache.blob(LARGE).write_bytes(WEIGHTS)
        with cache.blob(LARGE).open("r+b") as held:
            cache.distrust([LARGE], COMMIT, "main")
            held.write(b"evil")
        assert cache.blob(LARGE).read_bytes() == WEIGHTS
        assert os.listdir(cache.blobs) == [DIGEST]

    def test_wrong_weights_go_and_a_part_stays(self, cache: Cache) -> None:
        cache.blob(LARGE).write_bytes(b"another")
        cache.partial(LARGE).write_bytes(b"wei")
        (cache.blobs / f"{DIGEST}.new").symlink_to("/etc/passwd")
        before = cache.partial(LARGE).stat().st_ino
        cache.distrust([LARGE], COMMIT, "main")
        assert not cache.blob(LARGE).exists()
        assert cache.partial(LARGE).read_bytes() == b"wei"
        assert cache.partial(LARGE).stat().st_ino != before

    def test_what_is_no_file_goes(self, cache: Cache) -> None:
        cache.blob(LARGE).symlink_to("/etc/passwd")
        os.mkfifo(cache.partial(LARGE))
        cache.distrust([LARGE], COMMIT, "main")
        assert os.listdir(cache.blobs) == []
        assert Path("/etc/passwd").exists()

    def test_small_files_and_notes_of_this_commit_go(self, cache: Cache) -> None:
        other, later = "d" * 40, Remote("x.json", 2, None, None)
        for name in (SMALL.blob, LARGE.blob, other):
            (cache.blobs / str(name)).write_text("x")
        for commit in (COMMIT, other):
            (cache.folder / "snapshots" / commit / "sub").mkdir(parents=True)
            for note in ("refs", "trees", ".no_exist"):
                (cache.folder / note / commit / "sub").mkdir(parents=True)
        for name in ("main", "v1"):
            (cache.folder / "refs" / name).write_text(COMMIT)
        cache.distrust([SMALL, LARGE, later], COMMIT, "main")
        assert sorted(os.listdir(cache.blobs)) == sorted([str(LARGE.blob), other])
        for name in ("snapshots", "trees", ".no_exist"):
            assert os.listdir(cache.folder / name) == [other]
        assert sorted(os.listdir(cache.folder / "refs")) == [other, "v1"]

    def test_nothing_there_is_nothing_to_remove(self, hub: Memory) -> None:
        Cache("org/model").distrust([SMALL, LARGE], COMMIT, "main")
        assert not hub.root.exists()

    @pytest.mark.parametrize("name", ["", "blobs", "snapshots", "refs", "trees", ".no_exist", ".."])
    @pytest.mark.parametrize("kind", ["link", "dangling", "file"])
    def test_what_should_be_a_folder_and_is_none(
        self, hub: Memory, tmp_path: Path, name: str, kind: str
    ) -> None:
        cache = Cache("org/model")
        place = cache.folder.parent if name == ".." else cache.folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        if kind == "file":
            place.write_text("x")
        else:
            place.symlink_to(elsewhere if kind == "link" else tmp_path / "none")
        cache.distrust([LARGE], COMMIT, "main")
        assert not os.path.lexists(place)
        assert elsewhere.is_dir()


class TestOneLargeFile:
    @pytest.fixture
    def cache(self, hub: Memory) -> Cache:
        return Cache("org/model")

    def get(self, cache: Cache, file: Remote = LARGE) -> None:
        fetch_large("org/model", COMMIT, file, cache)

    def test_it_is_kept_under_its_digest(self, hub: Memory, cache: Cache) -> None:
        self.get(cache)
        assert os.listdir(cache.blobs) == [DIGEST]
        assert cache.blob(LARGE).read_bytes() == WEIGHTS
        [[url, how]] = hub.of("get")
        assert url == f"org/model/{COMMIT}/model.safetensors"
        assert how == {"resume_size": 0, "headers": {"who": "me"}, "expected_size": 7}
        self.get(cache)
        assert len(hub.of("get")) == 1

    def test_one_of_another_size_is_none(self, hub: Memory, cache: Cache) -> None:
        cache.blobs.mkdir(parents=True)
        cache.blob(LARGE).write_bytes(b"weight")
        self.get(cache)
        assert cache.blob(LARGE).read_bytes() == WEIGHTS

    @pytest.mark.parametrize(
        ("had", "asked"), [(b"wei", [3]), (WEIGHTS, []), (b"too much of it", [0]), (b"", [0])]
    )
    def test_it_goes_on(self, hub: Memory, cache: Cache, had: bytes, asked: list[int]) -> None:
        cache.blobs.mkdir(parents=True)
        cache.partial(LARGE).write_bytes(had)
        self.get(cache)
        assert cache.blob(LARGE).read_bytes() == WEIGHTS
        assert [how["resume_size"] for _, how in hub.of("get")] == asked

    def test_a_damaged_one_is_removed(self, hub: Memory, cache: Cache) -> None:
        hub.content["model.safetensors"] = b"damaged"
        with pytest.raises(FetchRefusedError) as refused:
            self.get(cache)
        assert str(refused.value) == (
            "model.safetensors of org/model arrived damaged (its SHA-256 is not the hub's) and was"
            " removed; run again"
        )
        assert os.listdir(cache.blobs) == []


class TestFetch:
    def test_all_of_it(self, hub: Memory) -> None:
        hub.listing += [listed("README.md", 1), listed("a[1].json", None, blob="e" * 40)]
        hub.laid["a[1].json"] = b""
        commit, files = hub.fetch()
        assert commit == COMMIT
        assert files == [
            Remote("config.json", 2, None, "a" * 40),
            Remote("a[1].json", 0, None, "e" * 40),
            Remote("model.safetensors", 7, DIGEST, "a" * 40),
        ]
        assert hub.of("info") == [
            ["org/model", {"revision": "main", "files_metadata": True, "timeout": 30}]
        ]
        # A gated model's list is public, so one of its files is asked for before all.
        assert [what for what, *_ in hub.asked] == ["info", "metadata", "get", "snapshot"]
        assert hub.of("metadata") == [[f"org/model/{COMMIT}/config.json"]]
        patterns = ["config.json", "a[[]1].json", "model.safetensors"]
        assert hub.of("snapshot") == [
            ["org/model", {"revision": "main", "allow_patterns": patterns, "max_workers": 3}]
        ]
        assert os.listdir(Cache("org/model").folder / "trees") == []
        [(reported, _, total)] = hub.reported
        assert (reported, total) == (files, 9)

    def test_a_model_without_a_list_has_no_weights(self, hub: Memory) -> None:
        hub.listing = None  # type: ignore[assignment]
        with pytest.raises(FetchRefusedError, match="no other weights"):
            hub.fetch()

    def test_what_is_ignored_and_what_may_run_code(self, hub: Memory) -> None:
        hub.listing = [listed("config.json", 2), listed("a.bin", 7, DIGEST)]
        with pytest.raises(FetchRefusedError, match="allow_pickle"):
            hub.fetch()
        with pytest.raises(FetchRefusedError, match="no other weights"):
            hub.fetch(allow_pickle=True, ignored=["*.bin"])

    def test_small_files_alone(self, hub: Memory) -> None:
        hub.listing += [
            listed("tokenizer.json", 64 << 20),
            listed("large.json", (64 << 20) + 1),
            listed("large.txt", 3, hashlib.sha256(b"abc").hexdigest()),
        ]
        hub.content["large.txt"] = b"abc"
        hub.laid = {"config.json": b"{}", "large.txt": b"abc"}
        hub.laid["tokenizer.json"], hub.free = b"", 2 * RESERVE
        with pytest.raises(FetchRefusedError, match=r"tokenizer.json of .* has another size"):
            hub.fetch(small=True)
        [[_, how]] = hub.of("snapshot")
        assert how["allow_patterns"] == ["config.json", "tokenizer.json", "large.txt"]
        hub.listing = hub.listing[1:2]
        with pytest.raises(FetchRefusedError) as refused:
            hub.fetch(small=True)
        assert str(refused.value) == ("org/model has no config.json; name a model in vLLM's format")

    def test_a_disk_keeps_a_reserve(self, hub: Memory) -> None:
        hub.free = RESERVE + 8
        with pytest.raises(FetchRefusedError) as refused:
            hub.fetch()
        assert str(refused.value) == (
            "org/model needs 0.00 GB more and 1.07 GB of reserve in /shown, and 1.07 GB are free;"
            " make room, or set vllm.cache_directory to a larger disk"
        )
        assert hub.of("get") == []
        # What is there already needs no room.
        cache = Cache("org/model")
        cache.blobs.mkdir(parents=True)
        cache.partial(LARGE).write_bytes(b"w")
        assert hub.fetch()[0] == COMMIT
        hub.free = 0
        assert hub.fetch()[0] == COMMIT

    def test_exactly_enough_is_enough(self, hub: Memory) -> None:
        assert hub.fetch()[0] == COMMIT

    def test_the_client_fetches_what_is_too_large_for_us(
        self, hub: Memory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(program, "_LARGEST", 7)
        hub.fetch()
        assert len(hub.of("get")) == 1
        monkeypatch.setattr(program, "_LARGEST", 6)
        Cache("org/model").blob(LARGE).unlink()
        hub.fetch()
        assert len(hub.of("get")) == 1

    @pytest.mark.parametrize("distrust", [True, False])
    def test_the_cache_is_believed_or_not(self, hub: Memory, distrust: bool) -> None:
        cache = Cache("org/model")
        cache.blobs.mkdir(parents=True)
        cache.blob(LARGE).write_bytes(b"another")
        hub.fetch(**({"distrust": True} if distrust else {}))
        assert (cache.blob(LARGE).read_bytes() == WEIGHTS) is distrust

    def test_a_damaged_file_ends_it(self, hub: Memory) -> None:
        hub.content["model.safetensors"] = b"damaged"
        with pytest.raises(FetchRefusedError, match="arrived damaged"):
            hub.fetch()
        assert hub.of("snapshot") == [], "nothing is laid out for agents"

    def test_a_revision_that_moves_meanwhile(self, hub: Memory) -> None:
        hub.laid_out = "d" * 40
        with pytest.raises(FetchRefusedError) as refused:
            hub.fetch()
        assert str(refused.value) == "revision main of org/model changed meanwhile; run again"

    def test_a_file_of_another_size(self, hub: Memory) -> None:
        hub.laid["config.json"] = b"{ }"
        with pytest.raises(FetchRefusedError) as refused:
            hub.fetch()
        assert str(refused.value) == (
            "config.json of org/model has another size than the hub says; run again"
        )


def test_progress_counts_no_more_than_a_file_has(hub: Memory) -> None:
    cache = Cache("org/model")
    part = Remote("b", 9, "f" * 64)
    cache.blobs.mkdir(parents=True)
    cache.blob(LARGE).write_bytes(b"w" * 10)
    cache.partial(LARGE).write_bytes(b"w")
    cache.partial(part).write_bytes(b"123")
    assert cache.bytes_of([LARGE, part, SMALL]) == 7 + 3
    assert cache.bytes_of([]) == 0


def test_progress_is_said_every_two_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 2:
            raise StopIteration

    class Thread:
        def __init__(self, target: Any, daemon: bool) -> None:
            assert daemon, "or the program would never end"
            self.start = target

    monkeypatch.setattr(program, "time", SimpleNamespace(sleep=sleep))
    monkeypatch.setattr(program, "threading", SimpleNamespace(Thread=Thread))
    with pytest.raises(StopIteration):
        program._report([], Cache("org/model"), 12_340_000_000)
    assert slept == [2, 2]
    assert capsys.readouterr() == ("", "0.00 GB of 12.34 GB\n" * 2)


HUB = "https://hub"


def answer(status: int, kind: type[HfHubHTTPError] = HfHubHTTPError) -> HfHubHTTPError:
    made = kind.__new__(kind)
    Exception.__init__(made, "words of the client")
    made.response = SimpleNamespace(status_code=status)  # type: ignore[assignment]
    return made


def caused(outer: Exception, inner: BaseException) -> Exception:
    outer.__cause__ = inner
    return outer


def of_a_library(module: str, text: str) -> Exception:
    kind = type("ConnectError", (Exception,), {"__module__": module})
    made = kind(text)
    assert isinstance(made, Exception)
    return made


@pytest.mark.parametrize(
    ("error", "token", "said"),
    [
        (FetchRefusedError("as it is"), False, "as it is"),
        (
            answer(403, GatedRepoError),
            True,
            "m is gated, and the token's account may not use it; request access on https://hub/m",
        ),
        (
            answer(403, GatedRepoError),
            False,
            "m is gated and there is no token; accept its terms on https://hub/m, then set"
            " secrets.hf_token_env or secrets.hf_token_command",
        ),
        (
            answer(404, RevisionNotFoundError),
            False,
            "m has no revision 'v1' on https://hub; set revision to one it has",
        ),
        (
            answer(404, RepositoryNotFoundError),
            True,
            "m is not on https://hub, or is private and the token may not see it; correct model",
        ),
        (
            answer(404, RepositoryNotFoundError),
            False,
            "m is not on https://hub, or is private and there is no token (secrets.hf_token_env);"
            " correct model",
        ),
        (
            answer(401),
            True,
            "https://hub refuses the token: it is wrong or has expired; set a new one",
        ),
        (
            answer(403),
            True,
            "https://hub refuses m to this token (403); give it the right to read it",
        ),
        (answer(500), True, "https://hub answers 500 for m; try again later"),
        (caused(ValueError("x"), answer(500)), True, "https://hub answers 500 for m; try again"),
        (
            caused(ValueError("x"), caused(KeyError("y"), of_a_library("httpx._x", "a\n b"))),
            True,
            "https://hub cannot be reached from this host, or the connection broke off: a b",
        ),
        (
            of_a_library("requests.exceptions", ""),
            True,
            "https://hub cannot be reached from this host, or the connection broke off: ConnectErr",
        ),
        (of_a_library("httpx2", "x"), True, "https://hub cannot be reached from this host"),
        (
            caused(of_a_library("httpx", "outer"), ValueError("inner")),
            True,
            "https://hub cannot be reached from this host, or the connection broke off: outer",
        ),
        (
            OSError(28, "No space"),
            True,
            "the disk of the cache is full while m is fetched; make room",
        ),
        (
            OSError(29, "Odd"),
            True,
            "m cannot be fetched from https://hub: OSError: [Errno 29] Odd",
        ),
        (
            caused(ValueError("x"), KeyboardInterrupt()),
            True,
            "m cannot be fetched from https://hub: ValueError: x",
        ),
        (
            ValueError("y" * 300),
            True,
            f"m cannot be fetched from https://hub: ValueError: {'y' * 200}",
        ),
    ],
)
def test_what_went_wrong_is_one_sentence(error: Exception, token: bool, said: str) -> None:
    found = sentence(error, "m", "v1", HUB, token)
    assert found.startswith(said)
    assert len(found) - len(said) < 40
    assert "\n" not in found


class TestMain:
    @pytest.fixture(autouse=True)
    def ready(self, hub: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
        self.given: list[Any] = []
        self.guarded = 0

        def guarded() -> None:
            self.guarded += 1

        def fetched(*words: Any, **how: Any) -> Any:
            assert self.guarded == 1, "nothing is fetched before that"
            self.given.append((words, how))
            return COMMIT, [SMALL, LARGE]

        monkeypatch.setattr(program, "guard", guarded)
        monkeypatch.setattr(program, "fetch", fetched)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.setattr(constants, "ENDPOINT", HUB)
        self.patch = monkeypatch

    def run(self, *words: str) -> int:
        self.patch.setattr(sys, "argv", ["-", *words])
        return program.main()

    def test_what_was_fetched_is_printed(
        self, hub: Memory, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (hub.root / ".locks/sub").mkdir(parents=True)
        (hub.root / "kept").mkdir()
        assert self.run("org/model") == 0
        assert capsys.readouterr() == (
            f"commit {COMMIT}\nfile 2 config.json\nfile 7 model.safetensors\n",
            "",
        )
        assert os.listdir(hub.root) == ["kept"]
        assert self.given == [
            (
                ("org/model", "main"),
                {
                    "allow_pickle": False,
                    "ignored": [],
                    "workers": 4,
                    "shown_cache": str(hub.root),
                    "distrust": False,
                    "small": False,
                    "mirror": None,
                },
            )
        ]

    def test_what_may_be_said(self) -> None:
        words = ["--revision", "v1", "--allow-pickle", "--ignore", "a", "--ignore", "b"]
        words += ["--workers", "9", "--cache", "/c", "--distrust", "--small"]
        assert self.run("org/model", *words) == 0
        [(positional, how)] = self.given
        assert positional == ("org/model", "v1")
        assert how == {
            "allow_pickle": True,
            "ignored": ["a", "b"],
            "workers": 9,
            "shown_cache": "/c",
            "distrust": True,
            "small": True,
            "mirror": None,
        }

    @pytest.mark.parametrize("token", ["", "hf_x"])
    def test_why_not_goes_to_stderr(self, capsys: pytest.CaptureFixture[str], token: str) -> None:
        def gated(*_: Any, **__: Any) -> None:
            raise answer(403, GatedRepoError)

        self.patch.setattr(program, "fetch", gated)
        if token:
            self.patch.setenv("HF_TOKEN", token)
        assert self.run("org/model", "--revision", "v1") == 3
        out, said = capsys.readouterr()
        assert out == ""
        assert said == sentence(
            answer(403, GatedRepoError), "org/model", "v1", HUB, bool(token)
        ) + ("\n")


class Answering:
    """A mirror that says one thing. What it was asked, and how, is noted."""

    def __init__(self, status: int, *pieces: bytes) -> None:
        self.status, self.pieces = status, list(pieces)
        self.asked: list[Any] = []
        self.closed = 0

    def __call__(self, place: str, **how: Any) -> Any:
        self.asked.append((place, how))
        return self

    def request(self, method: str, path: str, headers: dict[str, str]) -> None:
        self.asked.append((method, path, headers))

    def getresponse(self) -> Any:
        return self

    def read(self, size: int) -> bytes:
        self.asked.append(size)
        piece = self.pieces.pop(0) if self.pieces else b""
        if piece == b"!":
            raise ConnectionResetError("it was cut")
        return piece

    def close(self) -> None:
        self.closed += 1


class TestMirrorClient:
    """A host that may have large files already."""

    @pytest.fixture
    def trusted(self, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
        """What its context was given."""
        given: list[Any] = []

        class Context:
            def load_cert_chain(self, file: str) -> None:
                path = Path(file)
                given.extend([path.suffix, path.stat().st_mode & 0o777, path.read_text()])

        def context(*, cadata: str) -> Context:
            given.append(cadata)
            return Context()

        monkeypatch.setattr(ssl, "create_default_context", context)
        return given

    def asked(
        self, monkeypatch: pytest.MonkeyPatch, answer: Answering, file: Any, cache: Cache
    ) -> tuple[MirrorClient, Any]:
        monkeypatch.setattr(program, "HTTPSConnection", answer)
        client = MirrorClient("192.0.2.9:8444", "CA", "PEM")
        client.add(LARGE, cache, file)
        return client, client._context

    def test_what_it_trusts_and_shows(self, trusted: list[Any]) -> None:
        MirrorClient("192.0.2.9:8444", "CA", "PEM")
        assert trusted == ["CA", ".pem", 0o600, "PEM"]

    @pytest.mark.parametrize(("begin", "status"), [(b"", 200), (b"we", 206)])
    def test_what_is_missing_is_asked_for(
        self,
        begin: bytes,
        status: int,
        trusted: list[Any],
        hub: Memory,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        cache, file = Cache("org/model"), BytesIO(begin)
        file.seek(0, 2)
        answer = Answering(status, *(WEIGHTS[at : at + 3] for at in range(len(begin), 7, 3)))
        _, context = self.asked(monkeypatch, answer, file, cache)
        assert file.getvalue() == WEIGHTS
        ranges = {"Range": "bytes=2-"} if begin else {}
        first, second, *sizes = answer.asked
        assert first == ("192.0.2.9:8444", {"timeout": 30, "context": context})
        assert second == ("GET", f"/models/models--org--model/{DIGEST}", ranges)
        # Never more than is missing.
        assert sizes == ([5, 2] if begin else [7, 4, 1])
        assert (answer.closed, capsys.readouterr().err) == (1, "")

    def test_a_large_one_comes_in_pieces(
        self, trusted: list[Any], hub: Memory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        answer = Answering(200)
        monkeypatch.setattr(program, "HTTPSConnection", answer)
        huge = replace(LARGE, size=1 << 30)
        MirrorClient("m", "CA", "PEM").add(huge, Cache("org/model"), BytesIO())
        assert answer.asked[2:] == [1 << 20]

    @pytest.mark.parametrize(
        ("answer", "begin", "kept", "said"),
        [
            (Answering(404), b"", b"", "does not give model.safetensors (404)"),
            (Answering(206, b"x"), b"", b"", "does not give model.safetensors (206)"),
            (Answering(200, b"x"), b"w", b"w", "does not give model.safetensors (200)"),
            (Answering(200, b"wei"), b"", b"wei", "broke off in model.safetensors"),
            (Answering(200, b"w", b"!"), b"", b"w", "does not give model.safetensors: it was cut"),
        ],
    )
    def test_what_it_does_not_give_is_said_once(
        self,
        answer: Answering,
        begin: bytes,
        kept: bytes,
        said: str,
        trusted: list[Any],
        hub: Memory,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        file = BytesIO(begin)
        file.seek(0, 2)
        client, _ = self.asked(monkeypatch, answer, file, Cache("org/model"))
        assert (file.getvalue(), answer.closed) == (kept, 1)
        note = f"note: the mirror 192.0.2.9:8444 {said}; it comes from the hub\n"
        assert capsys.readouterr().err == note
        client.add(LARGE, Cache("org/model"), BytesIO())
        assert capsys.readouterr().err == ""

    def test_no_more_than_a_line_is_said(
        self, trusted: list[Any], capsys: pytest.CaptureFixture[str]
    ) -> None:
        MirrorClient("m", "CA", "PEM")._tell(f"a\n b{'x' * 300}")
        said = "the mirror m a bx"
        assert capsys.readouterr().err == (
            f"note: {said}{'x' * (200 - len(said) - 1)}; it comes from the hub\n"
        )

    def test_the_hub_is_asked_for_the_rest_and_for_what_is_damaged(self, hub: Memory) -> None:
        def gives(content: bytes) -> Any:
            return SimpleNamespace(add=lambda file, cache, target: target.write(content))

        cache = Cache("org/model")
        for content, gets in ((WEIGHTS, []), (b"we", [2]), (b"damaged", [0])):
            hub.asked.clear()
            fetch_large("org/model", COMMIT, LARGE, cache, gives(content))
            assert cache.blob(LARGE).read_bytes() == WEIGHTS
            assert [how["resume_size"] for _, how in hub.of("get")] == gets
            cache.blob(LARGE).unlink()

    def test_where_it_is(self, trusted: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
        for place, found in ((None, []), ("m", ["CA", ".pem", 0o600, "PEM"])):
            monkeypatch.setenv("VLLM_HOSTS_MIRROR_CA", "CA")
            monkeypatch.setenv("VLLM_HOSTS_MIRROR_PEM", "PEM")
            client = program._mirror(place)
            assert (client is None) == (place is None)
            assert trusted == found
            # Nothing that runs afterwards has them.
            assert not [name for name in os.environ if name.startswith("VLLM_HOSTS_MIRROR")]
        monkeypatch.undo()
        trusted.clear()
