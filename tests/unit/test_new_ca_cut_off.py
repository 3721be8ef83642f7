"""A change of the CA that another run meets half way, or that is cut off: no key is lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pyrage
import pytest
from cryptography import x509

from tests.stores import made
from tests.unit.ca_change import MONTH, PROD, START, Clock, accepts, deployed, file_of
from vllm_hosts.keys import KeyStore, authority
from vllm_hosts.keys.private_files import locked, write_private
from vllm_hosts.keys.store_content import Content


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock(START)
    monkeypatch.setattr(authority, "utc_now", clock)
    return clock


@pytest.fixture
def ending(tmp_path: Path, clock: Clock) -> KeyStore:
    """A store in files, whose change of CA is over, and was not put away yet."""
    (tmp_path / "inventory").mkdir()
    (tmp_path / PROD).write_text("")
    store = KeyStore(tmp_path / PROD)
    made(store)
    store.local_ca()
    store.authority.replace(MONTH)
    clock.now = START + 3 * MONTH
    return store


def test_a_run_that_comes_late_brings_no_ca_back(
    ending: KeyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one has replaced that CA meanwhile, since its key got out."""
    real = locked

    @contextmanager
    def late(folder: Path) -> Iterator[None]:
        monkeypatch.setattr(authority, "locked", real)
        ending.authority.replace(timedelta())
        newest.append(ending.local_ca().certificate_pem)
        with real(folder):
            yield

    newest: list[bytes] = []
    monkeypatch.setattr(authority, "locked", late)
    ending.authority.settle()
    assert ending.local_ca().certificate_pem == newest[0]
    assert file_of(ending) == newest[0]


def test_a_run_that_comes_late_takes_no_new_change_back(
    ending: KeyStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = ending.read().next_ca
    assert before is not None
    later = before.model_copy(update={"takes_over": clock.now + MONTH})
    later = later.model_copy(update={"old_ends": clock.now + 2 * MONTH})
    real = KeyStore.update

    def late(store: KeyStore, change: Callable[[Content], Content]) -> Content:
        monkeypatch.setattr(KeyStore, "update", real)
        store.update(lambda content: content.model_copy(update={"next_ca": later}))
        return store.update(change)

    monkeypatch.setattr(KeyStore, "update", late)
    ending.authority.settle()
    assert ending.read().next_ca == later


def test_a_change_that_is_encrypted_half_way(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "inventory").mkdir()
    key = pyrage.x25519.Identity.generate()
    (tmp_path / "identity").write_text(str(key))
    (tmp_path / "identity").chmod(0o600)
    store = KeyStore(tmp_path / PROD, tmp_path / "identity")
    made(store)
    store.local_ca()
    old_host = deployed(store, clock)
    store.authority.replace(MONTH)
    took = file_of(store)
    clock.now += MONTH + timedelta(days=1)
    store.encrypt([str(key.to_public())])
    assert store.encrypted
    assert not (store.folder / "ca.key").exists()
    assert accepts(took, deployed(store, clock), clock.now)
    assert accepts(file_of(store), old_host, clock.now)
    clock.now += MONTH
    assert accepts(file_of(store), deployed(store, clock), clock.now)


@pytest.mark.parametrize("written", ["ca.pem", "ca.key", "ca.pem again"])
def test_it_may_be_cut_off_anywhere(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, written: str
) -> None:
    """The files of a plain store are put in their place one by one."""
    (tmp_path / "inventory").mkdir()
    store = KeyStore(tmp_path / PROD)
    made(store)
    store.local_ca()
    store.authority.replace(MONTH)
    took = file_of(store)
    clock.now += 3 * MONTH
    left = ["ca.pem", "ca.key", "ca.pem again"].index(written)
    write = write_private
    calls: list[Path] = []

    def cut_off(path: Path, content: bytes) -> None:
        calls.append(path)
        write(path, content)
        if len(calls) == left + 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(authority, "keep_private", cut_off)
    with pytest.raises(KeyboardInterrupt):
        store.local_ca()
    monkeypatch.setattr(authority, "keep_private", write)
    assert store.ca_certificate() is not None
    assert accepts(took, deployed(store, clock), clock.now)
    assert len(x509.load_pem_x509_certificates(file_of(store))) == 1
