"""Keys of a fleet: clients' at gateways alone, one salt for all of them, and ours behind."""

from __future__ import annotations

import base64
import hmac
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.stores import made
from tests.unit.fleets import fleet
from vllm_hosts.errors import SettingsError
from vllm_hosts.keys import KeyStore, OpenedStore
from vllm_hosts.keys.hosts import nowhere, rotate_secrets, with_gateways, with_host
from vllm_hosts.keys.pki import utc_now
from vllm_hosts.keys.store_content import Content, DeployedHost, add_client, with_internal

NOW = datetime(2026, 11, 26, 8, 0, tzinfo=UTC)
FLEET = fleet()
WAY = DeployedHost()


@pytest.fixture
def store(tmp_path: Path) -> KeyStore:
    (tmp_path / "inventory").mkdir(mode=0o755)
    return KeyStore(tmp_path / "inventory/prod.py")


def test_a_host_behind_gateways_accepts_no_client_s_key(store: KeyStore) -> None:
    opened = OpenedStore(store)
    one, two = (opened.host_keys(FLEET[name]) for name in ("gpu1", "gpu2"))
    for keys in (one, two):
        [only] = keys.clients
        assert (only.client, only.expires, only.agents) == ("controller", None, None)
        assert len(only.value.get_secret_value()) == 43
        assert only.value != keys.internal
        assert only.value != keys.internal_of("qwen")
        text, purpose = keys.internal.get_secret_value().encode(), b"vllm-hosts controller"
        known = base64.urlsafe_b64encode(hmac.digest(text, purpose, "sha256"))
        assert only.value.get_secret_value() == known.decode().rstrip("=")
    assert one.clients != two.clients
    # Of the host's internal key, and of nothing else: the store has nothing new.
    assert opened.host_keys(FLEET["gpu1"]) == one


def test_gateways_have_all_clients_and_one_secret(store: KeyStore) -> None:
    made(store)
    store.update(lambda content: add_client(content, "ada", NOW, agents=["coder"]))
    opened = OpenedStore(store)
    one, two, behind = (opened.host_keys(FLEET[name]) for name in ("gw1", "gw2", "gpu1"))
    assert [(key.client, key.agents) for key in one.clients] == [
        ("ada", ("coder",)),
        ("default", None),
    ]
    assert one == two
    assert one.internal_of("qwen") != behind.internal_of("qwen")
    assert {"gw1", "gw2"}.isdisjoint(opened.content.internal)


def test_the_gateways_secret_is_not_one_that_users_provide(
    store: KeyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would be what hosts derive their agents' keys from."""
    monkeypatch.setenv("INTERNAL", "provided-by-somebody")
    given = {"secrets": {"internal_key_env": "INTERNAL", "hf_token_env": "NOT_SET"}}
    keys = OpenedStore(store).host_keys(fleet(given)["gw1"])
    assert keys.internal.get_secret_value() != "provided-by-somebody"
    assert keys.hf_token is None


def test_what_gateways_derive_from_is_kept_before_the_first_changes(store: KeyStore) -> None:
    opened = OpenedStore(store)
    keys = opened.host_keys(FLEET["gw1"])
    opened.host_keys(FLEET["gpu1"])
    assert not opened.kept("gw1", WAY)
    opened.keep("gw1", WAY)
    assert opened.kept("gw1", WAY)
    assert store.read().internal == {}
    again = KeyStore(store.plain_path.parents[2] / "prod.py")
    assert again.host_keys(FLEET["gw2"]).internal == keys.internal


def test_a_run_beside_that_made_another_secret_ends_this_one(store: KeyStore) -> None:
    made(store)
    opened = OpenedStore(store)
    opened.host_keys(FLEET["gw1"])
    store.update(lambda content: with_gateways(content, utc_now()))
    with pytest.raises(SettingsError, match="another run has changed .* run this one again"):
        opened.keep("gw1", WAY)


def test_a_gateway_without_a_deploy_has_no_keys(store: KeyStore) -> None:
    made(store)
    with pytest.raises(SettingsError, match="has no key for gw1; deploy to it first"):
        store.host_keys(FLEET["gw1"])


def test_a_store_without_gateways_is_what_older_versions_read(store: KeyStore) -> None:
    made(store)
    store.update(lambda content: with_host(content, "gpu1", WAY))
    written = json.loads(store.plain_path.read_text())
    assert "gateways" not in written
    assert written["hosts"] == {"gpu1": {"data": {}, "agents": []}}
    store.update(lambda content: with_host(content, "gpu1", DeployedHost(behind=True)))
    assert store.read().hosts["gpu1"].behind


def test_a_host_that_was_taken_out_gets_no_client_s_key(store: KeyStore) -> None:
    """keys.py still reaches it, and knows of it only what the store does."""
    made(store)
    behind = DeployedHost(agents=("qwen",), behind=True)
    store.update(lambda content: with_host(with_internal(content, ["gpu1"], NOW), "gpu1", behind))
    store.update(lambda content: with_host(content, "gpu9", behind))
    opened = OpenedStore(store)
    assert opened.client_keys("gpu1") == opened.host_keys(FLEET["gpu1"]).clients
    assert opened.client_keys("gpu9") == ()
    assert [key.client for key in opened.client_keys("gpu2")] == ["default"]


def test_our_own_name_is_nobody_else_s() -> None:
    with pytest.raises(SettingsError, match="'controller' is what the toolkit calls itself"):
        add_client(Content(), "controller", NOW)


def test_gateways_secrets_rotate_together() -> None:
    before = with_gateways(with_internal(Content(), ["gpu1", "gpu2"], NOW), NOW)
    one = rotate_secrets(before, ["gw2"], ["gw1", "gw2"], NOW)
    assert one.gateways != before.gateways
    assert one.internal == before.internal
    other = rotate_secrets(before, ["gpu2"], ["gw1", "gw2"], NOW)
    assert other.gateways == before.gateways
    assert other.internal["gpu1"] == before.internal["gpu1"]
    assert other.internal["gpu2"] != before.internal["gpu2"]
    assert set(rotate_secrets(before, ["gw1", "gpu1"], ["gw1"], NOW).internal) == {"gpu1", "gpu2"}
    assert rotate_secrets(Content(), ["gpu1"], [], NOW).gateways is None


def test_clients_that_no_gateway_accepts_are_named() -> None:
    content = add_client(Content(), "ada", NOW, hosts=["gpu1", "gpu2"])
    content = add_client(content, "bob", NOW, hosts=["gpu1", "gw1"])
    content = add_client(content, "eve", NOW)
    assert list(nowhere(content, [])) == []
    assert list(nowhere(content, ["gw1", "gw2"])) == [
        "client 'ada' is limited to gpu1, gpu2, and only gateways (gw1, gw2) accept clients' keys:"
        " revoke it, and add it again without --hosts"
    ]


def test_both_cas_are_trusted_while_one_replaces_the_other(store: KeyStore) -> None:
    opened = OpenedStore(store)
    first = opened.trusted()
    assert first == opened.local_ca().certificate_pem
    opened.host_keys(FLEET["gw1"])
    opened.keep("gw1", WAY)
    assert opened.trusted() == OpenedStore(store).trusted() == first
    store.authority.replace(timedelta(days=1))
    both = OpenedStore(store).trusted()
    assert both.startswith(first)
    assert both.count(b"BEGIN CERTIFICATE") == 2
    store.authority.finish()
    assert OpenedStore(store).trusted().endswith(first)
    store.authority.finish()
    last = OpenedStore(store).trusted()
    assert last.count(b"BEGIN CERTIFICATE") == 1
    assert last != first
