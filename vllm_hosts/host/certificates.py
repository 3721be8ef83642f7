"""The certificate and key that a host has, as found, and those that it has no use for any more."""

from __future__ import annotations

from dataclasses import dataclass

from vllm_hosts.host.files import Absent
from vllm_hosts.host.paths import GATEWAY_FILES, INNER_FILES
from vllm_hosts.settings import HostSettings


@dataclass(frozen=True)
class Certificate:
    """PEM; None if the file is missing or, for the key, holds no key."""

    certificate_pem: bytes | None
    public_key_pem: bytes | None


def left_over(settings: HostSettings) -> list[Absent]:
    """Files between gateways and hosts that this host had in another role, or while it had one.

    They go together with the configuration that names them.
    """
    kept = {
        *(GATEWAY_FILES if settings.is_gateway else ()),
        *(INNER_FILES if settings.behind_gateways else ()),
    }
    return [Absent(path) for path in sorted({*GATEWAY_FILES, *INNER_FILES} - kept)]
