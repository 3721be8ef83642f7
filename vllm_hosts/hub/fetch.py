"""Fetches one model from the hub into the cache that agents read.

Runs on a host, in a container of the agents' own image, which has huggingface_hub but none of our
code, so this imports none of it. The script is never written to the host. The token comes from the
environment. Progress goes to stderr, and so does the one sentence that explains why a model could
not be fetched (exit code 3). stdout ends with what was fetched: ``commit HASH``, then
``file BYTES NAME`` for each file.
"""

from __future__ import annotations

import argparse
import fnmatch
import glob
import hashlib
import os
import re
import shutil
import ssl
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from http.client import HTTPException, HTTPSConnection
from pathlib import Path
from typing import Any, BinaryIO

from huggingface_hub import (
    HfApi,
    constants,
    file_download,
    get_hf_file_metadata,
    hf_hub_url,
    snapshot_download,
)
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import http_get, repo_folder_name
from huggingface_hub.utils._headers import build_hf_headers

#: Exit code if stderr has a sentence for people.
REFUSED = 3
#: Bytes that stay free on the disk of the cache.
RESERVE = 1 << 30
#: huggingface_hub transfers larger files only by its own protocol, and only as a whole.
_LARGEST = 50 * 1000**3
_TEXTS = (".json", ".txt", ".model", ".jinja", ".tiktoken", ".py")
#: Bytes of a file that counts as a small one: tokenizers have up to 35 MB.
_SMALL = 64 << 20
_PICKLES = (".bin", ".pt", ".pth")
#: Copies of the weights for other programs, and leftovers of training.
_FOREIGN = ("original/*", "onnx/*", "openvino/*", "metal/*", "coreml/*", "flax/*")
_TRAINING = ("training_args*", "optimizer*", "scheduler*", "rng_state*", "trainer_state*")


#: Commits and digests, in a hub's list.
_DIGEST = re.compile(r"[0-9a-f]{40,64}")
#: What a header may make the name of a file in the cache: nothing that leads elsewhere.
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.:=+-]{0,199}")


class FetchRefusedError(Exception):
    """Why a model cannot be fetched, as a sentence."""


@dataclass(frozen=True)
class Remote:
    """A file of the model: its bytes, and its SHA-256 if the hub has one (as for all large files).

    ``blob``: git's hash of its content, under which the cache stores a small file.
    """

    name: str
    size: int
    sha256: str | None
    blob: str | None = None


def _checked(word: str | None, form: re.Pattern[str] = _DIGEST) -> str | None:
    """A word of the hub's that becomes a file's name.

    :raises FetchRefusedError: it is none.
    """
    if word is not None and not form.fullmatch(word):
        raise FetchRefusedError(
            f"the hub names a file of the cache {ascii(word)[:80]}, which could lead anywhere; tell"
            " who runs it, or set hub.endpoint to another hub"
        )
    return word


def guard() -> None:
    """Have huggingface_hub take no names from headers that lead out of the model's folder."""
    ask: Any = file_download.get_hf_file_metadata

    def asked(*words: Any, **how: Any) -> Any:
        found = ask(*words, **how)
        for word in (found.etag, found.commit_hash):
            _checked(word, _NAME)
        return found

    file_download.get_hf_file_metadata = asked
    # The other way to the same names, where it has one; without it, the headers are asked for.
    if hasattr(file_download, _FROM_LIST):
        setattr(file_download, _FROM_LIST, lambda **_: None)


_FROM_LIST = "_xet_file_metadata_from_tree_cache"


def chosen(
    files: list[Remote], model: str, *, allow_pickle: bool, ignored: list[str]
) -> list[Remote]:
    """The files that vLLM reads: weights, configuration, tokenizer.

    :raises RefusedError: there are no weights, or only weights whose loading can run code.
    """
    left_out = [*ignored, *_FOREIGN, *_TRAINING]
    usable = [
        file
        for file in files
        if not any(fnmatch.fnmatchcase(file.name, pattern) for pattern in left_out)
        and not any(part.startswith(".") for part in file.name.split("/"))
        and file.name.isprintable()
    ]
    weights = [file for file in usable if file.name.endswith(".safetensors")]
    if not weights:
        for suffix in _PICKLES:
            weights = weights or [
                file for file in usable if file.name.endswith(suffix) and "/" not in file.name
            ]
        if not weights:
            raise FetchRefusedError(
                f"{model} has no safetensors, and no other weights that vLLM reads"
            )
        if not allow_pickle:
            raise FetchRefusedError(
                f"{model} has no safetensors, only {weights[0].name} and the like, and loading"
                " pickle files can run code; name another model, or set allow_pickle = True"
            )
    return [*filter(is_text, usable), *weights]


