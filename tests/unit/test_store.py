"""The one file of secrets: where it lies, and what a change that goes wrong leaves of it."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pyrage
import pytest

from tests.stores import made
from tests.unit.samples import settings
from vllm_hosts.errors import SettingsError
from vllm_hosts.keys import KeyStore, age, store_content
from vllm_hosts.keys import store as module
from vllm_hosts.keys.pki import CA_KEY_FILE, utc_now
from vllm_hosts.keys.private_files import LOCK_FILE, locked, write_private
from vllm_hosts.keys.store_content import Content, new_content


class Person:
    """Somebody who can open files."""

    def __init__(self, folder: Path, name: str) -> None:
        identity = pyrage.x25519.Identity.generate()
        self.file = folder / name
        self.file.write_text(f"{identity}\n")
        self.recipient = str(identity.to_public())


@pytest.fixture
def alice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Person:
    person = Person(tmp_path, "alice")
    monkeypatch.setenv(age.IDENTITY_ENV, str(person.file))
    return person


@pytest.fixture
def inventory(tmp_path: Path) -> Path:
    """Of a project of which nothing is there yet but the inventory's folder."""
    (tmp_path / "project/inventory").mkdir(parents=True)
    for folder in ("project", "project/inventory"):
        (tmp_path / folder).chmod(0o755)
    return tmp_path / "project/inventory/prod.py"


@pytest.fixture
def store(inventory: Path) -> KeyStore:
    return KeyStore(inventory)


def files(folder: Path) -> dict[str, bytes]:
    found = [path for path in folder.rglob("*") if path.is_file() and path.name != LOCK_FILE]
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def problem(do: Callable[[], object]) -> str:
    with pytest.raises(SettingsError) as refused:
        do()
    [sentence] = refused.value.problems
    return sentence


def with_client(name: str) -> Callable[[Content], Content]:
    return lambda content: store_content.add_client(content, name, utc_now())


def locked_by_us(store: KeyStore) -> bool:
    with open(store.folder / LOCK_FILE, "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@pytest.mark.parametrize(
    ("inventory", "encrypted"),
    [
        ("inventory/prod.py", "keys/prod.age"),
        ("inventories/prod.py", "keys/prod.age"),
        ("prod.py", "keys/prod.age"),
        ("hosts/prod.py", "hosts/keys/prod.age"),
        ("inventory/eu/prod.py", "inventory/eu/keys/prod.age"),
    ],
)
def test_where_secrets_lie(tmp_path: Path, inventory: str, encrypted: str) -> None:
    path = tmp_path / inventory
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    (tmp_path / "link.py").symlink_to(path)
    for found in (KeyStore(path), KeyStore(tmp_path / "link.py")):
        assert found.name == "prod"
        assert found.plain_path == path.parent / ".vllm-hosts/prod/keys.json"
        assert found.encrypted_path == tmp_path / encrypted
        assert found.recipients_path == (tmp_path / encrypted).with_name("prod.recipients")
        assert found.path == found.plain_path


def test_looking_makes_nothing(store: KeyStore, tmp_path: Path) -> None:
    assert store.peek() is None
    assert store.ca_certificate() is None
    sentence = (
        f"there is no key store for the inventory 'prod' in {store.folder} or"
        f" {store.encrypted_path}; its first deploy creates one, and so does: vllm-hosts keys add."
        " If the inventory was renamed or copied, see docs/inventories.md"
    )
    assert problem(store.read) == sentence
    assert problem(lambda: store.update(with_client("bob"))) == sentence
    assert list((tmp_path / "project").rglob("*")) == [store.folder.parent.parent]


def test_a_clone_without_a_state_folder_can_be_read(
    store: KeyStore, alice: Person, tmp_path: Path
) -> None:
    made(store)
    store.encrypt([alice.recipient])
    content = store.read()
    for path in store.folder.iterdir():
        path.unlink()
    store.folder.rmdir()
    assert KeyStore(tmp_path / "project/inventory/prod.py").read() == content
    assert not store.folder.exists()


def test_what_others_may_enter_is_not_even_read(store: KeyStore) -> None:
    made(store)
    store.folder.chmod(0o711)
    words = f"{store.folder} is open to other users; run: chmod 700 {store.folder}"
    assert problem(store.read) == problem(store.peek) == words


