"""Files of the controller when others share the machine: for their owner only, at any umask."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pyrage
import pytest

from tests.stores import made
from vllm_hosts.capacity.hub_client import _keep
from vllm_hosts.errors import SettingsError
from vllm_hosts.keys import KeyStore


@pytest.fixture
def no_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> KeyStore:
    identity = pyrage.x25519.Identity.generate()
    file = tmp_path / "identity"
    file.write_text(f"{identity}\n")
    monkeypatch.setenv("VLLM_HOSTS_IDENTITY", str(file))
    place = tmp_path / "project" / "inventory"
    place.mkdir(parents=True)
    (tmp_path / "project").chmod(0o755)
    place.chmod(0o755)
    found = KeyStore(place / "prod.py")
    found.recipient = str(identity.to_public())  # type: ignore[attr-defined]
    return found


def encrypted(store: KeyStore) -> KeyStore:
    store.encrypt([store.recipient])  # type: ignore[attr-defined]
    return store


def open_to_others(folder: Path) -> list[str]:
    return [
        str(path)
        for path in (folder, *folder.rglob("*"))
        if stat.S_IMODE(path.lstat().st_mode) & 0o077
    ]


@pytest.mark.usefixtures("no_umask")
def test_nothing_is_left_open_where_there_is_no_umask(store: KeyStore, tmp_path: Path) -> None:
    made(store)
    store.local_ca()
    assert open_to_others(store.folder.parent) == []
    encrypted(store)
    assert open_to_others(store.encrypted_path.parent) == []
    assert open_to_others(store.folder.parent) == []
    _keep(tmp_path / "cache" / "vllm-hosts" / "models" / "x.json", {})
    assert open_to_others(tmp_path / "cache") == []


@pytest.mark.parametrize("mode", [0o020, 0o002])
@pytest.mark.parametrize("what", ["folder", "store", "recipients"])
def test_an_encrypted_store_that_others_can_write_is_refused(
    store: KeyStore, what: str, mode: int
) -> None:
    encrypted(store)
    path = {
        "folder": store.encrypted_path.parent,
        "store": store.encrypted_path,
        "recipients": store.recipients_path,
    }[what]
    path.chmod(path.stat().st_mode | mode)
    for use in (store.read, store.recipients, lambda: store.set_recipients(["x"])):
        with pytest.raises(SettingsError) as refused:
            use()
        assert refused.value.problems == [
            f"{path} can be written by other users; run: chmod go-w {path}"
        ]
    path.chmod(path.stat().st_mode & ~mode)
    assert len(store.recipients()) == 1
    store.read()


def test_a_folder_above_the_store_that_others_can_write_is_refused(store: KeyStore) -> None:
    made(store)
    store.folder.parent.chmod(0o777)
    with pytest.raises(SettingsError, match="chmod go-w .*vllm-hosts"):
        made(store)
    # As it was made by earlier versions, readable by others: what is in it is not.
    store.folder.parent.chmod(0o755)
    made(store)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to give a file to somebody else")
def test_recipients_of_another_user_are_refused(store: KeyStore) -> None:
    encrypted(store)
    os.chown(store.recipients_path, 12345, -1)
    with pytest.raises(SettingsError, match="belongs to another user"):
        store.recipients()
