"""A change of the CA: the time that it is, what hosts have, and what clients accept."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from vllm_hosts.keys import KeyStore

PROD = "inventory/prod.py"
NAME = "llm.example.com"
START = datetime(2026, 11, 26, 9, 0, tzinfo=UTC)
MONTH = timedelta(days=30)


class Clock:
    """What time it is for the store."""

    def __init__(self, now: datetime) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now


def file_of(store: KeyStore) -> bytes:
    return (store.folder / "ca.pem").read_bytes()


def accepts(ca_file: bytes, certificate: bytes, now: datetime) -> bool:
    """Whether a client with this CA file talks to a host with this certificate."""
    roots = x509.load_pem_x509_certificates(ca_file)
    verifier = PolicyBuilder().store(Store(roots)).time(now)
    leaf = x509.load_pem_x509_certificate(certificate)
    try:
        verifier.build_server_verifier(x509.DNSName(NAME)).verify(leaf, [])
    except VerificationError:
        return False
    return True


def deployed(store: KeyStore, clock: Clock) -> bytes:
    """What a host has after a deploy now."""
    return store.local_ca().issue([NAME], 365, clock.now).certificate_pem
