"""A store as one run uses it: nothing is written before a host turns out to be ours."""

from __future__ import annotations

from pathlib import Path

from vllm_hosts.errors import SettingsError
from vllm_hosts.keys.host_keys import ClientKey, HostKeys, host_keys, remembered_keys
from vllm_hosts.keys.hosts import identified, with_gateways, with_host
from vllm_hosts.keys.pki import LocalCa, utc_now
from vllm_hosts.keys.store import KeyStore
from vllm_hosts.keys.store_content import (
    Content,
    DeployedHost,
    new_content,
    with_internal,
)
from vllm_hosts.settings import HostSettings


class OpenedStore:
    """A store, and what a run would add to it, in memory: the store itself, a CA, keys of hosts.

    Hence a dry run, or one that every host refuses, leaves nothing behind.

    :raises SettingsError: as ``KeyStore.read``, except if there is no store.
    """

    def __init__(self, store: KeyStore) -> None:
        self.store = store
        self._found = store.peek()
        self._content = identified(self._found or new_content(utc_now()))
        self._ca: LocalCa | None = None
        self._ca_kept = True
        #: Hosts of this run that belong to another store.
        self.anothers: set[str] = set()

    @property
    def new(self) -> bool:
        """Whether there is no store yet."""
        return self._found is None

    @property
    def folder(self) -> Path:
        """The inventory's private folder, which has the CA's certificate."""
        return self.store.folder

    @property
    def content(self) -> Content:
        """What the store holds, or will hold."""
        return self._content

    @property
    def store_id(self) -> str:
        """The identifier that the store has on hosts."""
        assert self._content.id is not None
        return self._content.id

    def host_keys(self, settings: HostSettings) -> HostKeys:
        """The secrets of one host, with a new internal key if it has none.

        :raises SettingsError: the source of a secret yields nothing usable.
        """
        if settings.is_gateway:
            self._content = with_gateways(self._content, utc_now())
        if settings.runs_agents:
            self.make_key(settings.name)
        return host_keys(self._content, settings)

    def make_key(self, host: str) -> None:
        """Create an internal key for a host that has none."""
        self._content = with_internal(self._content, [host], utc_now())

    def client_keys(self, host: str) -> tuple[ClientKey, ...]:
        """The keys that a host's edge accepts, even if its settings are no longer known."""
        return remembered_keys(self._content, host)

    def local_ca(self) -> LocalCa:
        """The inventory's CA, created if there is none.

        :raises SettingsError: it is damaged.
        """
        self._ca = self._ca or self.store.authority.found()
        if self._ca is None:
            self._ca, self._ca_kept = LocalCa.create(self.store.name, utc_now()), False
        return self._ca

    def trusted(self) -> bytes:
        """The CAs whose certificates gateways and hosts accept from each other, in PEM: during a
        change of CA, both.

        :raises SettingsError: as ``local_ca``.
        """
        made = self.local_ca()
        given = self.store.ca_certificate() or made.certificate_pem
        return given.strip() + b"\n"

    def kept(self, host: str, way: DeployedHost) -> bool:
        """Whether the store holds everything that the host gets, and records how it was reached."""
        found = self._found
        return (
            found is not None
            and found.id == self._content.id
            and found.hosts.get(host) == way
            and (host in found.internal or host not in self._content.internal)
            and found.gateways == self._content.gateways
            and self._ca_kept
        )

    def keep(self, host: str, way: DeployedHost) -> None:
        """Write what was created for this host, and record the host. Before it is changed.

        :raises SettingsError: it cannot be written, or another run has created keys meanwhile.
        """
        planned = self._content

        def change(content: Content) -> Content:
            content = content if content.id else content.model_copy(update={"id": planned.id})
            key = planned.internal.get(host)
            if key and host not in content.internal:
                content = content.model_copy(update={"internal": {**content.internal, host: key}})
            if planned.gateways and not content.gateways:
                content = content.model_copy(update={"gateways": planned.gateways})
            return with_host(content, host, way)

        # Other hosts' keys are written when it is their turn.
        kept = self.store.update(change, start=planned.model_copy(update={"internal": {}}))
        same = kept.id == planned.id and kept.internal.get(host) == planned.internal.get(host)
        same = same and kept.gateways == planned.gateways
        if same and self._ca is not None and not self._ca_kept:
            same = self.store.authority.keep(self._ca).certificate == self._ca.certificate
            self._ca_kept = same
        if not same:
            raise SettingsError(
                [f"another run has changed {self.store.path} meanwhile; run this one again"]
            )
        self._found = kept
        self._content = with_host(self._content, host, way)
