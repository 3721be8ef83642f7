"""What a key store holds and how it changes: who is let in, where, and until when."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from vllm_hosts.errors import SettingsError
from vllm_hosts.keys.store_content import (
    ApiKey,
    ClientRecord,
    Content,
    DeployedHost,
    InternalKey,
    NextCa,
    StoredCa,
    add_client,
    extend,
    new_content,
    new_key,
    renew_certificates,
    revoke,
    rotate,
    rotate_internal,
    with_internal,
)

NOW = datetime(2026, 11, 26, 8, 0, 0, 123456, tzinfo=UTC)
DAY = timedelta(days=1)
RECORD = {"created": NOW, "keys": [{"value": "k", "created": NOW}]}


def key(value: str = "k", expires: datetime | None = None, created: datetime = NOW) -> ApiKey:
    return ApiKey(value=SecretStr(value), created=created, expires=expires)


def one(*keys: ApiKey, **more: Any) -> Content:
    return Content(clients={"ada": ClientRecord(created=NOW, keys=keys, **more)})


def values(content: Content) -> list[tuple[str, datetime | None]]:
    return [(each.value.get_secret_value(), each.expires) for each in content.client("ada").keys]


class TestValues:
    def test_a_key_ends_at_its_time(self) -> None:
        ends = key(expires=NOW + DAY)
        assert ends.valid(NOW + DAY - timedelta(microseconds=1))
        assert not ends.valid(NOW + DAY) and not ends.valid(NOW + 2 * DAY)
        assert key().valid(NOW + 9999 * DAY)

    def test_a_fingerprint_tells_keys_apart(self) -> None:
        assert key("abc").fingerprint == hashlib.sha256(b"abc").hexdigest()[-8:]

    def test_keys_that_are_accepted_are_newest_last(self) -> None:
        record = one(key("a"), key("b", NOW), key("c", NOW + DAY)).client("ada")
        accepted = [each.value.get_secret_value() for each in record.valid_keys(NOW)]
        assert accepted == ["a", "c"]
        assert (record.agents, record.hosts) == (None, None)

    @pytest.mark.parametrize("value", ["a b", 'a"', "a\n", "", "ä", "a;", "a$"])
    def test_what_a_header_cannot_carry_is_no_key(self, value: str) -> None:
        with pytest.raises(ValidationError, match="characters that a header cannot carry"):
            key(value)
        with pytest.raises(ValidationError):
            InternalKey(value=SecretStr(value), created=NOW)

    def test_every_character_that_may_be_in_one(self) -> None:
        assert key("AZaz09._~+/=-").value.get_secret_value() == "AZaz09._~+/=-"

    def test_secrets_are_shown_in_the_store_alone(self) -> None:
        ca = StoredCa(certificate="c", key=SecretStr("CA-KEY"))
        internal = {"gpu1": InternalKey(value=SecretStr("INNER"), created=NOW)}
        content = one(key("CLIENT")).model_copy(update={"ca": ca, "internal": internal})
        for shown in (repr(content), str(content.model_dump())):
            assert not re.search("CA-KEY|INNER|CLIENT", shown)
        kept = json.loads(content.model_dump_json())
        assert kept["ca"]["key"] == "CA-KEY"
        assert kept["internal"]["gpu1"]["value"] == "INNER"
        assert kept["clients"]["ada"]["keys"][0]["value"] == "CLIENT"
        assert Content.model_validate(kept) == content

    @pytest.mark.parametrize(
        "given",
        [
            {"version": 2},
            {"id": "0" * 31},
            {"id": "G" * 32},
            {"unknown": 1},
            {"clients": {"ada": {"created": NOW, "keys": []}}},
            {"clients": {"Ada": RECORD}},
            {"clients": {"a;b": RECORD}},
            {"clients": {"ada": RECORD | {"created": NOW.replace(tzinfo=None)}}},
            {"hosts": {"gpu1": {"agents": ["a;b"]}}},
            {"hosts": {"gpu1": {"agents": ["-b"]}}},
        ],
    )
    def test_what_is_no_store_of_ours(self, given: dict[str, Any]) -> None:
        with pytest.raises(ValidationError):
            Content.model_validate(given)
        assert Content.model_validate({"clients": {"ada": RECORD}}) == one(key())

    @pytest.mark.parametrize("text", ["a\u202eb", "a\nb", "a\x1b[2J", "a\x00"])
    def test_names_that_do_not_show(self, text: str) -> None:
        said = "a name has characters that do not show"
        hosts: list[dict[str, Any]] = [{text: {}}, {"gpu1": {"data": {"ssh_user": text}}}]
        for given in ({"hosts": one} for one in hosts):
            with pytest.raises(ValidationError, match=said):
                Content.model_validate(given)
        with pytest.raises(ValidationError, match=said):
            one(key(), agents=(text,))
        assert one(key(), agents=("a b", "ä")).client("ada").agents == ("a b", "ä")

    def test_times_that_nobody_can_have_meant(self) -> None:
        for year in (1, 1900, 9000, 9999):
            with pytest.raises(ValidationError, match="a time that nobody can have meant"):
                key(created=NOW.replace(year=year))
        for year in (1901, 8999):
            assert key(created=NOW.replace(year=year)).created.year == year

    @pytest.mark.parametrize("text", ["ä", "a\r", "a\t", "\x7f", "a\x1b"])
    def test_what_is_no_certificate(self, text: str) -> None:
        with pytest.raises(ValidationError, match="a certificate has characters that PEM has not"):
            StoredCa(certificate=text, key=SecretStr("k"))
        whole = "-----BEGIN ~\n a\n"
        assert StoredCa(certificate=whole, key=SecretStr("k")).certificate == whole

    def test_an_empty_store(self) -> None:
        bare = Content()
        assert (bare.version, bare.id, bare.ca, bare.next_ca) == (1, None, None, None)
        assert (bare.hosts, bare.clients, bare.internal, bare.renew) == ({}, {}, {}, {})
        assert (DeployedHost().data, DeployedHost().agents) == ({}, ())
        assert DeployedHost(agents=("a-1",), data={"ssh_port": 22}).agents == ("a-1",)
        with pytest.raises(ValidationError, match="frozen"):
            bare.id = "x"  # type: ignore[misc]
        times = dict.fromkeys(("begun", "takes_over", "old_ends"), NOW)
        assert NextCa(certificate="c", key=SecretStr("k"), **times).begun == NOW


class TestClients:
    def test_a_new_store_has_one_client(self) -> None:
        made = new_content(NOW)
        assert made.id is not None and re.fullmatch("[0-9a-f]{32}", made.id)
        assert list(made.clients) == ["default"]
        assert new_content(NOW).id != made.id

    def test_a_new_key(self) -> None:
        made = new_key(NOW)
        # 256 bits.
        assert re.fullmatch("[A-Za-z0-9_-]{43}", made.value.get_secret_value())
        assert (made.created, made.expires) == (NOW, None)
        assert new_key(NOW, DAY).expires == NOW + DAY
        assert new_key(NOW, timedelta(0)).expires == NOW

    def test_a_client_has_what_it_is_given(self) -> None:
        bare = add_client(Content(), "ada", NOW).client("ada")
        assert (bare.created, bare.agents, bare.hosts, len(bare.keys)) == (NOW, None, None, 1)
        assert bare.keys[0].expires is None
        made = add_client(
            Content(), "ada", NOW, agents=["b", "a", "b"], hosts=["y", "x"], lifetime=DAY
        ).client("ada")
        assert (made.agents, made.hosts) == (("a", "b"), ("x", "y"))
        assert made.keys[0].expires == NOW + DAY
        none = add_client(Content(), "ada", NOW, agents=[], hosts=[]).client("ada")
        assert (none.agents, none.hosts) == ((), ())

    @pytest.mark.parametrize("name", ["", "A", "-a", "a-", "a b", "a" * 65, "a\n"])
    def test_what_is_no_name(self, name: str) -> None:
        with pytest.raises(SettingsError) as caught:
            add_client(Content(), name, NOW)
        assert caught.value.problems == [
            f"{name!r} is not a client name; use 1 to 64 lower-case letters, digits and dashes"
        ]

    def test_what_is_one(self) -> None:
        for name in ("a", "0", "a" * 64, "a-b-0"):
            assert list(add_client(Content(), name, NOW).clients) == [name]

    def test_a_name_that_is_taken(self) -> None:
        with pytest.raises(SettingsError) as caught:
            add_client(one(key()), "ada", NOW)
        assert caught.value.problems == [
            "client 'ada' already exists; rotate its key, or revoke it"
        ]

    def test_one_that_is_not_there(self) -> None:
        two = add_client(add_client(Content(), "bob", NOW), "ada", NOW)
        changes: list[Callable[[Content], Content]] = [
            lambda content: revoke(content, "eve"),
            lambda content: rotate(content, "eve", NOW, DAY),
            lambda content: extend(content, "eve", NOW, DAY),
        ]
        for change in changes:
            with pytest.raises(SettingsError) as caught:
                change(two)
            assert caught.value.problems == ["there is no client 'eve'; there is ada, bob"]
            with pytest.raises(SettingsError, match="there is nobody$"):
                change(Content())

    def test_whoever_is_revoked_is_gone_and_others_stay(self) -> None:
        two = add_client(one(key()), "bob", NOW)
        assert revoke(two, "bob") == one(key())

    def test_clients_of_a_host(self) -> None:
        content = one(key(), hosts=("gpu2",))
        content = add_client(add_client(content, "eve", NOW, hosts=[]), "bob", NOW)
        assert list(content.for_host("gpu1")) == ["bob"]
        assert list(content.for_host("gpu2")) == ["ada", "bob"]


class TestRotation:
    @pytest.fixture(autouse=True)
    def new(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(secrets, "token_urlsafe", lambda size: f"new-{size}")

    def test_present_keys_end_with_the_overlap_or_earlier(self) -> None:
        content = one(key("gone", NOW), key("soon", NOW + DAY / 2), key("old"))
        assert values(rotate(content, "ada", NOW, DAY)) == [
            ("soon", NOW + DAY / 2), ("old", NOW + DAY), ("new-32", None),
        ]  # fmt: skip
        assert values(rotate(content, "ada", NOW, timedelta(0))) == [("new-32", None)]

    def test_a_lifetime_goes_on_unless_another_is_named(self) -> None:
        short = one(key("old", NOW + DAY, created=NOW - 2 * DAY))
        assert values(rotate(short, "ada", NOW, DAY))[-1] == ("new-32", NOW + 3 * DAY)
        assert values(rotate(short, "ada", NOW, DAY, DAY))[-1] == ("new-32", NOW + DAY)
        assert values(rotate(short, "ada", NOW, DAY, timedelta(0)))[-1] == ("new-32", None)
        # Only the newest key's.
        two = one(key("old", NOW + DAY), key("newer"))
        assert values(rotate(two, "ada", NOW, DAY))[-1] == ("new-32", None)

    def test_extending_is_about_the_newest_key_alone(self) -> None:
        two = one(key("a", NOW + DAY), key("b", NOW + DAY), agents=("x",))
        longer = extend(two, "ada", NOW, 5 * DAY)
        assert values(longer) == [("a", NOW + DAY), ("b", NOW + 5 * DAY)]
        assert longer.client("ada").agents == ("x",)
        assert values(extend(two, "ada", NOW, timedelta(0)))[-1] == ("b", None)

    def test_internal_keys(self) -> None:
        old = {"gpu1": InternalKey(value=SecretStr("old"), created=NOW - DAY)}
        content = Content(internal=old)
        made = with_internal(content, ["gpu1", "gpu2"], NOW)
        assert made.internal["gpu1"] == old["gpu1"]
        assert made.internal["gpu2"] == InternalKey(value=SecretStr("new-32"), created=NOW)
        again = rotate_internal(made, iter(["gpu1"]), NOW)
        assert again.internal == {"gpu1": made.internal["gpu2"], "gpu2": made.internal["gpu2"]}

    def test_certificates_from_before_are_renewed(self) -> None:
        content = Content(renew={"gpu2": NOW - DAY, "gpu3": NOW - DAY})
        since = NOW.replace(microsecond=0)
        assert renew_certificates(content, ["gpu1", "gpu2"], NOW).renew == {
            "gpu1": since, "gpu2": since, "gpu3": NOW - DAY,
        }  # fmt: skip
