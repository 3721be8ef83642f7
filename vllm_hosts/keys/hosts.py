"""Hosts that a store records, and the identifier that it has on them. Touches no file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from datetime import datetime
from secrets import token_urlsafe

from pydantic import SecretStr

from vllm_hosts.errors import SettingsError
from vllm_hosts.keys.store_content import (
    Content,
    DeployedHost,
    InternalKey,
    new_content,
    rotate_internal,
)


def identified(content: Content) -> Content:
    """The store with an identifier, if an earlier version gave it none.

    It is derived from the oldest secret, so that two clones of such a store get the same. A digest
    of 256 random bits reveals nothing about them.
    """
    if content.id:
        return content
    secrets = [(key.created, key.value.get_secret_value()) for key in content.internal.values()]
    secrets = secrets or [
        (key.created, key.value.get_secret_value())
        for record in content.clients.values()
        for key in record.keys
    ]
    if not secrets:
        made = new_content(datetime.fromtimestamp(0).astimezone())
        return content.model_copy(update={"id": made.id})
    digest = hashlib.sha256(b"vllm-hosts store\n" + min(secrets)[1].encode()).hexdigest()
    return content.model_copy(update={"id": digest[:32]})


def with_host(content: Content, name: str, host: DeployedHost) -> Content:
    """The store with a record that this host has its keys."""
    return content.model_copy(update={"hosts": {**content.hosts, name: host}})


def with_gateways(content: Content, now: datetime) -> Content:
    """Add the gateways' common secret if there is none."""
    if content.gateways is not None:
        return content
    made = InternalKey(value=SecretStr(token_urlsafe(32)), created=now)
    return content.model_copy(update={"gateways": made})


def rotate_secrets(
    content: Content, hosts: Iterable[str], gateways: Iterable[str], now: datetime
) -> Content:
    """Replace the internal keys of these hosts; gateways have one secret together, and a key of
    their own as well where they run agents."""
    chosen, front = set(hosts), set(gateways)
    if chosen & front:
        content = with_gateways(content.model_copy(update={"gateways": None}), now)
    return rotate_internal(content, chosen - (front - {*content.internal}), now)


def left_behind(content: Content, deployed: Iterable[str], others: Iterable[str] = ()) -> list[str]:
    """Hosts that have keys from the store, but that the inventory no longer deploys to.

    :param others: further hosts of the inventory. Versions that recorded no hosts made an internal
        key for each host, and for some of these.
    """
    keys_only = {*content.internal} - {*others}
    return sorted({*content.hosts, *keys_only} - {*deployed})


def released(content: Content, name: str) -> Content:
    """The store without a host: without its internal key and without how to reach it.

    :raises SettingsError: there is no such host.
    """
    known = {*content.hosts, *content.internal}
    if name not in known:
        there = ", ".join(sorted(known)) or "none yet"
        raise SettingsError([f"the store has no host {name!r}; it has {there}"])
    return content.model_copy(
        update={
            "hosts": {host: way for host, way in content.hosts.items() if host != name},
            "internal": {host: key for host, key in content.internal.items() if host != name},
        }
    )


def nowhere(content: Content, gateways: Iterable[str]) -> Iterator[str]:
    """Sentences about clients whose keys no gateway accepts, since they were limited to hosts."""
    known = set(gateways)
    for name, record in sorted(content.clients.items()):
        if known and record.hosts is not None and known.isdisjoint(record.hosts):
            yield (
                f"client {name!r} is limited to {', '.join(record.hosts)}, and only gateways"
                f" ({', '.join(sorted(known))}) accept clients' keys: revoke it, and add it again"
                " without --hosts"
            )
