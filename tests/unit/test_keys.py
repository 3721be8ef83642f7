"""Keys on the controller: made once, kept, and for their owner's eyes only."""

from __future__ import annotations

import json
import os
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.unit.samples import settings
from vllm_hosts.errors import SettingsError
from vllm_hosts.keys import HostKeys, KeyStore, OpenedStore, store_content
from vllm_hosts.settings import HostSettings

GPU1 = settings()
GPU2 = settings(name="gpu2")
NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)


@pytest.fixture
def store(tmp_path: Path) -> KeyStore:
    return KeyStore(tmp_path / "inventory" / "prod.py")


def made(store: KeyStore, chosen: HostSettings) -> HostKeys:
    """A host's keys, and the store with them as a deploy leaves it."""
    opened = OpenedStore(store)
    keys = opened.host_keys(chosen)
    opened.keep(chosen.name, store_content.DeployedHost())
    assert values(store.host_keys(chosen)) == values(keys)
    return keys


def values(keys: HostKeys) -> list[str]:
    return [keys.internal.get_secret_value(), *(c.value.get_secret_value() for c in keys.clients)]


def test_keys_are_long_and_stay_the_same(store: KeyStore, tmp_path: Path) -> None:
    first = made(store, GPU1)
    again = made(KeyStore(tmp_path / "inventory" / "prod.py"), GPU1)
    assert values(first) == values(again)
    # token_urlsafe(32): 256 bits.
    assert [len(value) for value in values(first)] == [43, 43]


def test_every_host_has_its_own_internal_key_and_the_same_clients(store: KeyStore) -> None:
    one, two = made(store, GPU1), made(store, GPU2)
    assert one.internal != two.internal
    assert one.clients == two.clients
    assert len({*values(one), *values(two)}) == 3


