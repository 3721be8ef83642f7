"""Hosts that a store records, and the identifier by which they know it. No file is touched."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from datetime import datetime

from vllm_hosts.errors import SettingsError
from vllm_hosts.keys.model import Content, DeployedHost, new_content


def identified(content: Content) -> Content:
    """With an identifier, where an earlier version gave it none.

    It follows from the oldest secret, so that two clones of one such store come to the same. A
    digest of 256 random bits says nothing about them.
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
    """The same, remembering that its keys went to this host."""
    return content.model_copy(update={"hosts": {**content.hosts, name: host}})


def left_behind(content: Content, deployed: Iterable[str], others: Iterable[str] = ()) -> list[str]:
    """Hosts that have keys of the store, and that the inventory does not deploy to any more.

    :param others: further hosts of the inventory. Versions that remembered no hosts made an
        internal key for each host, and for some of these.
    """
    keys_only = {*content.internal} - {*others}
    return sorted({*content.hosts, *keys_only} - {*deployed})


def released(content: Content, name: str) -> Content:
    """Without a host: neither its internal key nor the way to it is kept.

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
