"""One host's part of a store."""

from __future__ import annotations

import base64
import hmac
from dataclasses import dataclass
from datetime import datetime

from pydantic import SecretStr

from vllm_hosts.keys import sources
from vllm_hosts.keys.pki import utc_now
from vllm_hosts.keys.store_content import Content
from vllm_hosts.settings import HostSettings


@dataclass(frozen=True)
class ClientKey:
    """A key that an edge accepts. ``agents``: those that this client may use; None: all."""

    client: str
    value: SecretStr
    expires: datetime | None = None
    agents: tuple[str, ...] | None = None


@dataclass(frozen=True)
class HostKeys:
    """The secrets that one host needs.

    ``internal`` never leaves the controller: agents' keys are derived from it. ``renew_since``: an
    older certificate has to be replaced.
    """

    internal: SecretStr
    clients: tuple[ClientKey, ...]
    hf_token: SecretStr | None
    renew_since: datetime | None = None

    def internal_of(self, agent: str) -> SecretStr:
        """The key between the edge and one agent: 43 characters that reveal nothing about others.

        HMAC-SHA-256 (RFC 2104) of the agent's name under ``internal``, in base64url.
        """
        secret = self.internal.get_secret_value().encode()
        made = hmac.digest(secret, f"vllm-hosts agent {agent}".encode(), "sha256")
        return SecretStr(base64.urlsafe_b64encode(made).decode().rstrip("="))


def host_keys(content: Content, settings: HostSettings) -> HostKeys:
    """The secrets of a host that has an internal key.

    :raises SettingsError: the source of a secret yields nothing usable.
    """
    return HostKeys(
        internal=sources.internal_key(settings) or content.internal[settings.name].value,
        clients=client_keys(content, settings.name),
        hf_token=sources.hf_token(settings),
        renew_since=content.renew.get(settings.name),
    )


def client_keys(content: Content, host: str) -> tuple[ClientKey, ...]:
    """The keys that a host's edge accepts now."""
    now = utc_now()
    return tuple(
        ClientKey(name, key.value, key.expires, record.agents)
        for name, record in content.for_host(host).items()
        for key in record.valid_keys(now)
    )
