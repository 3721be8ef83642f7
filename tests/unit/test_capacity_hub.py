"""Asking the hub about models: the real client, a hub on this machine, answers that are kept."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr

from tests.unit.hub_server import HubServer, serving
from vllm_hosts.capacity import ModelFiles
from vllm_hosts.capacity import hub_client as hub_module
from vllm_hosts.capacity.hub_client import HubClient
from vllm_hosts.errors import SettingsError

CONFIG = {"architectures": ["Qwen3ForCausalLM"], "hidden_size": 64}
INDEX = json.dumps({"metadata": {"total_size": 123456}, "weight_map": {}}).encode()
MODEL = "org/model"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    # What huggingface_hub keeps by itself.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf"))
    with serving() as hub:
        hub.add(MODEL, CONFIG, **{"model.safetensors.index.json": INDEX})
        yield hub


@pytest.fixture
def asking(tmp_path: Path) -> Callable[..., HubClient]:
    def make(token: str | None = None, **options: object) -> HubClient:
        given = {"seconds": 10, "folder": tmp_path / "kept", **options}
        secret = SecretStr(token) if token else None
        return HubClient(lambda: secret, **given)  # type: ignore[arg-type]

    return make


def test_config_and_index_are_read(server: HubServer, asking: Callable[..., HubClient]) -> None:
    found = asking().read(MODEL, server.url)
    assert found == ModelFiles(CONFIG, 123456)
    assert not any(".safetensors" in path and "index" not in path for _, path in server.requests)


def test_a_single_file_is_measured_and_not_fetched(
    server: HubServer, asking: Callable[..., HubClient]
) -> None:
    server.add("org/single", CONFIG, **{"model.safetensors": b"x" * 5000})
    assert asking().read("org/single", server.url) == ModelFiles(CONFIG, 5000)
    assert ("GET", "/org/single/resolve/main/model.safetensors") not in server.requests


def test_the_hub_is_asked_once_and_then_not_for_a_week(
    server: HubServer, asking: Callable[..., HubClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = asking()
    first = hub.read(MODEL, server.url)
    before = server.asked(MODEL)
    assert hub.read(MODEL, server.url) == first
    assert asking().read(MODEL, server.url) == first
    assert server.asked(MODEL) == before
    monkeypatch.setattr(hub_module, "_FRESH", timedelta())
    assert asking().read(MODEL, server.url) == first
    assert server.asked(MODEL) > before


def test_offline_takes_what_is_kept_and_asks_nobody(
    server: HubServer, asking: Callable[..., HubClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = asking(offline=True).read(MODEL, server.url)
    assert isinstance(said, str)
    assert "the hub was not queried (--offline)" in said
    assert server.requests == []
    asking().read(MODEL, server.url)
    before = len(server.requests)
    monkeypatch.setattr(hub_module, "_FRESH", timedelta())
    assert asking(offline=True).read(MODEL, server.url) == ModelFiles(CONFIG, 123456)
    assert len(server.requests) == before


def test_another_hub_s_answer_is_another(
    server: HubServer, asking: Callable[..., HubClient]
) -> None:
    asking().read(MODEL, server.url)
    with serving() as other:
        other.add(MODEL, {**CONFIG, "hidden_size": 128})
        found = asking().read(MODEL, other.url)
    assert isinstance(found, ModelFiles)
    assert found.config["hidden_size"] == 128


def test_a_model_that_does_not_exist(server: HubServer, asking: Callable[..., HubClient]) -> None:
    said = asking().read("org/nothing", server.url)
    assert said == (
        "the hub has no model org/nothing, or shows it to nobody without a token; check the name,"
        " or set secrets.hf_token_env"
    )


def test_a_gated_model_without_a_token(
    server: HubServer, asking: Callable[..., HubClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    server.gated.add(MODEL)
    said = asking().read(MODEL, server.url)
    assert isinstance(said, str)
    assert said.startswith("org/model is gated: accept its terms on the hub, and set secrets.")
    # A token never travels without TLS. This hub has none, so that is switched off for once.
    said = asking(token=server.token).read(MODEL, server.url)
    assert "is gated" in str(said)
    monkeypatch.setattr(hub_module, "_in_the_clear", lambda endpoint: False)
    assert isinstance(asking(token=server.token).read(MODEL, server.url), ModelFiles)
    said = asking(token="hf_wrong_token").read("org/nothing", server.url)
    assert "hf_wrong_token" not in str(said)


def test_a_model_without_a_config(server: HubServer, asking: Callable[..., HubClient]) -> None:
    server.files["org/gguf", "model.gguf"] = b""
    said = asking().read("org/gguf", server.url)
    assert said == "org/gguf has no config.json on the hub, and cannot be planned"


def test_a_damaged_config(server: HubServer, asking: Callable[..., HubClient]) -> None:
    server.files["org/bad", "config.json"] = b"{"
    assert "the config.json of org/bad is not JSON" in str(asking().read("org/bad", server.url))


def test_a_hub_that_is_not_there_costs_its_time_once(asking: Callable[..., HubClient]) -> None:
    with serving() as server:
        server.hold = threading.Event()
        hub = asking(seconds=0.5, rest=timedelta(hours=1))
        started = time.monotonic()
        said = hub.read(MODEL, server.url)
        assert said == "the hub did not answer within 0.5 s when queried for org/model"
        assert time.monotonic() - started < 3
        asked = len(server.requests)
        again = hub.read("org/other", server.url)
        next_run = asking(seconds=0.5, rest=timedelta(hours=1)).read(MODEL, server.url)
        assert "did not answer a while ago" in str(again)
        assert "did not answer a while ago" in str(next_run)
        assert len(server.requests) == asked


def test_a_refused_connection_is_a_sentence(asking: Callable[..., HubClient]) -> None:
    with serving() as server:
        url = server.url
    said = asking().read(MODEL, url)
    assert isinstance(said, str)
    assert said.startswith("the hub could not be queried for org/model: ")


def test_a_token_that_cannot_be_had_is_a_sentence(tmp_path: Path) -> None:
    def broken() -> SecretStr:
        raise SettingsError(["secrets.hf_token_command: pass ended with 1"])

    hub = HubClient(broken, seconds=5, folder=tmp_path)
    said = hub.read(MODEL, "https://127.0.0.1:1")
    assert said == "secrets.hf_token_command: pass ended with 1"


def test_damaged_answers_on_the_disk_are_asked_for_again(
    server: HubServer, asking: Callable[..., HubClient], tmp_path: Path
) -> None:
    asking().read(MODEL, server.url)
    for path in (tmp_path / "kept").glob("*.json"):
        path.write_text("{")
    assert asking().read(MODEL, server.url) == ModelFiles(CONFIG, 123456)