def is_text(file: Remote) -> bool:
    """Whether it is one of a model's files that are not weights."""
    return file.name.endswith(_TEXTS) or file.name.rpartition("/")[2].startswith("tokenizer.model")


class Cache:
    """A model's part of the cache, in huggingface_hub's own layout."""

    def __init__(self, model: str) -> None:
        self.folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(
            repo_id=model, repo_type="model"
        )
        self.blobs = self.folder / "blobs"

    def blob(self, file: Remote) -> Path:
        """Path of a file with a known SHA-256 once it is complete."""
        return self.blobs / str(file.sha256)

    def partial(self, file: Remote) -> Path:
        """Its path until then. Since 1.13, huggingface_hub does not resume a file that another
        process began (https://github.com/huggingface/huggingface_hub/pull/4228); we do."""
        return self.blobs / f"{file.sha256}.partial"

    def distrust(self, files: list[Remote], commit: str, revision: str) -> None:
        """Remove whatever does not match what the hub has, no matter who wrote it."""
        for place in (self.folder.parent, self.folder, self.blobs, *self._notes()):
            if place.is_symlink() or (place.exists() and not place.is_dir()):
                place.unlink()
        for file in files:
            for path in (self.blob(file), self.partial(file)) if file.sha256 else ():
                if not _regular(path):
                    path.unlink(missing_ok=True)
                elif _renewed(path) != file.sha256 and path == self.blob(file):
                    path.unlink()
            if file.blob and not file.sha256:
                (self.blobs / file.blob).unlink(missing_ok=True)
        shutil.rmtree(self.folder / "snapshots" / commit, ignore_errors=True)
        for note in ("refs", "trees", ".no_exist"):
            if (self.folder / note / commit).is_dir():
                shutil.rmtree(self.folder / note / commit)
        (self.folder / "refs" / revision).unlink(missing_ok=True)

    def _notes(self) -> list[Path]:
        return [self.folder / name for name in ("snapshots", "refs", "trees", ".no_exist")]

    def bytes_of(self, files: list[Remote]) -> int:
        """Bytes of these files that are already here."""
        found = 0
        for file in files:
            for path in (self.blob(file), self.partial(file)):
                if file.sha256 and path.is_file():
                    found += min(path.stat().st_size, file.size)
                    break
        return found


def _regular(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _renewed(path: Path) -> str:
    """Replace the file by a copy of itself, and return the copy's SHA-256.

    A process that still has the old file open can only change the old one, which nobody reads.
    """
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)
    digest = hashlib.sha256()
    with path.open("rb") as content, new.open("xb") as target:
        while chunk := content.read(1 << 22):
            digest.update(chunk)
            target.write(chunk)
    new.replace(path)
    return digest.hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


class MirrorClient:
    """A host of the same inventory that may have large files already.

    It only saves the way to the hub: files are named by the digest that the hub has for them, and
    kept only if they have it. What it does not give comes from the hub.
    """

    def __init__(self, place: str, ca: str, pem: str) -> None:
        self._place = place
        self._told = threading.Lock()
        self._context = ssl.create_default_context(cadata=ca)
        # Where only this process's own user can read it, as long as it takes.
        with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:
            file.write(pem)
            file.flush()
            self._context.load_cert_chain(file.name)

    def add(self, file: Remote, cache: Cache, target: BinaryIO) -> None:
        """Write what is missing of a file at its end, or as much of it as the mirror gives."""
        begin = target.tell()
        connection = HTTPSConnection(self._place, timeout=30, context=self._context)
        try:
            connection.request(
                "GET",
                f"/models/{cache.folder.name}/{file.sha256}",
                headers={"Range": f"bytes={begin}-"} if begin else {},
            )
            answer = connection.getresponse()
            if answer.status != (206 if begin else 200):
                self._tell(f"does not give {file.name} ({answer.status})")
                return
            while target.tell() < file.size:
                piece = answer.read(min(1 << 20, file.size - target.tell()))
                if not piece:
                    self._tell(f"broke off in {file.name}")
                    break
                target.write(piece)
        except (OSError, HTTPException) as error:
            self._tell(f"does not give {file.name}: {error}")
        finally:
            connection.close()

    def _tell(self, why: str) -> None:
        # Once: where it does not answer, it gives none of some hundred files.
        if self._told.acquire(blocking=False):
            said = " ".join(f"the mirror {self._place} {why}"[:200].split())
            print(f"note: {said}; it comes from the hub", file=sys.stderr, flush=True)