def test_the_file_and_its_folder_are_for_the_owner_only(store: KeyStore) -> None:
    made(store, GPU1)
    assert stat.S_IMODE(store.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(store.folder.stat().st_mode) == 0o700


@pytest.mark.parametrize("which", ["file", "folder"])
def test_what_others_can_read_is_refused(store: KeyStore, which: str) -> None:
    made(store, GPU1)
    (store.path if which == "file" else store.folder).chmod(0o755)
    with pytest.raises(SettingsError, match="open to other users; run: chmod"):
        made(store, GPU1)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to give a folder to somebody else")
def test_keys_of_another_user_are_refused(store: KeyStore) -> None:
    made(store, GPU1)
    os.chown(store.folder, 12345, 12345)
    with pytest.raises(SettingsError, match="belongs to another user"):
        made(store, GPU1)


def test_no_repr_shows_a_key(store: KeyStore) -> None:
    keys = made(store, GPU1)
    shown = f"{keys!r} {keys} {keys.clients!r} {keys.clients[0]} {store!r} {store.read()!r}"
    assert "default" in shown
    assert not any(value in shown for value in values(keys))


@pytest.mark.parametrize("content", ["{", '{"internal": 7}', '{"more": {}}', "[]"])
def test_a_damaged_file_is_refused_without_showing_it(store: KeyStore, content: str) -> None:
    keys = made(store, GPU1)
    secret = keys.internal.get_secret_value()
    store.path.write_text(content + f' "{secret}"' if content == "{" else content)
    with pytest.raises(SettingsError, match="is damaged; restore it from a backup") as refused:
        made(store, GPU1)
    assert secret not in str(refused.value)


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
    store: KeyStore, monkeypatch: pytest.MonkeyPatch, value: str | None, words: str
) -> None:
    monkeypatch.delenv("MY_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("MY_KEY", value)
    with pytest.raises(SettingsError, match=words) as refused:
        made(store, settings(secrets={"internal_key_env": "MY_KEY"}))
    assert not value or value not in str(refused.value)


class TestOtherSources:
    def test_the_environment(self, store: KeyStore, monkeypatch: pytest.MonkeyPatch) -> None:
        given = settings(secrets={"internal_key_env": "MY_KEY", "hf_token_env": "MY_TOKEN"})
        monkeypatch.setenv("MY_KEY", "from-a-vault")
        monkeypatch.setenv("MY_TOKEN", "hf_abc")
        keys = made(store, given)
        assert keys.internal.get_secret_value() == "from-a-vault"
        assert keys.hf_token is not None
        assert keys.hf_token.get_secret_value() == "hf_abc"
        assert "from-a-vault" not in store.path.read_text()

    def test_a_command_is_run_once(self, store: KeyStore, tmp_path: Path) -> None:
        command = f"echo x >>{tmp_path}/ran; echo hf_from_a_command; echo second line"
        given = settings(secrets={"hf_token_command": command})
        for _ in range(3):
            token = made(store, given).hf_token
            assert token is not None
            assert token.get_secret_value() == "hf_from_a_command"
        assert (tmp_path / "ran").read_text() == "x\n"

    @pytest.mark.parametrize(
        ("command", "words"),
        [
            ("echo leaked-value; exit 3", "echo ended with 3; see its output above"),
            ("echo leaked value", "echo printed no key in its first line"),
            ("true", "true printed no key in its first line"),
            ("no-such-program x", "no-such-program ended with 127"),
            (r"printf 'leaked\377value\n'", "printf printed no key in its first line"),
            ("echo 'leaked", "echo ended with"),
            (" ", "the command printed no key"),
        ],
    )
    def test_a_command_that_fails_never_shows_its_output(
        self, store: KeyStore, capfd: pytest.CaptureFixture[str], command: str, words: str
    ) -> None:
        with pytest.raises(SettingsError, match=words) as refused:
            made(store, settings(secrets={"internal_key_command": command}))
        captured = capfd.readouterr()
        assert "leaked" not in str(refused.value) + captured.out + captured.err


class TestChanges:
    """What commands do to the store's content."""

    content = store_content.add_client(store_content.Content(), "alice", NOW, agents=["b", "a"])

    def test_a_client_has_a_scope(self) -> None:
        record = self.content.client("alice")
        assert (record.agents, record.hosts) == (("a", "b"), None)
        assert len(record.valid_keys(NOW)) == 1

    @pytest.mark.parametrize("name", ["", "Alice", "a b", "-a", "a-", "a" * 65, "a\n", 'a"'])
    def test_a_bad_name(self, name: str) -> None:
        with pytest.raises(SettingsError, match="is not a client name"):
            store_content.add_client(self.content, name, NOW)

    def test_a_name_that_is_taken(self) -> None:
        with pytest.raises(SettingsError, match="client 'alice' already exists"):
            store_content.add_client(self.content, "alice", NOW)

    def test_rotation_overlaps_and_ends(self) -> None:
        rotated = store_content.rotate(self.content, "alice", NOW, timedelta(hours=24)).client(
            "alice"
        )
        old, new = rotated.keys
        assert old.value == self.content.client("alice").keys[0].value
        assert rotated.valid_keys(NOW + timedelta(hours=23)) == (old, new)
        assert rotated.valid_keys(NOW + timedelta(hours=24)) == (new,)
        assert rotated.agents == ("a", "b")

    def test_rotation_without_overlap_ends_the_old_key_at_once(self) -> None:
        rotated = store_content.rotate(self.content, "alice", NOW, timedelta()).client("alice")
        assert len(rotated.keys) == 1
        assert rotated.keys[0].value != self.content.client("alice").keys[0].value

    def test_rotation_never_lengthens_a_key_s_life(self) -> None:
        short = store_content.add_client(
            store_content.Content(), "bob", NOW, lifetime=timedelta(hours=1)
        )
        old, new = store_content.rotate(short, "bob", NOW, timedelta(days=9)).client("bob").keys
        assert old.expires == NOW + timedelta(hours=1)
        assert new.expires == NOW + timedelta(hours=1)

    def test_two_rotations_keep_what_still_overlaps(self) -> None:
        once = store_content.rotate(self.content, "alice", NOW, timedelta(hours=24))
        twice = store_content.rotate(once, "alice", NOW + timedelta(hours=1), timedelta(hours=48))
        ends = [key.expires for key in twice.client("alice").keys]
        assert ends == [NOW + timedelta(hours=24), NOW + timedelta(hours=49), None]

    def test_a_revoked_client_is_gone(self) -> None:
        assert store_content.revoke(self.content, "alice").clients == {}
        with pytest.raises(SettingsError, match="there is no client 'bob'; there is alice"):
            store_content.revoke(self.content, "bob")

    def test_internal_keys_rotate_for_chosen_hosts_only(self) -> None:
        before = store_content.with_internal(self.content, ["gpu1", "gpu2"], NOW)
        after = store_content.rotate_internal(before, ["gpu2"], NOW)
        assert after.internal["gpu1"] == before.internal["gpu1"]
        assert after.internal["gpu2"].value != before.internal["gpu2"].value

    def test_a_client_of_other_hosts_is_not_on_this_one(self) -> None:
        content = store_content.add_client(self.content, "bob", NOW, hosts=["gpu2"])
        assert set(content.for_host("gpu1")) == {"alice"}
        assert set(content.for_host("gpu2")) == {"alice", "bob"}

    def test_json_and_back(self) -> None:
        content = store_content.with_internal(self.content, ["gpu1"], NOW)
        text = content.model_dump_json()
        assert store_content.Content.model_validate_json(text) == content
        assert json.loads(text)["clients"]["alice"]["agents"] == ["a", "b"]


@pytest.mark.parametrize("name", ['a" 1; }', "a\ninclude /etc/passwd", "a\n", ""])
def test_no_name_in_a_store_is_more_than_a_name_to_nginx(store: KeyStore, name: str) -> None:
    made(store, GPU1)
    content = json.loads(store.plain_path.read_text())
    changed = content | {"hosts": {"gpu1": {"data": {}, "agents": [name]}}}
    store.plain_path.write_text(json.dumps(changed))
    with pytest.raises(SettingsError, match="is damaged"):
        store.read()
    changed = content | {"clients": {name: content["clients"]["default"]}}
    store.plain_path.write_text(json.dumps(changed))
    with pytest.raises(SettingsError, match="is damaged"):
        store.read()
