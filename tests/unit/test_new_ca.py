"""Another CA in the place of one: no client that took the new file fails, whatever it is."""

from __future__ import annotations

import json
import subprocess
from datetime import timedelta
from pathlib import Path

import pyrage
import pytest
from cryptography import x509

from tests.stores import made
from tests.unit.ca_change import MONTH, NAME, PROD, START, Clock, accepts, deployed, file_of
from vllm_hosts.errors import SettingsError
from vllm_hosts.keys import KeyStore, authority
from vllm_hosts.keys.authority import ca_warnings
from vllm_hosts.keys.ca import begin, cancel, finish, phase, trusted
from vllm_hosts.keys.pki import LocalCa
from vllm_hosts.keys.store import _dumped
from vllm_hosts.keys.store_content import Content


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock(START)
    monkeypatch.setattr(authority, "utc_now", clock)
    return clock


@pytest.fixture(params=["plain", "encrypted"])
def store(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> KeyStore:
    """The store of an inventory that was deployed to."""
    (tmp_path / "inventory").mkdir()
    (tmp_path / PROD).write_text("")
    identity = tmp_path / "identity"
    key = pyrage.x25519.Identity.generate()
    identity.write_text(str(key))
    identity.chmod(0o600)
    found = KeyStore(tmp_path / PROD, identity)
    made(found)
    found.local_ca()
    if request.param == "encrypted":
        found.encrypt([str(key.to_public())])
    return found


def test_no_client_that_took_the_new_file_ever_fails(store: KeyStore, clock: Clock) -> None:
    before = file_of(store)
    old_host = deployed(store, clock)
    store.authority.replace(MONTH)
    took = file_of(store)
    assert took != before
    for day in range(95):
        clock.now = START + timedelta(days=day, minutes=1)
        host = deployed(store, clock)
        assert accepts(took, host, clock.now), day
        # A host that nobody deploys to goes on as well.
        assert accepts(took, old_host, clock.now), day
        # Who did not take it fails after the date that was announced, and not before.
        assert accepts(before, host, clock.now) == (day < 30), day
        # Who is given the file now reaches hosts that were not deployed to until the old one ends.
        assert accepts(file_of(store), host, clock.now), day
        assert accepts(file_of(store), old_host, clock.now) == (day < 60), day
    assert len(x509.load_pem_x509_certificates(file_of(store))) == 1
    assert store.peek() is None or store.peek().next_ca is None  # type: ignore[union-attr]


def test_without_an_overlap_it_is_replaced_at_once(store: KeyStore, clock: Clock) -> None:
    before = file_of(store)
    store.authority.replace(timedelta())
    assert not accepts(before, deployed(store, clock), clock.now)
    assert accepts(file_of(store), deployed(store, clock), clock.now)
    assert len(x509.load_pem_x509_certificates(file_of(store))) == 1
    assert store.authority.following() is None


@pytest.mark.parametrize("days", [3, 31])
def test_at_once_in_the_middle_of_a_change(store: KeyStore, clock: Clock, days: int) -> None:
    """Whoever has read the store has the keys of both."""
    store.authority.replace(MONTH)
    clock.now += timedelta(days=days)
    took, host = file_of(store), deployed(store, clock)
    store.authority.replace(timedelta())
    assert not accepts(file_of(store), host, clock.now)
    assert not accepts(took, deployed(store, clock), clock.now)
    assert accepts(file_of(store), deployed(store, clock), clock.now)
    assert store.authority.following() is None


def test_it_is_finished_before_its_time(store: KeyStore, clock: Clock) -> None:
    old_host = deployed(store, clock)
    store.authority.replace(MONTH)
    clock.now += timedelta(days=3)
    took = file_of(store)
    store.authority.finish()
    assert accepts(took, deployed(store, clock), clock.now)
    assert accepts(file_of(store), old_host, clock.now)
    store.authority.finish()
    assert not accepts(file_of(store), old_host, clock.now)
    assert accepts(file_of(store), deployed(store, clock), clock.now)
    with pytest.raises(SettingsError, match="no new CA is about to take over"):
        store.authority.finish()


def test_it_is_taken_back(store: KeyStore, clock: Clock) -> None:
    before, old_host = file_of(store), deployed(store, clock)
    store.authority.replace(MONTH)
    store.authority.cancel()
    assert file_of(store) == before
    clock.now += timedelta(days=90)
    assert accepts(before, deployed(store, clock), clock.now)
    assert accepts(file_of(store), old_host, clock.now)
    with pytest.raises(SettingsError, match="no new CA"):
        store.authority.cancel()


def test_a_store_without_a_change_is_as_it_always_was(store: KeyStore) -> None:
    """An older version refuses what it does not know, as damaged."""
    store.update(lambda content: content.model_copy(update={"internal": {}}))
    assert set(json.loads(_dumped(store.read()))) == {
        *("version", "id", "hosts", "clients", "internal", "ca")
    }
    store.authority.replace(MONTH)
    assert "next_ca" in json.loads(_dumped(store.read()))


def test_not_after_it_has_taken_over(store: KeyStore, clock: Clock) -> None:
    store.authority.replace(MONTH)
    clock.now += MONTH
    with pytest.raises(SettingsError, match="hosts may have certificates from it; to go back"):
        store.authority.cancel()


def test_one_at_a_time(store: KeyStore, clock: Clock) -> None:
    store.authority.replace(MONTH)
    took = file_of(store)
    for days in (0, 31, 59):
        clock.now = START + timedelta(days=days)
        with pytest.raises(SettingsError, match="takes over on 2026-12-26 09:00 UTC"):
            store.authority.replace(MONTH)
    clock.now = START + timedelta(days=61)
    store.authority.replace(MONTH)
    assert accepts(took, deployed(store, clock), clock.now)
    clock.now += MONTH
    assert not accepts(took, deployed(store, clock), clock.now)


def test_openssl_finds_the_right_one_of_two(store: KeyStore, clock: Clock, tmp_path: Path) -> None:
    """Some clients look for a CA by its name: they have two."""
    (tmp_path / "old.pem").write_bytes(deployed(store, clock))
    store.authority.replace(MONTH)
    both = store.folder / "ca.pem"
    names = {one.subject for one in x509.load_pem_x509_certificates(both.read_bytes())}
    assert len(names) == 2
    clock.now += MONTH
    (tmp_path / "new.pem").write_bytes(deployed(store, clock))
    at = str(int(clock.now.timestamp()))
    for host in ("old.pem", "new.pem"):
        words = ["openssl", "verify", "-attime", at, "-CAfile", str(both), "-verify_hostname", NAME]
        done = subprocess.run(
            [*words, str(tmp_path / host)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr


def test_what_verify_warns_of(store: KeyStore, clock: Clock) -> None:
    def warnings(pem: bytes) -> list[str]:
        certificate = x509.load_pem_x509_certificate(pem)
        return list(ca_warnings(store.authority, certificate, "gpu1", clock.now))

    old_host = deployed(store, clock)
    assert warnings(old_host) == []
    store.authority.replace(MONTH)
    assert warnings(old_host) == []
    clock.now += MONTH
    [warning] = warnings(old_host)
    assert "clients stop trusting after 2027-01-25 09:00 UTC" in warning
    assert "deploy.py --limit gpu1" in warning
    assert warnings(deployed(store, clock)) == []
    clock.now += timedelta(days=3650 - 450)
    assert warnings(deployed(store, clock)) == []
    clock.now += timedelta(days=60)
    [warning] = warnings(deployed(store, clock))
    assert "keys new-ca INVENTORY" in warning


def test_a_clone_s_file_is_brought_up_to_date(store: KeyStore, clock: Clock) -> None:
    before = file_of(store)
    store.authority.replace(MONTH)
    took = file_of(store)
    (store.folder / "ca.pem").write_bytes(before)
    store.authority.refresh_file()
    assert file_of(store) == took
    (store.folder / "ca.pem").write_bytes(took)
    clock.now += 3 * MONTH
    store.authority.refresh_file()
    assert len(x509.load_pem_x509_certificates(file_of(store))) == 1


def test_the_phases_are_functions_of_the_time() -> None:
    made = LocalCa.create("prod", START, dated=True)
    content = begin(Content(), made, MONTH, START)
    following = content.next_ca
    assert following is not None
    assert [phase(following, START + days * MONTH) for days in range(3)] == [
        "both",
        "after",
        "over",
    ]
    assert trusted("A\n", None, START) == "A\n"
    assert trusted("A\n", following, START).startswith("A\n")
    assert trusted("A\n", following, START + MONTH).endswith("A\n")
    assert "A" not in trusted("A\n", following, START + 2 * MONTH).replace("CERTIFICATE", "")[:2]
    with pytest.raises(SettingsError, match="already created"):
        begin(content, made, MONTH, START + MONTH)
    for end in (cancel, finish):
        with pytest.raises(SettingsError, match="no new CA"):
            end(Content(), START)
        with pytest.raises(SettingsError, match="no new CA"):
            end(content, START + 2 * MONTH)
    assert "PRIVATE" not in repr(content)