def fetch_large(
    model: str, commit: str, file: Remote, cache: Cache, mirror: MirrorClient | None = None
) -> None:
    """Fetch one large file, from where an earlier run stopped; kept only if its digest matches.

    :param mirror: who is asked before the hub.
    :raises RefusedError: the digest does not match the hub's.
    """
    whole, partial = cache.blob(file), cache.partial(file)
    if whole.is_file() and whole.stat().st_size == file.size:
        return
    cache.blobs.mkdir(parents=True, exist_ok=True)
    with partial.open("ab") as target:
        if target.tell() > file.size:
            target.truncate(0)
            target.seek(0)
        if mirror and target.tell() < file.size:
            mirror.add(file, cache, target)
        if target.tell() < file.size:
            http_get(
                hf_hub_url(model, file.name, revision=commit),
                target,
                resume_size=target.tell(),
                headers=build_hf_headers(),
                expected_size=file.size,
            )
    if _sha256(partial) != file.sha256:
        partial.unlink()
        if mirror:
            fetch_large(model, commit, file, cache)
            return
        raise FetchRefusedError(
            f"{file.name} of {model} arrived damaged (its SHA-256 is not the hub's) and was"
            " removed; run again"
        )
    partial.replace(whole)


def fetch(
    model: str,
    revision: str,
    *,
    allow_pickle: bool,
    ignored: list[str],
    workers: int,
    shown_cache: str,
    distrust: bool = False,
    small: bool = False,
    mirror: MirrorClient | None = None,
) -> tuple[str, list[Remote]]:
    """Complete a model in the cache. Returns its commit and its files.

    :param shown_cache: what the cache is called outside of this container.
    :param distrust: believe nothing of what is in the cache.
    :param small: only what is not weights, for who asks vLLM about the model.
    :param mirror: who may have large files already.
    :raises RefusedError: it cannot be had, with the reason.
    """
    info = HfApi().model_info(model, revision=revision, files_metadata=True, timeout=30)
    commit = str(_checked(str(info.sha)))
    listing = [
        Remote(
            item.rfilename,
            item.size or 0,
            _checked(item.lfs.sha256) if item.lfs else None,
            _checked(item.blob_id),
        )
        for item in info.siblings or []
    ]
    files = chosen(listing, model, allow_pickle=allow_pickle, ignored=ignored)
    if small:
        files = [file for file in files if is_text(file) and file.size <= _SMALL]
        if not files:
            raise FetchRefusedError(f"{model} has no config.json; name a model in vLLM's format")
    # The list of a gated model is public, its files are not: ask for one before all.
    get_hf_file_metadata(hf_hub_url(model, files[0].name, revision=commit))
    cache = Cache(model)
    if distrust:
        cache.distrust(files, commit, revision)
    total = sum(file.size for file in files)
    missing = total - cache.bytes_of(files)
    Path(constants.HF_HUB_CACHE).mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(constants.HF_HUB_CACHE).free
    large = [file for file in files if file.sha256 and file.size <= _LARGEST]
    absent = [file for file in large if not cache.blob(file).is_file()]
    if absent and missing + RESERVE > free:
        raise FetchRefusedError(
            f"{model} needs {_gb(missing)} more and {_gb(RESERVE)} of reserve in {shown_cache}, and"
            f" {_gb(free)} are free; make room, or set vllm.cache_directory to a larger disk"
        )
    _report(files, cache, total)
    pool = ThreadPoolExecutor(workers)
    waiting = [pool.submit(fetch_large, model, commit, file, cache, mirror) for file in large]
    for done in as_completed(waiting):
        done.result()
    folder = snapshot_download(
        model,
        revision=revision,
        allow_patterns=[glob.escape(file.name) for file in files],
        max_workers=workers,
    )
    # Agents would expect every file on the hub's list, also those that were not fetched.
    (cache.blobs.parent / "trees" / f"{commit}.json").unlink(missing_ok=True)
    if Path(folder).name != commit:
        raise FetchRefusedError(f"revision {revision} of {model} changed meanwhile; run again")
    for file in files:
        if (Path(folder) / file.name).stat().st_size != file.size:
            raise FetchRefusedError(
                f"{file.name} of {model} has another size than the hub says; run again"
            )
    return commit, files