def test_a_change_is_written_and_no_change_is_not(store: KeyStore) -> None:
    first = made(store)
    before = store.path.stat()
    assert store.update(lambda content: content) == first
    assert store.path.stat().st_ino == before.st_ino
    changed = store.update(with_client("bob"))
    assert "bob" in changed.clients
    assert store.read() == changed
    # What a store begins with is for one that is not there.
    assert store.update(lambda content: content, start=new_content(utc_now())) == changed


def test_a_writer_sees_what_another_one_has_just_written(
    store: KeyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(store)

    @contextmanager
    def after_another(folder: Path) -> Iterator[None]:
        monkeypatch.setattr(module, "locked", locked)
        store.update(with_client("first"))
        with locked(folder):
            yield

    def second(content: Content) -> Content:
        assert locked_by_us(store)
        return with_client("second")(content)

    monkeypatch.setattr(module, "locked", after_another)
    assert {"first", "second"} <= set(store.update(second).clients)


def test_a_store_that_is_moved_away_meanwhile_is_not_begun_anew(
    store: KeyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(store)

    @contextmanager
    def moved(folder: Path) -> Iterator[None]:
        store.path.unlink()
        yield

    monkeypatch.setattr(module, "locked", moved)
    assert problem(lambda: store.update(with_client("bob"))).startswith("there is no key store")
    assert not store.path.exists()


@pytest.mark.parametrize("encrypted", [False, True])
def test_a_change_that_cannot_be_written_leaves_the_store_as_it_was(
    store: KeyStore, alice: Person, monkeypatch: pytest.MonkeyPatch, encrypted: bool
) -> None:
    made(store)
    if encrypted:
        store.encrypt([alice.recipient])
    before = store.read()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    sentence = problem(lambda: store.update(with_client("bob")))
    why = f"{store.path} cannot be written: No space left on device; it is unchanged"
    assert sentence == why
    assert store.read() == before


def test_a_host_that_was_never_deployed_to_has_no_keys(store: KeyStore) -> None:
    made(store)
    host = settings(name="gpu7")
    words = f"{store.path} has no key for gpu7; deploy to it first"
    assert problem(lambda: store.host_keys(host)) == words
    content = store.update(
        lambda content: store_content.with_internal(content, ["gpu7"], utc_now())
    )
    assert store.host_keys(host).internal == content.internal["gpu7"].value


def test_a_client_s_key_is_the_newest_that_has_not_ended(
    store: KeyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(store)
    now = utc_now()
    store.update(lambda old: store_content.add_client(old, "bob", now, lifetime=timedelta(hours=2)))
    content = store.update(lambda old: store_content.rotate(old, "bob", now, timedelta(hours=1)))
    assert store.client_key("bob") == content.client("bob").keys[-1].value
    monkeypatch.setattr(module, "utc_now", lambda: now + timedelta(hours=3))
    assert problem(lambda: store.client_key("bob")) == (
        "all keys of client 'bob' have expired; rotate them"
    )


def test_what_an_older_version_does_not_know_is_left_out_where_it_is_not_used(
    store: KeyStore,
) -> None:
    made(store)
    text = store.path.read_text()
    assert text.endswith("}\n")
    # People compare versions of it: a line for each thing.
    assert '\n  "clients": {\n' in text
    assert not {"next_ca", "renew"} & set(json.loads(text))
    store.local_ca()
    store.authority.replace(timedelta(days=9))
    content = store.update(lambda old: old.model_copy(update={"renew": {"gpu1": utc_now()}}))
    assert content.next_ca is not None
    assert store.read() == content


class TestEncryption:
    def test_everything_moves_and_nothing_is_lost(self, store: KeyStore, alice: Person) -> None:
        before = made(store)
        own = store.local_ca()
        store.encrypt([alice.recipient])
        assert store.encrypted and store.path == store.encrypted_path
        content = store.read()
        assert content.ca is not None
        assert content.model_copy(update={"ca": None}) == before
        assert store.local_ca().certificate_pem == own.certificate_pem
        assert store.ca_certificate() == own.certificate_pem
        # No secret is left in the clear.
        assert sorted(files(store.folder)) == ["ca.pem"]
        assert set(files(store.encrypted_path.parent)) == {"prod.age", "prod.recipients"}
        assert store.recipients_path.read_text() == (
            f"# Who can decrypt prod.age: age recipients and SSH public keys.\n{alice.recipient}\n"
        )

    def test_the_ca_stays_the_same_from_call_to_call(self, store: KeyStore, alice: Person) -> None:
        store.encrypt([alice.recipient])
        first = store.local_ca().certificate_pem
        assert KeyStore(store.folder.parents[1] / "prod.py").local_ca().certificate_pem == first

    def test_a_change_stays_encrypted_to_the_same_people(
        self, store: KeyStore, alice: Person, tmp_path: Path
    ) -> None:
        bob = Person(tmp_path, "bob")
        made(store)
        store.encrypt([alice.recipient, bob.recipient])
        content = store.update(with_client("carol"))
        assert not store.plain_path.exists()
        assert store.recipients() == [alice.recipient, bob.recipient]
        for person in (alice, bob):
            assert KeyStore(tmp_path / "project/inventory/prod.py", person.file).read() == content

    def test_it_is_done_once(self, store: KeyStore, alice: Person, tmp_path: Path) -> None:
        made(store)
        words = "the keys of prod are not encrypted; see vllm-hosts keys init"
        assert problem(store.recipients) == words
        store.encrypt([alice.recipient])
        before = files(tmp_path / "project")
        words = f"{store.encrypted_path} exists; see vllm-hosts keys recipients"
        assert problem(lambda: store.encrypt([Person(tmp_path, "b").recipient])) == words
        assert files(tmp_path / "project") == before

    def test_what_nobody_here_could_open_is_taken_back(
        self, store: KeyStore, alice: Person, tmp_path: Path
    ) -> None:
        made(store)
        store.local_ca()
        before = files(tmp_path / "project")
        bob = Person(tmp_path, "bob")
        assert "no identity fits" in problem(lambda: store.encrypt([bob.recipient]))
        assert files(tmp_path / "project") == before

    def test_a_recipient_that_is_none_is_refused_before_anything_is_made(
        self, store: KeyStore, alice: Person, tmp_path: Path
    ) -> None:
        before = files(tmp_path / "project")
        assert "is not a recipient" in problem(lambda: store.encrypt(iter([alice.recipient, "no"])))
        assert files(tmp_path / "project") == before == {}

    def test_a_folder_that_others_can_write_is_refused_first(
        self, store: KeyStore, alice: Person, tmp_path: Path
    ) -> None:
        store.encrypted_path.parent.mkdir()
        store.encrypted_path.parent.chmod(0o777)
        assert "can be written by other users" in problem(lambda: store.encrypt([alice.recipient]))
        assert files(tmp_path / "project") == {}

    def test_the_plain_file_goes_last(
        self, store: KeyStore, alice: Person, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made(store)
        store.local_ca()
        seen = []

        def write(path: Path, data: bytes) -> None:
            plain = (store.plain_path, store.folder / CA_KEY_FILE)
            seen.append((path.name, locked_by_us(store), all(one.exists() for one in plain)))
            write_private(path, data)

        monkeypatch.setattr(module, "keep_private", write)
        store.encrypt([alice.recipient])
        assert seen == [("prod.recipients", True, True), ("prod.age", True, True)]
        assert not store.plain_path.exists()

    def test_recipients_are_exactly_those_that_are_given(
        self, store: KeyStore, alice: Person, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        bob = Person(tmp_path, "bob")
        made(store)
        store.encrypt([alice.recipient])
        content = store.read()
        before = files(tmp_path / "project")
        assert "is not a recipient" in problem(lambda: store.set_recipients([bob.recipient, "no"]))
        assert files(tmp_path / "project") == before

        held = []

        def write(path: Path, data: bytes) -> None:
            held.append(locked_by_us(store))
            write_private(path, data)

        monkeypatch.setattr(module, "keep_private", write)
        store.set_recipients([bob.recipient])
        assert held == [True, True]
        assert "no identity fits" in problem(store.read)
        # The identity that a command names comes before that of the environment.
        bobs = KeyStore(tmp_path / "project/inventory/prod.py", bob.file)
        assert bobs.read() == content
        assert bobs.recipients() == [bob.recipient]
