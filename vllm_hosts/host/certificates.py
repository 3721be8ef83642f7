"""What a host has in the place of a certificate."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Certificate:
    """PEM as found; None where the file is missing or, for the key, not a key."""

    certificate_pem: bytes | None
    public_key_pem: bytes | None
