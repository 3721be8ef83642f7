"""A hub, or a model on it, that is hostile: bounded time and memory, and no file elsewhere."""

from __future__ import annotations

import gzip
import io
import json
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings

from tests.unit import hostile
from tests.unit.capacity_samples import agent, host
from tests.unit.examples import examples
from tests.unit.model_files import POINTER, safetensors
from vllm_hosts import bounded
from vllm_hosts.bounded import BoundError, parse_json
from vllm_hosts.capacity import HostPlan, ModelFiles
from vllm_hosts.capacity.fields import UnplannableError
from vllm_hosts.capacity.hub_client import HubClient
from vllm_hosts.capacity.model_folder import parse_config, read_folder, total_size
from vllm_hosts.errors import SettingsError
from vllm_hosts.host import probe
from vllm_hosts.hub.local import LocalModel, local_model, small_files
from vllm_hosts.hub.weights import tensor_bytes

CONFIG = json.dumps({"architectures": ["X"]}).encode()
#: Seconds that a model may take; a hub that says nothing is waited for as long.
PATIENCE = 0.5


def said(*headers: str, body: bytes = CONFIG, status: str = "200 OK") -> bytes:
    usual = {"etag": 'ETag: "abc"', "x-repo-commit": "X-Repo-Commit: abc"}
    usual["content-length"] = f"Content-Length: {len(body)}"
    named = {header.partition(":")[0].lower(): header for header in headers}
    lines = [f"HTTP/1.1 {status}", *(usual | named).values(), "Connection: close", "", ""]
    return "\r\n".join(line for line in lines[:-2] if line[-1] != ":").encode() + b"\r\n\r\n" + body


@contextmanager
def hub(head: bytes, get: bytes, endless: bytes = b"", pause: float = 0.0) -> Iterator[str]:
    """A hub that says the same to every question about config.json, and has nothing else."""
    listener = socket.create_server(("127.0.0.1", 0))
    open_ = True

    def answer(connection: socket.socket) -> None:
        with connection:
            asked = connection.recv(65536)
            if b"config.json" not in asked.split(b"\r\n")[0]:
                connection.sendall(said("X-Error-Code: EntryNotFound", status="404 No", body=b""))
                return
            connection.sendall(head if asked.startswith(b"HEAD") else get)
            while endless and open_:
                connection.sendall(endless)
                time.sleep(pause)

    def accept() -> None:
        while open_:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=quietly, args=(connection,), daemon=True).start()

    def quietly(connection: socket.socket) -> None:
        with suppress(OSError):
            answer(connection)

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        open_ = False
        listener.close()


SOUND = said()
BOMB = gzip.compress(b" " * (64 << 20))
ESCAPES = hostile.ESCAPES.encode("latin-1", "ignore").replace(b"\r", b"").replace(b"\x0b", b"")
HUBS: dict[str, tuple[bytes, bytes, bytes, float]] = {
    "etag that leads elsewhere": (s := said('ETag: "../../../../owned"'), s, b"", 0),
    "commit that leads elsewhere": (s := said("X-Repo-Commit: ../../../../owned"), s, b"", 0),
    "file elsewhere": (
        SOUND,
        said('Content-Disposition: attachment; filename="../../owned"'),
        b"",
        0,
    ),
    "larger than it said": (SOUND, said("Content-Length: 99999999999"), b"x" * 65536, 0),
    "no size": (said("Content-Length:", "Transfer-Encoding: chunked", body=b""),
                said("Content-Length:"), b"x" * 65536, 0),
    "packed": (SOUND, said("Content-Encoding: gzip", body=BOMB), b"", 0),
    "never ends": (SOUND, said("Content-Length: 900000"), b"x", 0.05),
    "says nothing": (b"", b"", b"", 0),
    "no HTTP": (ESCAPES + b"\r\n", ESCAPES, b"", 0),
    "endless headers": (b"HTTP/1.1 200 OK\r\n", b"", b"a: b\r\n" * 9000, 0),
    "round and round": (s := said("Location: /x/config.json", status="302 Found"), s, b"", 0),
    "to a file": (s := said("Location: file:///etc/passwd", status="302 Found"), s, b"", 0),
    "words": (
        s := said(f"X-Error-Message: {hostile.ESCAPES!r}", status="500 \x1b]0;owned\x07"),
        s,
        b"",
        0,
    ),
    "no JSON": (SOUND, said(body=b"\xff\xfe{"), b"", 0),
    "deep": (SOUND, said(body=b'{"a":' * 100_000), b"", 0),
    "no object": (SOUND, said(body=b"[]"), b"", 0),
}  # fmt: skip


