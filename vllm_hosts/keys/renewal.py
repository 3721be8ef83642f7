"""Whether a host needs a new certificate from the local CA."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from vllm_hosts.keys.pki import BACKDATED, LocalCa, Role, canonical, certificate_names


def reason_to_renew(
    certificate_pem: bytes | None,
    public_key_pem: bytes | None,
    ca: LocalCa,
    names: Iterable[str],
    renew_before_days: int,
    now: datetime,
    asked_since: datetime | None = None,
    role: Role = "server",
) -> str | None:
    """Why a host needs a new certificate from the local CA; None: the one it has is good.

    :param public_key_pem: public half of the key that is beside the certificate on the host.
    :param asked_since: when a new one was requested; an older one has to be replaced.
    :param role: which end of a connection it is for.
    """
    if certificate_pem is None or public_key_pem is None:
        return "there is none"
    try:
        certificate = x509.load_pem_x509_certificate(certificate_pem)
    except ValueError:
        return "it is damaged"
    public = certificate.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    if public.strip() != public_key_pem.strip():
        return "its key is another one"
    if not ca.signed(certificate):
        return "another CA signed it"
    if _names(certificate, role) != {canonical(name) for name in names}:
        return "it is for other names"
    if certificate.not_valid_before_utc > now:
        return "it is not valid yet"
    left = certificate.not_valid_after_utc - now
    if left < timedelta(days=renew_before_days):
        return f"it has {max(left.days, 0)} days left"
    if asked_since is not None and certificate.not_valid_before_utc + BACKDATED < asked_since:
        return f"a new one was requested on {asked_since:%Y-%m-%d %H:%M} UTC"
    return None


def _names(certificate: x509.Certificate, role: Role) -> set[str]:
    """Whom a certificate is for: a client's has no more than its subject."""
    if role == "server":
        return certificate_names(certificate)
    subject = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return {canonical(str(name.value)) for name in subject}
