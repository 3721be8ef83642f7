"""A store as a run uses it: in memory until a host turns out to be ours, and then on the disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.stores import made
from tests.unit.samples import settings
from vllm_hosts.errors import SettingsError
from vllm_hosts.keys import KeyStore, OpenedStore
from vllm_hosts.keys.pki import LocalCa, utc_now
from vllm_hosts.keys.places import CA_FILE
from vllm_hosts.keys.store_content import DeployedHost, add_client, with_internal

WAY = DeployedHost(data={"ssh_port": 22})
OTHER_WAY = DeployedHost(data={"ssh_port": 2222})


@pytest.fixture
def store(tmp_path: Path) -> KeyStore:
    (tmp_path / "inventory").mkdir(mode=0o755)
    return KeyStore(tmp_path / "inventory/prod.py")


def key(opened: OpenedStore, host: str = "gpu1") -> str:
    return opened.host_keys(settings(name=host)).internal.get_secret_value()


class TestLooking:
    def test_a_dry_run_leaves_nothing_behind(self, store: KeyStore) -> None:
        opened = OpenedStore(store)
        assert opened.new
        assert len(opened.store_id) == 32
        assert (opened.store_id, opened.folder) == (opened.content.id, store.folder)
        assert key(opened) == key(opened) != key(opened, "gpu2")
        assert opened.local_ca() is opened.local_ca()
        [default] = opened.client_keys("gpu1")
        assert default.client == "default"
        assert opened.anothers == set()
        assert not opened.kept("gpu1", WAY)
        assert list(store.folder.parent.parent.iterdir()) == []

    def test_what_is_there_is_used(self, store: KeyStore) -> None:
        content = made(store)
        ca = store.local_ca()
        opened = OpenedStore(store)
        assert not opened.new
        assert opened.content == content
        assert opened.local_ca().certificate == ca.certificate

    def test_a_key_that_a_host_has_stays(self, store: KeyStore) -> None:
        made(store)
        store.update(lambda content: with_internal(content, ["gpu1"], utc_now()))
        mine = store.read().internal["gpu1"].value.get_secret_value()
        opened = OpenedStore(store)
        opened.make_key("gpu1")
        assert key(opened) == mine

    def test_clients_of_one_host(self, store: KeyStore) -> None:
        made(store)
        store.update(lambda content: add_client(content, "bob", utc_now(), hosts=("gpu2",)))
        opened = OpenedStore(store)
        assert [one.client for one in opened.client_keys("gpu1")] == ["default"]
        assert [one.client for one in opened.client_keys("gpu2")] == ["bob", "default"]


class TestKeeping:
    def test_a_host_that_is_ours_is_recorded_with_all_that_it_gets(self, store: KeyStore) -> None:
        opened = OpenedStore(store)
        made_key, ca = key(opened), opened.local_ca()
        key(opened, "gpu2")
        opened.keep("gpu1", WAY)
        content = store.read()
        assert content.id == opened.store_id
        assert content.hosts == {"gpu1": WAY} == opened.content.hosts
        # Another host's key is kept when it is its turn.
        assert {name: one.value.get_secret_value() for name, one in content.internal.items()} == {
            "gpu1": made_key
        }
        assert (store.folder / CA_FILE).read_bytes() == ca.certificate_pem
        assert opened.kept("gpu1", WAY)
        assert not opened.new
        assert not opened.kept("gpu2", WAY)
        opened.keep("gpu2", WAY)
        assert opened.kept("gpu2", WAY) and opened.kept("gpu1", WAY)
        assert set(store.read().internal) == {"gpu1", "gpu2"}

    def test_without_a_ca_of_ours_none_is_made(self, store: KeyStore) -> None:
        """Such as where certificates are provided."""
        opened = OpenedStore(store)
        key(opened)
        opened.keep("gpu1", WAY)
        assert opened.kept("gpu1", WAY)
        assert not (store.folder / CA_FILE).exists()

    def test_what_is_still_to_be_written(self, store: KeyStore) -> None:
        opened = OpenedStore(store)
        key(opened)
        opened.keep("gpu1", WAY)
        # Another way to reach it; a CA; a key.
        assert not opened.kept("gpu1", OTHER_WAY)
        opened.local_ca()
        assert not opened.kept("gpu1", WAY)
        opened.keep("gpu1", OTHER_WAY)
        assert opened.kept("gpu1", OTHER_WAY)
        again = OpenedStore(store)
        assert again.kept("gpu1", OTHER_WAY)
        again.local_ca()
        assert again.kept("gpu1", OTHER_WAY)
        store.update(lambda content: content.model_copy(update={"internal": {}}))
        third = OpenedStore(store)
        # Its key is not needed in this run.
        assert third.kept("gpu1", OTHER_WAY)
        key(third)
        assert not third.kept("gpu1", OTHER_WAY)

    def test_a_store_without_an_identifier_gets_the_one_that_it_has_on_hosts(
        self, store: KeyStore
    ) -> None:
        made(store)
        store.update(
            lambda content: with_internal(content, ["gpu1"], utc_now()).model_copy(
                update={"id": None, "hosts": {"gpu1": WAY}}
            )
        )
        opened = OpenedStore(store)
        assert not opened.kept("gpu1", WAY)
        opened.keep("gpu1", WAY)
        assert store.read().id == opened.store_id
        assert opened.kept("gpu1", WAY)

    def test_a_client_that_somebody_adds_meanwhile_stays(self, store: KeyStore) -> None:
        made(store)
        opened = OpenedStore(store)
        key(opened)
        store.update(lambda content: add_client(content, "bob", utc_now()))
        opened.keep("gpu1", WAY)
        assert set(store.read().clients) == {"default", "bob"}
        assert set(store.read().internal) == {"gpu1"}


class TestAnotherRun:
    """It has created keys meanwhile: hosts would get what the store does not hold."""

    def refused(self, opened: OpenedStore) -> str:
        with pytest.raises(SettingsError) as found:
            opened.keep("gpu1", WAY)
        [sentence] = found.value.problems
        return sentence

    def test_another_key(self, store: KeyStore) -> None:
        made(store)
        opened = OpenedStore(store)
        key(opened)
        store.update(lambda content: with_internal(content, ["gpu1"], utc_now()))
        theirs = store.read().internal
        assert self.refused(opened) == (
            f"another run has changed {store.path} meanwhile; run this one again"
        )
        assert store.read().internal == theirs
        assert not opened.kept("gpu1", WAY)

    def test_another_store(self, store: KeyStore) -> None:
        opened = OpenedStore(store)
        made(store)
        assert "another run has changed" in self.refused(opened)

    def test_another_ca(self, store: KeyStore) -> None:
        made(store)
        opened = OpenedStore(store)
        opened.local_ca()
        store.authority.keep(LocalCa.create("prod", utc_now()))
        assert "another run has changed" in self.refused(opened)
        assert not opened.kept("gpu1", WAY)