@pytest.mark.parametrize("how", HUBS)
def test_a_hub_that_is_hostile(tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    below = tmp_path / "a/b/c/d/e"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(below / "hf"))
    client = HubClient(lambda: None, seconds=PATIENCE, folder=below / "kept")
    began, used = time.monotonic(), time.process_time()
    with hub(*HUBS[how]) as url:
        found = client.read("org/model", url)
    assert time.monotonic() - began < PATIENCE + 10
    assert time.process_time() - used < PATIENCE + 3
    assert {path.parent for path in tmp_path.rglob("*") if path.is_file()} <= {below / "kept"}
    if isinstance(found, str):
        assert found and not hostile.evil(found)
    else:
        assert "elsewhere" in how and found.config == {"architectures": ["X"]}


@pytest.mark.parametrize(
    ("sent", "endless", "why"),
    [
        (said("Content-Length: 99999999"), b"x" * 65536, "an answer of more than 1 MB"),
        (said("Content-Encoding: gzip", body=BOMB), b"", "an answer of more than 1 MB"),
        (said("Content-Length: 99999"), b"x", "an answer that does not end"),
    ],
    ids=["large", "packed", "slow"],
)
def test_an_edge_that_is_hostile(
    sent: bytes, endless: bytes, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert probe.MOST == 16 << 20
    monkeypatch.setattr(probe, "MOST", 1 << 20)
    began = time.monotonic()
    with hub(b"", sent, endless, 0.05 if len(endless) == 1 else 0) as url:
        port = int(url.rpartition(":")[2])
        with pytest.raises(OSError, match=why):
            probe.get("127.0.0.1", port, "/config.json", name=None, timeout=0.5)
    assert time.monotonic() - began < 10


NAMES = (
    "Llama-3.1-8B-Instruct",
    "gpt-oss-20b",
    "DeepSeek-V3",
    "Qwen3-30B-A3B",
    "gemma-3-4b-it",
    "Qwen2.5-14B-Instruct-AWQ",
)
KNOWN = [
    json.loads((Path(__file__).with_name("models") / f"{name}.json").read_text()) for name in NAMES
]


def quickly(do: Callable[[], object]) -> object:
    """What comes of it; a sentence is safe to show."""
    began = time.process_time()
    try:
        return do()
    except (UnplannableError, SettingsError, ValueError) as error:
        for problem in getattr(error, "problems", [str(error)]):
            assert problem and not hostile.evil(problem), problem
        return None
    finally:
        assert time.process_time() - began < 2


@settings(max_examples=examples(10), deadline=None)
@given(random=hostile.seeds)
def test_a_config_that_holds_anything(random: Random) -> None:
    config: Any = random.choice(KNOWN)
    for _ in range(random.randint(1, 3)):
        config = hostile.odd(random, config)
    text = json.dumps(config)
    if random.random() < 0.2:
        text = text[: random.randrange(len(text) + 1)] + hostile.word(random)
    quickly(lambda: total_size("m", text))
    if not (read := quickly(lambda: parse_config("m", text))):
        return
    size = random.choice([None, 0, -1, 1, 10**9, 10**15])
    plan = quickly(lambda: host(ModelFiles(read, size), agent()))  # type: ignore[arg-type]
    assert isinstance(plan, HostPlan)
    for where, shown in hostile.texts(plan):
        assert not hostile.evil(shown), where


def headed(header: bytes, length: int | None = None, rest: bytes = b"") -> bytes:
    """A safetensors file with this header, of which it says another length."""
    return struct.pack("<Q", len(header) if length is None else length) + header + rest


@pytest.mark.parametrize(
    "content",
    [
        headed(b"{}", 2**64 - 1),
        headed(b"{}", 2**63),
        headed(b"{" * 5000),
        headed(b'{"a":' * 5000),
        headed(b"[]"),
        headed(b'{"x": {"data_offsets": [0, 1e999]}}'),
        headed(b'{"x": {"data_offsets": [0, NaN]}}'),
        headed(b'{"x": {"data_offsets": [0, -1]}}'),
        headed(b'{"x": {"data_offsets": [0, ' + b"9" * 5000 + b"]}}"),
        headed(b'{"x": {"data_offsets": 7}}'),
        headed(b'{"x": 7, "__metadata__": []}'),
        headed(b"{\xff\xfe}"),
        b"\x00" * 7,
        b"",
    ],
)
def test_weights_with_a_header_that_lies(content: bytes) -> None:
    with pytest.raises(ValueError) as refused:
        tensor_bytes(io.BytesIO(content), len(content))
    assert not hostile.evil(str(refused.value))


@pytest.mark.parametrize("part", [b"[],", b'"",', b"{},"])
def test_json_of_too_many_parts_is_not_built(part: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """They take up to thirty times as much memory as their text."""
    assert bounded.PARTS == 4_000_000
    monkeypatch.setattr(bounded, "PARTS", 1000)
    assert len(parse_json(b"[" + part * 499 + b"0]")) == 500
    with pytest.raises(BoundError, match="more than 1000 strings, lists and objects"):
        parse_json(b"[" + part * 1000 + b"0]")


@settings(max_examples=examples(10), deadline=None)
@given(random=hostile.seeds)
def test_a_folder_that_holds_anything(folder: Path, random: Random) -> None:
    """A clone of somebody's model, which is to be copied or planned."""
    index = json.dumps({"metadata": {"total_size": 9}, "weight_map": {"x": "model.safetensors"}})
    whole = {
        "config.json": json.dumps(random.choice(KNOWN)).encode(),
        "model.safetensors.index.json": index.encode(),
        "model.safetensors": safetensors(10),
        "tokenizer.json": b"{}",
        "README.md": b"# A model",
    }
    for path in folder.iterdir():
        path.unlink()
    for name, content in whole.items():
        (folder / name).write_bytes(content)
    for _ in range(random.randint(1, 3)):
        _spoil(folder, folder / random.choice(list(whole)), random)
    quickly(lambda: read_folder("m", folder))
    quickly(lambda: small_files(str(folder)))
    copied = quickly(lambda: local_model(str(folder), allow_pickle=random.random() < 0.5))
    if isinstance(copied, LocalModel):
        for file in copied.files:
            assert not hostile.evil(file.name) and ".." not in file.name
            assert file.path.is_relative_to(folder.resolve())


def _spoil(folder: Path, path: Path, random: Random) -> None:
    content = path.read_bytes() if path.is_file() else b"x"
    path.unlink(missing_ok=True)
    match random.randint(0, 7):
        case 0:
            path.symlink_to(random.choice(["/etc/passwd", "../../etc", ".", "nowhere", path.name]))
        case 1:
            os.mkfifo(path)
        case 2:
            at = random.randrange(len(content) + 1)
            path.write_bytes(content[:at])
        case 3:
            at = random.randrange(len(content) + 1)
            path.write_bytes(content[:at] + random.randbytes(9) + content[at:])
        case 4:
            path.write_text(hostile.word(random), errors="replace")
        case 5:
            try:
                value = hostile.odd(random, json.loads(content))
            except (ValueError, RecursionError):
                value = {}
            path.write_text(json.dumps(value))
        case 6:
            path.write_bytes(POINTER)
        case _:
            path.write_bytes(content)
            odd = random.choice(["\x1b]0;owned\x07", "a\nb", "--rf", "$(id)", "\udcff", "x" * 250])
            (folder / odd).write_bytes(b"")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("model")
