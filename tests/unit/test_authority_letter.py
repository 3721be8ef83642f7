"""The CA that signs, its file for clients, and its change, where runs cross or a clone is old."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pyrage
import pytest
from cryptography import x509
from pydantic import SecretStr

from tests.stores import made
from tests.unit.ca_change import MONTH, NAME, PROD, START, Clock, accepts, deployed, file_of
from tests.unit.test_store import locked_by_us
from vllm_hosts.errors import SettingsError
from vllm_hosts.keys import KeyStore, authority
from vllm_hosts.keys.authority import Authority, ca_warnings
from vllm_hosts.keys.pki import LocalCa
from vllm_hosts.keys.private_files import locked, write_private

OVER = 2 * MONTH + timedelta(days=1)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock(START)
    monkeypatch.setattr(authority, "utc_now", clock)
    return clock


@pytest.fixture
def bare(tmp_path: Path, clock: Clock) -> KeyStore:
    """A store of which nothing was deployed yet."""
    (tmp_path / "inventory").mkdir(mode=0o755)
    store = KeyStore(tmp_path / PROD)
    made(store)
    return store


@pytest.fixture
def plain(bare: KeyStore) -> KeyStore:
    bare.local_ca()
    return bare


@pytest.fixture
def encrypted(plain: KeyStore, tmp_path: Path) -> KeyStore:
    key = pyrage.x25519.Identity.generate()
    identity = tmp_path / "identity"
    identity.write_text(str(key))
    store = KeyStore(tmp_path / PROD, identity)
    store.encrypt([str(key.to_public())])
    return store


def cas(pem: bytes | None) -> int:
    return len(x509.load_pem_x509_certificates(pem)) if pem else 0


def sentence(found: pytest.ExceptionInfo[SettingsError]) -> str:
    [problem] = found.value.problems
    return problem


class TestEncrypted:
    """Such a store holds the CA itself; its folder may be missing in a clone."""

    def test_a_ca_is_kept_in_it_once(self, encrypted: KeyStore, clock: Clock) -> None:
        encrypted.update(lambda content: content.model_copy(update={"ca": None}))
        (encrypted.folder / "ca.pem").unlink()
        assert encrypted.authority.trusted() is None
        first, second = (LocalCa.create("prod", clock.now) for _ in range(2))
        for one in (first, second):
            assert encrypted.authority.keep(one).certificate == first.certificate
        assert encrypted.local_ca().certificate == first.certificate
        assert file_of(encrypted) == first.certificate_pem

    def test_a_clone_gets_its_file_and_its_folder(self, encrypted: KeyStore) -> None:
        before = file_of(encrypted)
        for again in (encrypted.authority.refresh_file, encrypted.authority.settle):
            shutil.rmtree(encrypted.folder)
            again()
            assert file_of(encrypted) == before
            assert encrypted.folder.stat().st_mode & 0o777 == 0o700

    def test_what_is_up_to_date_is_not_written(self, encrypted: KeyStore) -> None:
        before = (encrypted.folder / "ca.pem").stat()
        encrypted.authority.refresh_file()
        assert (encrypted.folder / "ca.pem").stat() == before


@pytest.mark.parametrize("kind", ["plain", "encrypted"])
class TestChange:
    @pytest.fixture
    def store(self, kind: str, request: pytest.FixtureRequest) -> KeyStore:
        found: KeyStore = request.getfixturevalue(kind)
        return found

    def test_who_replaces_it_learns_of_the_new_one(self, store: KeyStore, clock: Clock) -> None:
        following = store.authority.replace(MONTH)
        assert following == store.authority.following()
        assert (following.takes_over, following.old_ends) == (START + MONTH, START + 2 * MONTH)
        finished = store.authority.finish()
        assert finished.takes_over == clock.now

    def test_once_it_is_over_the_new_one_is_the_present_one(
        self, store: KeyStore, clock: Clock
    ) -> None:
        following = store.authority.replace(MONTH)
        clock.now += OVER
        # Nobody has deployed since.
        assert store.authority.following() is None
        present = store.authority.present()
        assert present is not None
        assert present.certificate_pem.decode() == following.certificate
        assert store.read().next_ca is None

    def test_another_change_begins_with_what_the_last_one_has_left(
        self, store: KeyStore, clock: Clock
    ) -> None:
        store.authority.replace(MONTH)
        clock.now += OVER
        took = store.authority.trusted()
        assert took is not None and cas(took) == 1
        store.authority.replace(MONTH)
        assert accepts(took, deployed(store, clock), clock.now)

    def test_a_second_one_is_refused_before_anything_is_made(
        self, store: KeyStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store.authority.replace(MONTH)
        before = store.read(), file_of(store)
        monkeypatch.setattr(LocalCa, "create", None)
        for refused in (store.authority.check_replace, store.authority.replace):
            with pytest.raises(SettingsError) as found:
                refused(MONTH)
            assert "a new CA was already created" in sentence(found)
        assert (store.read(), file_of(store)) == before
        # Without an overlap it may be replaced at any time.
        store.authority.check_replace(timedelta())

    def test_a_new_one_that_is_damaged_is_named(self, store: KeyStore, clock: Clock) -> None:
        following = store.authority.replace(MONTH)
        damaged = following.model_copy(update={"key": SecretStr("x")})
        store.update(lambda content: content.model_copy(update={"next_ca": damaged}))
        store.authority.check_replace(timedelta())
        clock.now += MONTH
        with pytest.raises(SettingsError, match=f"the new CA in {store.path}"):
            store.authority.found()


def test_without_a_ca_there_is_none_to_replace(bare: KeyStore) -> None:
    for refused in (bare.authority.check_replace, bare.authority.replace):
        with pytest.raises(SettingsError) as found:
            refused(MONTH)
        assert sentence(found) == ("there is no CA to replace yet; the first deploy creates one")
    bare.authority.refresh_file()
    assert not (bare.folder / "ca.pem").exists()


def test_a_file_with_words_around_its_certificate_is_read(plain: KeyStore) -> None:
    path = plain.folder / "ca.pem"
    path.write_bytes("# Bürgeramt\n".encode() + path.read_bytes())
    assert cas(plain.authority.trusted()) == 1


class TestRunsThatCross:
    """A change that is over is completed in files, by one run, once."""

    @pytest.fixture
    def over(self, plain: KeyStore, clock: Clock) -> KeyStore:
        plain.authority.replace(MONTH)
        clock.now += OVER
        return plain

    def test_nobody_else_writes_meanwhile(
        self, over: KeyStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: list[tuple[str, bool]] = []

        def written(path: Path, data: bytes) -> None:
            seen.append((path.name, locked_by_us(over)))
            write_private(path, data)

        monkeypatch.setattr(authority, "keep_private", written)
        over.authority.settle()
        assert seen == [("ca.pem", True), ("ca.key", True), ("ca.pem", False)]

    @pytest.mark.parametrize("gone", [False, True])
    def test_one_that_another_run_has_completed_is_left_alone(
        self, over: KeyStore, clock: Clock, monkeypatch: pytest.MonkeyPatch, gone: bool
    ) -> None:
        lock = locked

        @contextmanager
        def after_another(folder: Path) -> Iterator[None]:
            monkeypatch.setattr(authority, "locked", lock)
            Authority(over).replace(timedelta())
            Authority(over).settle()
            if gone:
                over.plain_path.unlink()
            with lock(folder):
                yield

        monkeypatch.setattr(authority, "locked", after_another)
        over.authority.settle()
        monkeypatch.setattr(authority, "locked", lock)
        signer = over.authority.found()
        assert signer is not None
        # The later CA is in the files, and clients who take them now reach who is deployed to now.
        assert accepts(
            file_of(over), signer.issue([NAME], 365, clock.now).certificate_pem, clock.now
        )
        assert cas(file_of(over)) == 1


def test_a_ca_that_ends_soon_is_told_of_in_time(plain: KeyStore, clock: Clock) -> None:
    host = x509.load_pem_x509_certificate(deployed(plain, clock))
    signer = plain.authority.found()
    assert signer is not None
    early = signer.certificate.not_valid_after_utc - timedelta(days=400)
    assert list(ca_warnings(plain.authority, host, "gpu1", early)) == []
    late = early + timedelta(seconds=1)
    [warning] = ca_warnings(plain.authority, host, "gpu1", late)
    assert warning == (
        f"the local CA expires on {signer.certificate.not_valid_after_utc:%Y-%m-%d}, and with it"
        " every certificate that it signed; create another in time: vllm-hosts keys new-ca"
        " INVENTORY"
    )


def test_without_a_ca_of_ours_nothing_is_told(bare: KeyStore, clock: Clock) -> None:
    host = LocalCa.create("prod", clock.now).certificate
    assert list(ca_warnings(bare.authority, host, "gpu1", clock.now)) == []
