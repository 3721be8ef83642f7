"""Another CA in the place of one: no client that took the new file fails, whatever it is."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyrage
import pytest
from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from tests.stores import made
from tests.terminal import Terminal
from tests.unit.projects import BIN, Project
from vllm_hosts.errors import SettingsError
from vllm_hosts.keys import KeyStore, authority
from vllm_hosts.keys.authority import ca_warnings
from vllm_hosts.keys.ca import begin, cancel, finish, phase, trusted
from vllm_hosts.keys.files import locked, write_private
from vllm_hosts.keys.model import Content
from vllm_hosts.keys.pki import LocalCa
from vllm_hosts.keys.store import _dumped

PROD = "inventory/prod.py"
NAME = "llm.example.com"
START = datetime(2026, 11, 26, 9, 0, tzinfo=UTC)
MONTH = timedelta(days=30)


class Clock:
    """What time it is for the store."""

    def __init__(self, now: datetime) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now


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


def file_of(store: KeyStore) -> bytes:
    return (store.folder / "ca.pem").read_bytes()


def accepts(ca_file: bytes, certificate: bytes, now: datetime) -> bool:
    """Whether a client with this CA file talks to a host with this certificate."""
    roots = x509.load_pem_x509_certificates(ca_file)
    verifier = PolicyBuilder().store(Store(roots)).time(now)
    leaf = x509.load_pem_x509_certificate(certificate)
    try:
        verifier.build_server_verifier(x509.DNSName(NAME)).verify(leaf, [])
    except VerificationError:
        return False
    return True


def deployed(store: KeyStore, clock: Clock) -> bytes:
    """What a host has after a deploy now."""
    return store.local_ca().issue([NAME], 365, clock.now).certificate_pem


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

    monkeypatch.setattr(authority, "write_private", cut_off)
    with pytest.raises(KeyboardInterrupt):
        store.local_ca()
    monkeypatch.setattr(authority, "write_private", write)
    assert store.ca_certificate() is not None
    assert accepts(took, deployed(store, clock), clock.now)
    assert len(x509.load_pem_x509_certificates(file_of(store))) == 1


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
    with pytest.raises(SettingsError):
        cancel(Content(), START)
    with pytest.raises(SettingsError):
        finish(Content(), START)
    assert "PRIVATE" not in repr(content)


@pytest.fixture(params=["plain", "encrypted"])
def project(request: pytest.FixtureRequest, tmp_path: Path) -> Project:
    project = Project(tmp_path)
    project.environment = {"HOME": str(tmp_path)}
    made(KeyStore(tmp_path / PROD))
    KeyStore(tmp_path / PROD).local_ca()
    if request.param == "encrypted":
        key = pyrage.x25519.Identity.generate()
        (tmp_path / "identity").write_text(str(key))
        (tmp_path / "identity").chmod(0o600)
        project.environment["VLLM_HOSTS_IDENTITY"] = str(tmp_path / "identity")
        done = project.run("vllm-hosts", "keys", "init", PROD)
        assert done.returncode == 0, done.stdout
    return project


class TestCommand:
    def test_it_asks(self, project: Project) -> None:
        file = project.folder / "inventory/.vllm-hosts/prod/ca.pem"
        before = file.read_bytes()
        done = project.run("vllm-hosts", "keys", "new-ca", PROD)
        assert done.returncode == 2
        assert (
            "confirmation is needed, and there is no terminal to ask on; nothing was changed"
            in done.stdout
        )
        assert file.read_bytes() == before
        argv = [str(BIN / "vllm-hosts"), "keys", "new-ca", PROD]
        environment = {**os.environ, **project.environment}
        with Terminal(argv, project.folder, environment) as terminal:
            terminal.wait_for("Create a new CA for inventory/prod.py?")
            terminal.type("n\n")
            assert terminal.wait() == 1
        assert file.read_bytes() == before

    def test_it_does_not_ask_about_what_cannot_be_done(self, project: Project) -> None:
        for option in ("--cancel", "--finish"):
            done = project.run("vllm-hosts", "keys", "new-ca", PROD, option)
            assert done.returncode == 1
            assert "no new CA is about to take over" in done.stdout
        assert project.run("vllm-hosts", "keys", "new-ca", PROD, "-y").returncode == 0
        done = project.run("vllm-hosts", "keys", "new-ca", PROD)
        assert done.returncode == 1
        assert "a new CA was already created on" in done.stdout
        project.write("inventory/new.py", "gpu_hosts = ['192.0.2.1']")
        done = project.run("vllm-hosts", "keys", "new-ca", "inventory/new.py")
        assert done.returncode == 1
        assert "there is no CA to replace yet" in done.stdout
        assert "Every client" not in done.stdout

    def test_from_its_beginning_to_its_end(self, project: Project) -> None:
        def keys(*words: str) -> str:
            done = project.run("vllm-hosts", "keys", "new-ca", PROD, *words)
            assert done.returncode == 0, done.stdout
            return done.stdout

        file = project.folder / "inventory/.vllm-hosts/prod/ca.pem"
        before = file.read_text()
        by = f"{datetime.now(UTC) + timedelta(days=7):%Y-%m-%d}"
        said = keys("--yes", "--overlap", "7d")
        assert f"They have until {by}" in said
        assert f"1. Now: give every client {file}, which holds both CAs" in said
        assert "pyinfra -y inventory/prod.py deploy.py" in said
        assert file.read_text().startswith(before)
        printed = project.run("vllm-hosts", "ca", PROD).stdout
        assert printed.startswith(file.read_text())
        assert f"clients need this file by {by}" in printed
        shown = project.run("vllm-hosts", "endpoints", PROD).stdout
        assert f"{file} (includes the new CA: give it to clients by {by}" in shown
        done = project.run("vllm-hosts", "keys", "new-ca", PROD, "--yes")
        assert done.returncode == 1
        assert "keys new-ca inventory/prod.py --finish" in done.stdout
        file.write_text(before)
        shown = project.run("vllm-hosts", "endpoints", PROD).stdout
        assert f"write it again: {BIN}" in shown or "write it again: vllm-hosts ca" in shown
        assert "To give hosts certificates from the new CA, run" in keys("--finish", "-y")
        assert len(x509.load_pem_x509_certificates(file.read_bytes())) == 2
        assert "holds only the new CA" in keys("--finish", "-y")
        assert len(x509.load_pem_x509_certificates(file.read_bytes())) == 1
        assert file.read_text() not in before
        assert "withdrawn" in (keys("--yes"), keys("--cancel", "--yes"))[1]

    @pytest.mark.parametrize(
        ("words", "code", "sentence"),
        [
            (["--finish", "--cancel"], 2, "choose one"),
            (["--finish", "--yes"], 1, "create one with: vllm-hosts keys new-ca inventory/prod.py"),
            (["--cancel", "--yes"], 1, "no new CA is about to take over"),
            (["--overlap", "soon"], 2, "write it as 90m, 24h or 30d"),
        ],
    )
    def test_mistakes(self, project: Project, words: list[str], code: int, sentence: str) -> None:
        done = project.run("vllm-hosts", "keys", "new-ca", PROD, *words)
        assert (done.returncode, sentence in done.stdout) == (code, True), done.stdout


def test_where_there_is_no_ca_yet(tmp_path: Path) -> None:
    project = Project(tmp_path)
    done = project.run("vllm-hosts", "keys", "new-ca", PROD, "--yes")
    assert done.returncode == 1
    assert "there is no CA to replace yet; the first deploy creates one" in done.stdout
