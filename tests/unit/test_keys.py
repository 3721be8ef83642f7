"""Keys on the controller: made once, kept, and for their owner's eyes only."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from tests.unit.samples import settings
from vllm_hosts.errors import SettingsError
from vllm_hosts.keys import FileKeyStore, HostKeys

GPU1 = settings()
GPU2 = settings(name="gpu2")


@pytest.fixture
def store(tmp_path: Path) -> FileKeyStore:
    return FileKeyStore(tmp_path / "inventory" / ".vllm-hosts" / "prod")


def values(keys: HostKeys) -> list[str]:
    return [keys.internal.get_secret_value(), *(c.key.get_secret_value() for c in keys.clients)]


def test_keys_are_long_and_stay_the_same(store: FileKeyStore) -> None:
    first = store.host_keys(GPU1)
    again = FileKeyStore(store.folder).host_keys(GPU1)
    assert values(first) == values(again)
    # token_urlsafe(32): 256 bits.
    assert all(len(value) == 43 for value in values(first))


def test_every_host_has_its_own_internal_key_and_the_same_clients(store: FileKeyStore) -> None:
    one, two = store.host_keys(GPU1), store.host_keys(GPU2)
    assert one.internal != two.internal
    assert one.clients == two.clients
    assert len({*values(one), *values(two)}) == 3


def test_the_file_and_its_folder_are_for_the_owner_only(store: FileKeyStore) -> None:
    store.host_keys(GPU1)
    assert stat.S_IMODE(store.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(store.folder.stat().st_mode) == 0o700


@pytest.mark.parametrize("which", ["file", "folder"])
def test_what_others_can_read_is_refused(store: FileKeyStore, which: str) -> None:
    store.host_keys(GPU1)
    (store.path if which == "file" else store.folder).chmod(0o755)
    with pytest.raises(SettingsError, match="open to other users; run: chmod"):
        store.host_keys(GPU1)


def test_no_repr_shows_a_key(store: FileKeyStore) -> None:
    keys = store.host_keys(GPU1)
    shown = f"{keys!r} {keys} {keys.clients!r} {keys.clients[0]} {store!r}"
    assert "default" in shown
    assert not any(value in shown for value in values(keys))


@pytest.mark.parametrize("content", ["{", '{"internal": 7}', '{"more": {}}', "[]"])
def test_a_damaged_file_is_refused_without_showing_it(store: FileKeyStore, content: str) -> None:
    keys = store.host_keys(GPU1)
    secret = keys.internal.get_secret_value()
    store.path.write_text(content + f' "{secret}"' if content == "{" else content)
    with pytest.raises(SettingsError, match="is damaged; restore it from a backup") as refused:
        store.host_keys(GPU1)
    assert secret not in str(refused.value)


def test_an_unknown_client_is_named(store: FileKeyStore) -> None:
    assert len(store.client_key("default").get_secret_value()) == 43
    with pytest.raises(SettingsError, match="no client 'bob'.*there is default"):
        store.client_key("bob")


def test_the_internal_key_may_come_from_the_environment(
    store: FileKeyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = settings(secrets={"internal_key_env": "MY_KEY", "hf_token_env": "MY_TOKEN"})
    monkeypatch.setenv("MY_KEY", "from-a-vault")
    monkeypatch.setenv("MY_TOKEN", "hf_abc")
    keys = store.host_keys(given)
    assert keys.internal.get_secret_value() == "from-a-vault"
    assert keys.hf_token is not None
    assert keys.hf_token.get_secret_value() == "hf_abc"
    assert "from-a-vault" not in store.path.read_text()


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "MY_KEY, which is not set"),
        ("", "MY_KEY, which is empty"),
        ("two words", "spaces, line breaks or other characters"),
        ("a\nb", "spaces, line breaks or other characters"),
        ('quo"te', "spaces, line breaks or other characters"),
        ("dollar$", "spaces, line breaks or other characters"),
    ],
)
def test_an_unusable_key_in_the_environment(
    store: FileKeyStore, monkeypatch: pytest.MonkeyPatch, value: str | None, words: str
) -> None:
    monkeypatch.delenv("MY_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("MY_KEY", value)
    with pytest.raises(SettingsError, match=words) as refused:
        store.host_keys(settings(secrets={"internal_key_env": "MY_KEY"}))
    assert not value or value not in str(refused.value)


def test_two_writers_lose_nothing(store: FileKeyStore) -> None:
    other = FileKeyStore(store.folder)
    store.host_keys(GPU1)
    other.host_keys(GPU2)
    assert set(json.loads(store.path.read_text())["internal"]) == {"gpu1", "gpu2"}
