"""The certificate and key that a host has, as found."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Certificate:
    """PEM; None if the file is missing or, for the key, holds no key."""

    certificate_pem: bytes | None
    public_key_pem: bytes | None