def _report(files: list[Remote], cache: Cache, total: int) -> None:
    def say() -> None:
        while True:
            print(f"{_gb(cache.bytes_of(files))} of {_gb(total)}", file=sys.stderr, flush=True)
            time.sleep(2)

    threading.Thread(target=say, daemon=True).start()


def _gb(count: int) -> str:
    return f"{count / 1000**3:.2f} GB"


def sentence(error: Exception, model: str, revision: str, endpoint: str, has_token: bool) -> str:
    """An error, as a sentence for whoever asked for the model."""
    if isinstance(error, FetchRefusedError):
        return str(error)
    cause = _cause(error)
    status = getattr(getattr(cause, "response", None), "status_code", None)
    if isinstance(cause, GatedRepoError):
        if has_token:
            return (
                f"{model} is gated, and the token's account may not use it; request access on"
                f" {endpoint}/{model}"
            )
        return (
            f"{model} is gated and there is no token; accept its terms on {endpoint}/{model}, then"
            " set secrets.hf_token_env or secrets.hf_token_command"
        )
    if isinstance(cause, RevisionNotFoundError):
        return f"{model} has no revision {revision!r} on {endpoint}; set revision to one it has"
    if isinstance(cause, RepositoryNotFoundError):
        private = (
            "is private and the token may not see it"
            if has_token
            else "is private and there is no token (secrets.hf_token_env)"
        )
        return f"{model} is not on {endpoint}, or {private}; correct model"
    if isinstance(cause, HfHubHTTPError):
        if status == 401:
            return f"{endpoint} refuses the token: it is wrong or has expired; set a new one"
        if status == 403:
            return f"{endpoint} refuses {model} to this token (403); give it the right to read it"
        return f"{endpoint} answers {status} for {model}; try again later"
    reason = " ".join(str(cause).split())[:200] or type(cause).__name__
    if _of_the_network(cause):
        return f"{endpoint} cannot be reached from this host, or the connection broke off: {reason}"
    if isinstance(cause, OSError) and cause.errno == 28:
        return f"the disk of the cache is full while {model} is fetched; make room"
    return f"{model} cannot be fetched from {endpoint}: {type(cause).__name__}: {reason}"


def _cause(error: Exception) -> Exception:
    """The error that the hub's client wraps: the hub's own answer, or why there was none."""
    while not isinstance(error, HfHubHTTPError) and not _of_the_network(error):
        if not isinstance(error.__cause__, Exception):
            break
        error = error.__cause__
    return error


def _of_the_network(error: Exception) -> bool:
    """Whether the client's HTTP library raised it; which library depends on its version."""
    return type(error).__module__.partition(".")[0] in ("httpx", "httpx2", "requests")


def _mirror(place: str | None) -> MirrorClient | None:
    ca, pem = (os.environ.pop(f"VLLM_HOSTS_MIRROR_{name}", "") for name in ("CA", "PEM"))
    return MirrorClient(place, ca, pem) if place else None


def main() -> int:
    """Fetch the model that the arguments name."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--revision", default="main")
    parser.add_argument("--allow-pickle", action="store_true")
    parser.add_argument("--ignore", action="append", default=[])
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--cache", default=constants.HF_HUB_CACHE)
    parser.add_argument("--distrust", action="store_true")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--mirror")
    given = parser.parse_args()
    guard()
    try:
        commit, files = fetch(
            given.model,
            given.revision,
            allow_pickle=given.allow_pickle,
            ignored=given.ignore,
            workers=given.workers,
            shown_cache=given.cache,
            distrust=given.distrust,
            small=given.small,
            mirror=_mirror(given.mirror),
        )
    except Exception as error:
        has_token = bool(os.environ.get("HF_TOKEN"))
        endpoint = constants.ENDPOINT
        print(
            sentence(error, given.model, given.revision, endpoint, has_token),
            file=sys.stderr,
            flush=True,
        )
        return REFUSED
    # The hub's client leaves lock files that a whole group can hold, and agents are in that group.
    shutil.rmtree(Path(constants.HF_HUB_CACHE) / ".locks", ignore_errors=True)
    print(f"commit {commit}")
    for file in files:
        print(f"file {file.size} {file.name}")
    sys.stdout.flush()
    return 0


if __name__ == "__main__":
    # Does not wait for threads that are still fetching after another one has failed.
    os._exit(main())
