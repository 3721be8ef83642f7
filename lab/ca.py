"""The certificate authority of the lab's own servers: archive, registry and hub."""

from __future__ import annotations

from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from lab.layout import ARCHIVE_NAME, HUB_CDN_NAME, HUB_NAME, LAB_CA, REGISTRY_NAME, STATE
from vllm_hosts.keys.pki import LocalCa, utc_now
from vllm_hosts.keys.private_files import private_folder
from vllm_hosts.keys.renewal import reason_to_renew

_FOLDER = STATE / "ca"


def certificate(name: str, *further: str) -> tuple[Path, Path]:
    """Certificate and key files of one of the lab's servers, made or renewed as needed."""
    names = [name, *further]
    ca = LocalCa.load(_FOLDER) or LocalCa.create("lab", utc_now()).keep(private_folder(_FOLDER))
    LAB_CA.write_bytes(ca.certificate_pem)
    chain, key = _FOLDER / f"{name}.pem", _FOLDER / f"{name}.key"
    found = chain.read_bytes() if chain.exists() and key.exists() else None
    # The key was made together with the certificate, here: its public half needs no second look.
    public = _public_key(found) if found else None
    if reason_to_renew(found, public, ca, names, 30, utc_now()) is not None:
        issued = ca.issue(names, 300, utc_now())
        key.touch(mode=0o600)
        key.write_bytes(issued.key_pem.get_secret_value())
        chain.write_bytes(issued.certificate_pem)
    return chain, key


def prepare() -> None:
    """Make everything that servers and hosts need."""
    for name in (ARCHIVE_NAME, REGISTRY_NAME):
        certificate(name)
    certificate(HUB_NAME, HUB_CDN_NAME)


def _public_key(certificate_pem: bytes) -> bytes:
    key = x509.load_pem_x509_certificate(certificate_pem).public_key()
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
