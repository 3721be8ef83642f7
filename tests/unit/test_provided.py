"""Certificates and CA files that users provide: the words, and what is judged to the second."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding

from tests.stores import kept_ca
from vllm_hosts.keys.pki import LocalCa
from vllm_hosts.keys.provided import check_ca_file, check_files
from vllm_hosts.keys.weak_keys import weaknesses

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
NAMES = ["a.example.com", "b.example.com"]
GOOD_KEYS = "use ECDSA on P-256 or P-384, or RSA with 2048 bits or more"


@pytest.fixture
def ca(tmp_path: Path) -> LocalCa:
    return kept_ca(tmp_path / "state", "prod", NOW)


@pytest.fixture
def folder(tmp_path: Path, ca: LocalCa) -> Path:
    issued = ca.issue(NAMES, 90, NOW)
    (tmp_path / "cert.pem").write_bytes(issued.certificate_pem)
    (tmp_path / "key.pem").write_bytes(issued.key_pem.get_secret_value())
    return tmp_path


def judged(folder: Path, names: list[str], now: datetime = NOW) -> list[str]:
    return check_files(str(folder / "cert.pem"), str(folder / "key.pem"), names, now)


def test_a_ca_file_that_cannot_be_used(tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    assert check_ca_file(str(path)) == [
        f"tls.ca_file {path} cannot be read: No such file or directory"
    ]
    path.write_text("nothing")
    assert check_ca_file(str(path)) == [f"tls.ca_file {path} holds no certificate in PEM"]


def test_the_names_that_it_has_are_said(folder: Path) -> None:
    path = folder / "cert.pem"
    assert judged(folder, ["c.example.com"]) == [
        f"tls.certificate {path} does not name c.example.com; it names a.example.com, b.example.com"
    ]
    key = ec.generate_private_key(ec.SECP256R1())
    empty = x509.Name([])
    nameless = (
        x509.CertificateBuilder(empty, empty, key.public_key(), 7)
        .not_valid_before(NOW)
        .not_valid_after(NOW + timedelta(days=60))
        .sign(key, hashes.SHA256())
    )
    path.write_bytes(nameless.public_bytes(Encoding.PEM))
    found = judged(folder, ["a.example.com"])
    assert found[-1] == (f"tls.certificate {path} does not name a.example.com; it names nothing")


def test_it_is_valid_from_its_first_to_its_last_second(folder: Path) -> None:
    leaf = x509.load_pem_x509_certificate((folder / "cert.pem").read_bytes())
    first, last = leaf.not_valid_before_utc, leaf.not_valid_after_utc
    assert judged(folder, NAMES, first) == []
    assert "is not valid before" in judged(folder, NAMES, first - timedelta(seconds=1))[0]
    assert judged(folder, NAMES, last - timedelta(seconds=1)) == []
    assert "expired on" in judged(folder, NAMES, last)[0]


def test_an_order_that_is_wrong_twice_is_said_once(folder: Path, ca: LocalCa) -> None:
    path = folder / "cert.pem"
    other = kept_ca(folder / "other", "x", NOW).certificate_pem
    path.write_bytes(path.read_bytes() + other + ca.certificate_pem)
    [problem] = judged(folder, NAMES)
    assert "the chain is out of order" in problem


def odd(folder: Path) -> x509.Certificate:
    """On a curve that only OpenSSL knows."""
    made = subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime239v1",
         "-nodes", "-keyout", "/dev/null", "-subj", "/CN=odd"],
        capture_output=True, check=True, cwd=folder,
    )  # fmt: skip
    return x509.load_pem_x509_certificate(made.stdout)


def signed_by_itself(
    key: ec.EllipticCurvePrivateKey | dsa.DSAPrivateKey | ed25519.Ed25519PrivateKey,
    name: str = "llm.example.com",
) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)] if name else [])
    digest = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return (
        x509.CertificateBuilder(subject, subject, key.public_key(), 7)
        .not_valid_before(NOW)
        .not_valid_after(NOW + timedelta(days=60))
        .sign(key, digest)
    )


def test_a_key_that_cannot_even_be_read_hides_no_other(tmp_path: Path) -> None:
    known = signed_by_itself(ed25519.Ed25519PrivateKey.generate())
    assert list(weaknesses([odd(tmp_path), known])) == [
        f"has a key or a signature of a kind that TLS does not know; {GOOD_KEYS}",
        f"has a key of the kind Ed25519 (CN=llm.example.com), which browsers refuse; {GOOD_KEYS}",
    ]
    [problem] = weaknesses([signed_by_itself(dsa.generate_private_key(1024))])
    assert "of the kind DSA (CN=" in problem


def test_a_certificate_without_a_subject() -> None:
    [problem] = weaknesses([signed_by_itself(ec.generate_private_key(ec.SECP521R1()), "")])
    assert "secp521r1 (without a subject), which clients refuse" in problem
