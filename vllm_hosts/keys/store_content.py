"""What a key store holds, and how it changes. Touches no file and no clock."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    SecretStr,
    StringConstraints,
)

from vllm_hosts.errors import SettingsError
from vllm_hosts.text import clean

DEFAULT_CLIENT = "default"
#: Whose key a host behind gateways accepts: ours, to look whether it answers as it should.
CONTROLLER = "controller"
_CLIENT_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?")
#: Characters that need no quoting in .env, in nginx and in an HTTP header.
SAFE_SECRET = re.compile(r"[A-Za-z0-9._~+/=-]+")


def _safe(secret: SecretStr) -> SecretStr:
    if not SAFE_SECRET.fullmatch(secret.get_secret_value()):
        raise ValueError("a key has characters that a header cannot carry")
    return secret


#: Shown as asterisks everywhere except in the store itself.
Secret = Annotated[
    SecretStr,
    AfterValidator(_safe),
    PlainSerializer(lambda secret: secret.get_secret_value(), when_used="json"),
]


def _shown(text: str) -> str:
    if clean(text, keep="") != text:
        raise ValueError("a name has characters that do not show")
    return text


def _near(time: datetime) -> datetime:
    if not 1900 < time.year < 9000:
        raise ValueError("a time that nobody can have meant")
    return time


def _pem(text: str) -> str:
    if not re.fullmatch(r"[\x20-\x7e\n]*", text):
        raise ValueError("a certificate has characters that PEM has not")
    return text


#: What stands in a terminal's line or in arithmetic: the store may come from a colleague.
Shown = Annotated[str, AfterValidator(_shown)]
Time = Annotated[AwareDatetime, AfterValidator(_near)]
#: Both get into nginx's configuration, too.
ClientName = Annotated[str, StringConstraints(pattern=rf"^{_CLIENT_NAME.pattern}$")]
DeployedAgent = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ApiKey(_Model):
    """A client's key. ``expires``: from then on it is refused."""

    value: Secret
    created: Time
    expires: Time | None = None

    def valid(self, now: datetime) -> bool:
        """Whether the key is accepted at this time."""
        return self.expires is None or now < self.expires

    @property
    def fingerprint(self) -> str:
        """The last eight hexadecimal digits of the key's SHA-256: enough to tell keys apart."""
        return hashlib.sha256(self.value.get_secret_value().encode()).hexdigest()[-8:]


class ClientRecord(_Model):
    """A named holder of keys. ``agents``, ``hosts``: those that it may use; None: all."""

    created: Time
    keys: Annotated[tuple[ApiKey, ...], Field(min_length=1)]
    agents: tuple[Shown, ...] | None = None
    hosts: tuple[Shown, ...] | None = None

    def valid_keys(self, now: datetime) -> tuple[ApiKey, ...]:
        """Keys that are accepted at this time, newest last."""
        return tuple(key for key in self.keys if key.valid(now))


class InternalKey(_Model):
    """The key between a host's edge and its agents."""

    value: Secret
    created: Time


class StoredCa(_Model):
    """The local CA, if the store holds it."""

    certificate: Annotated[str, AfterValidator(_pem)]
    key: Annotated[
        SecretStr, PlainSerializer(lambda secret: secret.get_secret_value(), when_used="json")
    ]


class NextCa(StoredCa):
    """A CA that replaces the present one.

    It signs from ``takes_over`` on; until ``old_ends`` clients are told to trust the old one too.
    """

    begun: Time
    takes_over: Time
    old_ends: Time


class DeployedHost(_Model):
    """A host that has keys from the store: how it was reached, and which keys its edge has.

    :param data: pyinfra's own names, none of them a password.
    :param behind: it is behind gateways, and accepts no client's key.
    """

    data: Mapping[Shown, bool | int | Shown] = {}
    agents: tuple[DeployedAgent, ...] = ()
    # Left out where it says nothing: an older version would take the store for a damaged one.
    behind: bool = Field(False, exclude_if=lambda behind: not behind)


class Content(_Model):
    """Everything that a store holds.

    ``ca``: only in an encrypted store; else the CA has files of its own. ``renew``: by host, a
    time; certificates from before have to be replaced. ``gateways``: what all gateways derive from,
    since requests of a client get the same salt at each of them.

    :param id: identifies the store on hosts, and is not secret; None: from an earlier version.
    """

    version: Literal[1] = 1
    id: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")] | None = None
    hosts: Mapping[Shown, DeployedHost] = {}
    clients: Mapping[ClientName, ClientRecord] = {}
    internal: Mapping[Shown, InternalKey] = {}
    gateways: InternalKey | None = None
    ca: StoredCa | None = None
    next_ca: NextCa | None = None
    renew: Mapping[Shown, Time] = {}

    def client(self, name: str) -> ClientRecord:
        """A client by name.

        :raises SettingsError: there is none of this name.
        """
        if name not in self.clients:
            known = ", ".join(sorted(self.clients)) or "nobody"
            raise SettingsError([f"there is no client {name!r}; there is {known}"])
        return self.clients[name]

    def with_client(self, name: str, record: ClientRecord) -> Content:
        """The store with one client's record replaced."""
        return self.model_copy(update={"clients": {**self.clients, name: record}})

    def for_host(self, host: str) -> dict[str, ClientRecord]:
        """The clients whose keys belong on a host."""
        return {
            name: record
            for name, record in sorted(self.clients.items())
            if record.hosts is None or host in record.hosts
        }


