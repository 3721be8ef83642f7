"""Hosts that a store records: who is left behind, and what a release takes out of it."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import SecretStr

from vllm_hosts.errors import SettingsError
from vllm_hosts.keys.hosts import identified, left_behind, released, with_host
from vllm_hosts.keys.store_content import (
    ApiKey,
    ClientRecord,
    Content,
    DeployedHost,
    InternalKey,
)

NOW = datetime(2026, 11, 26, tzinfo=UTC)
WAY = DeployedHost(data={"ssh_port": 22})


def internal(value: str, age: int = 0) -> InternalKey:
    return InternalKey(value=SecretStr(value), created=NOW - timedelta(days=age))


def client(*values: str) -> ClientRecord:
    keys = tuple(
        ApiKey(value=SecretStr(value), created=NOW - timedelta(days=age))
        for age, value in enumerate(values)
    )
    return ClientRecord(created=NOW, keys=keys)


def digest(secret: str) -> str:
    return hashlib.sha256(f"vllm-hosts store\n{secret}".encode()).hexdigest()[:32]


def test_an_identifier_stays() -> None:
    content = Content(id="0" * 32, internal={"a": internal("k")})
    assert identified(content) is content


def test_two_clones_of_an_old_store_get_the_same() -> None:
    """From the oldest secret; those of clients count where there is no other."""
    clients = {"ada": client("new", "older"), "bob": client("newer")}
    both = Content(clients=clients, internal={"a": internal("young"), "b": internal("old", 1)})
    assert identified(both).id == digest("old")
    assert identified(both).internal == both.internal
    assert identified(Content(clients=clients)).id == digest("older")


def test_an_old_store_without_secrets_gets_a_new_one() -> None:
    first, second = identified(Content()), identified(Content())
    assert first.id and second.id and first.id != second.id
    assert first == Content(id=first.id)


def test_a_host_is_recorded() -> None:
    content = Content(hosts={"a": DeployedHost()})
    assert with_host(content, "b", WAY).hosts == {"a": DeployedHost(), "b": WAY}
    assert with_host(content, "a", WAY).hosts == {"a": WAY}


def test_hosts_that_are_left_behind() -> None:
    content = Content(
        hosts={"d": WAY, "a": WAY, "here": WAY}, internal={"c": internal("k"), "e": internal("k")}
    )
    assert left_behind(content, ["here"]) == ["a", "c", "d", "e"]
    # Versions that recorded no hosts made keys for some that are not deployed to.
    assert left_behind(content, ["here", "a"], ["c", "d"]) == ["d", "e"]


def test_a_host_that_is_released_is_known_no_more() -> None:
    two = Content(
        hosts={"a": WAY, "b": WAY}, internal={"b": internal("k"), "c": internal("k")}, id="0" * 32
    )
    assert released(two, "b") == Content(
        hosts={"a": WAY}, internal={"c": internal("k")}, id="0" * 32
    )
    assert list(released(two, "c").internal) == ["b"]
    assert list(released(two, "a").hosts) == ["b"]
    for content, there in ((two, "a, b, c"), (Content(), "none yet")):
        with pytest.raises(SettingsError) as caught:
            released(content, "x")
        assert caught.value.problems == [f"the store has no host 'x'; it has {there}"]
