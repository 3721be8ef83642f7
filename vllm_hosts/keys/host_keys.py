"""One host's part of a store."""

from __future__ import annotations

import base64
import hmac
from dataclasses import dataclass, replace
from datetime import datetime

from pydantic import SecretStr

from vllm_hosts.keys import sources
from vllm_hosts.keys.pki import utc_now
from vllm_hosts.keys.store_content import CONTROLLER, Content
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
    older certificate has to be replaced. ``front``: of a host that is a gateway as well, the secret
    that all gateways have together.
    """

    internal: SecretStr
    clients: tuple[ClientKey, ...]
    hf_token: SecretStr | None
    renew_since: datetime | None = None
    front: SecretStr | None = None

    @property
    def edge_side(self) -> HostKeys:
        """The secrets of what clients meet at the host's edge."""
        return replace(self, internal=self.front, front=None) if self.front else self

    def internal_of(self, agent: str) -> SecretStr:
        """The key between the edge and one agent: 43 characters that reveal nothing about others.

        HMAC-SHA-256 (RFC 2104) of the agent's name under ``internal``, in base64url.
        """
        return _derived(self.internal, f"vllm-hosts agent {agent}")


def controller_key(internal: SecretStr) -> ClientKey:
    """The only key that a host behind gateways accepts: whoever has its secrets can make it."""
    return ClientKey(CONTROLLER, _derived(internal, f"vllm-hosts {CONTROLLER}"))


def _derived(secret: SecretStr, purpose: str) -> SecretStr:
    made = hmac.digest(secret.get_secret_value().encode(), purpose.encode(), "sha256")
    return SecretStr(base64.urlsafe_b64encode(made).decode().rstrip("="))


def host_keys(content: Content, settings: HostSettings) -> HostKeys:
    """The secrets of a host that has an internal key, or of a gateway: those have one together,
    which no agent has. A host that is both has both.

    :raises SettingsError: the source of a secret yields nothing usable.
    """
    renew_since = content.renew.get(settings.name)
    front: SecretStr | None = None
    if settings.is_gateway:
        assert content.gateways is not None
        front = content.gateways.value
        if not settings.runs_agents:
            return HostKeys(front, client_keys(content, settings.name), None, renew_since)
    internal = sources.internal_key(settings) or content.internal[settings.name].value
    only_inside = settings.behind_gateways and not settings.is_gateway
    return HostKeys(
        internal=internal,
        clients=(controller_key(internal),) if only_inside else client_keys(content, settings.name),
        hf_token=sources.hf_token(settings),
        renew_since=renew_since,
        front=front,
    )


def remembered_keys(content: Content, host: str) -> tuple[ClientKey, ...]:
    """The keys that a host's edge accepts now, where only the store knows the host."""
    if host not in content.hosts or not content.hosts[host].behind:
        return client_keys(content, host)
    internal = content.internal.get(host)
    return (controller_key(internal.value),) if internal else ()


def client_keys(content: Content, host: str) -> tuple[ClientKey, ...]:
    """The clients' keys that the edge of a host or gateway accepts now."""
    now = utc_now()
    return tuple(
        ClientKey(name, key.value, key.expires, record.agents)
        for name, record in content.for_host(host).items()
        for key in record.valid_keys(now)
    )