def new_content(now: datetime) -> Content:
    """A new store, with one client, so that there is a key to begin with."""
    return add_client(Content(id=secrets.token_hex(16)), DEFAULT_CLIENT, now)


def new_key(now: datetime, lifetime: timedelta | None = None) -> ApiKey:
    """A key of 256 bits."""
    return ApiKey(
        value=SecretStr(secrets.token_urlsafe(32)),
        created=now,
        expires=now + lifetime if lifetime is not None else None,
    )


def add_client(
    content: Content,
    name: str,
    now: datetime,
    *,
    agents: Iterable[str] | None = None,
    hosts: Iterable[str] | None = None,
    lifetime: timedelta | None = None,
) -> Content:
    """Add a client with a new key.

    :raises SettingsError: the name is taken, or not allowed.
    """
    if not _CLIENT_NAME.fullmatch(name):
        raise SettingsError(
            [f"{name!r} is not a client name; use 1 to 64 lower-case letters, digits and dashes"]
        )
    if name == CONTROLLER:
        raise SettingsError(
            [
                f"{name!r} is what the toolkit calls itself on hosts behind gateways; give the"
                " client another name"
            ]
        )
    if name in content.clients:
        raise SettingsError([f"client {name!r} already exists; rotate its key, or revoke it"])
    record = ClientRecord(
        created=now,
        keys=(new_key(now, lifetime),),
        agents=tuple(sorted(set(agents))) if agents is not None else None,
        hosts=tuple(sorted(set(hosts))) if hosts is not None else None,
    )
    return content.with_client(name, record)


def rotate(
    content: Content,
    name: str,
    now: datetime,
    overlap: timedelta,
    lifetime: timedelta | None = None,
) -> Content:
    """Give a client a new key; its present keys expire after ``overlap``, or earlier if they did.

    :param lifetime: of the new key; zero: it does not expire; None: the newest key's lifetime.

    :raises SettingsError: there is no such client.
    """
    record = content.client(name)
    end = now + overlap
    ending = tuple(
        key.model_copy(update={"expires": min(key.expires or end, end)})
        for key in record.valid_keys(now)
    )
    newest = record.keys[-1]
    if lifetime is None and newest.expires:
        lifetime = newest.expires - newest.created
    kept = tuple(key for key in ending if key.valid(now))
    return content.with_client(
        name, record.model_copy(update={"keys": (*kept, new_key(now, lifetime or None))})
    )


def extend(content: Content, name: str, now: datetime, lifetime: timedelta) -> Content:
    """Change when a client's newest key expires.

    :param lifetime: from now on; zero: it does not expire.
    :raises SettingsError: there is no such client.
    """
    record = content.client(name)
    *others, newest = record.keys
    longer = newest.model_copy(update={"expires": now + lifetime if lifetime else None})
    return content.with_client(name, record.model_copy(update={"keys": (*others, longer)}))


def revoke(content: Content, name: str) -> Content:
    """Remove a client.

    :raises SettingsError: there is no such client.
    """
    content.client(name)
    left = {other: record for other, record in content.clients.items() if other != name}
    return content.model_copy(update={"clients": left})


def with_internal(content: Content, hosts: Iterable[str], now: datetime) -> Content:
    """Add an internal key for every host that has none."""
    missing = {
        host: InternalKey(value=SecretStr(secrets.token_urlsafe(32)), created=now)
        for host in hosts
        if host not in content.internal
    }
    return content.model_copy(update={"internal": {**content.internal, **missing}})


def rotate_internal(content: Content, hosts: Iterable[str], now: datetime) -> Content:
    """Replace the internal keys of these hosts."""
    chosen = set(hosts)
    others = {host: key for host, key in content.internal.items() if host not in chosen}
    return with_internal(content.model_copy(update={"internal": others}), sorted(chosen), now)


def renew_certificates(content: Content, hosts: Iterable[str], now: datetime) -> Content:
    """Request new certificates for these hosts, which the next deploy creates."""
    # Start times of certificates have whole seconds.
    since = now.replace(microsecond=0)
    return content.model_copy(
        update={"renew": {**content.renew, **dict.fromkeys(sorted(hosts), since)}}
    )
