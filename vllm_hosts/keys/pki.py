"""The local CA, and the certificates that it issues to hosts."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPublicKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from pydantic import SecretBytes, SecretStr

from vllm_hosts.errors import SettingsError
from vllm_hosts.keys.places import CA_FILE
from vllm_hosts.keys.private_files import (
    exists,
    keep_private,
    locked,
    private_folder,
    read_private,
)

CA_KEY_FILE = "ca.key"
#: The local CA's name, followed by its inventory's name in parentheses.
CA_NAME = "vllm-hosts local CA"
_CA_YEARS = 10
#: So that clients whose clock is a little slow accept a certificate that was just issued.
BACKDATED = timedelta(minutes=10)

#: Which end of a connection a certificate is for.
Role = Literal["server", "client"]
_PURPOSES = {
    "server": ExtendedKeyUsageOID.SERVER_AUTH,
    "client": ExtendedKeyUsageOID.CLIENT_AUTH,
}


@dataclass(frozen=True)
class Issued:
    """A host's certificate, without a chain: clients have the CA. ``key_pem`` is in no repr."""

    certificate_pem: bytes
    key_pem: SecretBytes = field(repr=False)


class LocalCa:
    """A certificate authority whose key stays in one private folder of the controller."""

    def __init__(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self.certificate = certificate
        self._key = key

    @classmethod
    def load(cls, folder: Path) -> LocalCa | None:
        """The inventory's CA; None: there is none. Creates nothing, not even a lock.

        :raises SettingsError: its files are damaged, do not match, or are open to others.
        """
        with locked(folder, looking=True):
            return cls._load(folder)

    @classmethod
    def _load(cls, folder: Path) -> LocalCa | None:
        if not exists(folder):
            return None
        private_folder(folder)
        certificate = _read_public(folder / CA_FILE)
        key = read_private(folder / CA_KEY_FILE)
        if certificate is None and key is None:
            return None
        both = f"{folder / CA_FILE} and {folder / CA_KEY_FILE}"
        return cls.from_pem(certificate or b"", SecretStr((key or b"").decode("latin-1")), both)

    def keep(self, folder: Path) -> LocalCa:
        """Write the CA into a private folder, unless it has one already: then that one is kept.

        :raises SettingsError: as ``load``.
        """
        with locked(folder):
            there = self._load(folder)
            if there is None:
                keep_private(folder / CA_KEY_FILE, _private_pem(self._key))
                keep_private(folder / CA_FILE, self.certificate_pem)
        return there or self

    @classmethod
    def from_pem(cls, certificate: bytes, key: SecretStr, both: str) -> LocalCa:
        """A CA from its certificate and key.

        :param both: where they are, for people.
        :raises SettingsError: one is damaged, or they do not belong together.
        """
        try:
            given = x509.load_pem_x509_certificates(certificate)
            private = load_pem_private_key(key.get_secret_value().encode("latin-1"), password=None)
        except (ValueError, TypeError) as error:
            raise SettingsError(
                [
                    f"{both} are damaged or one is missing; restore both from a backup, or move"
                    " both away to have a new CA made (clients then need the new one)"
                ]
            ) from error
        # During a change of CA, the file has both.
        own = [one for one in given if one.public_key() == private.public_key()]
        if not isinstance(private, ec.EllipticCurvePrivateKey) or not own:
            raise SettingsError([f"{both} do not belong together; restore both from one backup"])
        return cls(own[0], private)

    @classmethod
    def create(cls, inventory_name: str, now: datetime, *, dated: bool = False) -> LocalCa:
        """Create a CA, in memory.

        :param dated: with the time in its name: some clients find a CA by its name alone, and would
            confuse two with the same name.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        since = f" {now:%Y-%m-%d %H:%M:%S}" if dated else ""
        name = x509.Name(
            [x509.NameAttribute(NameOID.COMMON_NAME, f"{CA_NAME}{since} ({inventory_name})"[:64])]
        )
        certificate = (
            _builder(name, name, key.public_key(), now, timedelta(days=365 * _CA_YEARS))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(certificates=True), critical=True)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
            )
            .sign(key, hashes.SHA256())
        )
        return cls(certificate, key)

    @property
    def certificate_pem(self) -> bytes:
        """What clients have to trust, in PEM."""
        return self.certificate.public_bytes(Encoding.PEM)

    def key_text(self) -> SecretStr:
        """The CA's own key in PEM."""
        return SecretStr(_private_pem(self._key).decode())

    def issue(
        self, names: Sequence[str], valid_days: int, now: datetime, role: Role = "server"
    ) -> Issued:
        """Issue a certificate for a host's names and addresses, with a new ECDSA P-256 key.

        :param role: a client's is for one name, its subject, and no server can use it.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])])
        builder = (
            _builder(
                subject, self.certificate.subject, key.public_key(), now, timedelta(days=valid_days)
            )
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([_PURPOSES[role]]), critical=False)
        )
        if role == "server":
            alternative = x509.SubjectAlternativeName([_general_name(name) for name in names])
            builder = builder.add_extension(alternative, critical=False)
        certificate = (
            builder.add_extension(
                x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
            .sign(self._key, hashes.SHA256())
        )
        return Issued(certificate.public_bytes(Encoding.PEM), SecretBytes(_private_pem(key)))

    def signed(self, certificate: x509.Certificate) -> bool:
        """Whether this CA signed the certificate."""
        return signed_by(certificate, self.certificate)


def signed_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Whether the issuer signed the certificate directly."""
    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: CertificateIssuerPublicKeyTypes,
    now: datetime,
    life: timedelta,
) -> x509.CertificateBuilder:
    start = now - BACKDATED
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + life)
    )


def _usage(*, certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not certificates,
        key_cert_sign=certificates,
        crl_sign=certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _read_public(path: Path) -> bytes | None:
    return path.read_bytes() if exists(path) else None


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name.lower())


def certificate_names(certificate: x509.Certificate) -> set[str]:
    """DNS names (lower case) and addresses that a certificate is for."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return set()
    found = {name.lower() for name in names.get_values_for_type(x509.DNSName)}
    return found | {str(address) for address in names.get_values_for_type(x509.IPAddress)}


def covers(certificate: x509.Certificate, name: str) -> bool:
    """Whether a client that connects to ``name`` accepts the certificate (RFC 6125)."""
    wanted = canonical(name)
    names = certificate_names(certificate)
    return wanted in names or f"*.{wanted.partition('.')[2]}" in names


def canonical(name: str) -> str:
    """A name or address as it is compared."""
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        return name.lower()


def utc_now() -> datetime:
    """The current time, with its time zone."""
    return datetime.now(UTC)
