"""The local CA, its certificates, and judging files that users provide."""

from __future__ import annotations

import stat
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from tests.stores import kept_ca
from tests.unit.samples import settings
from vllm_hosts.errors import SettingsError
from vllm_hosts.host.certificates import Certificate
from vllm_hosts.host.files import File, Kept
from vllm_hosts.host.paths import TLS_CERTIFICATE, TLS_KEY
from vllm_hosts.keys.pki import LocalCa, certificate_names
from vllm_hosts.keys.provided import check_ca_file, check_files
from vllm_hosts.keys.renewal import reason_to_renew
from vllm_hosts.keys.weak_keys import weaknesses
from vllm_hosts.roles.tls.plan import from_local_ca

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
NAMES = ["llm.example.com", "192.0.2.11", "2001:db8::11"]


@pytest.fixture
def ca(tmp_path: Path) -> LocalCa:
    return kept_ca(tmp_path / "state", "prod", NOW)


def public_of(key_pem: bytes) -> bytes:
    key = load_pem_private_key(key_pem, password=None).public_key()
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def test_the_ca_is_made_once_and_kept_private(tmp_path: Path, ca: LocalCa) -> None:
    again = kept_ca(tmp_path / "state", "prod", NOW + timedelta(days=30))
    assert again.certificate == ca.certificate
    assert stat.S_IMODE((tmp_path / "state" / "ca.key").stat().st_mode) == 0o600


def test_a_certificate_is_ecdsa_for_exactly_its_names(ca: LocalCa) -> None:
    issued = ca.issue(NAMES, 90, NOW)
    certificate = x509.load_pem_x509_certificate(issued.certificate_pem)
    assert isinstance(certificate.public_key(), ec.EllipticCurvePublicKey)
    assert certificate_names(certificate) == set(NAMES)
    assert ca.signed(certificate)
    assert certificate.not_valid_before_utc < NOW
    assert certificate.not_valid_after_utc - NOW <= timedelta(days=90)
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert not constraints.ca
    assert "PRIVATE" not in repr(issued)


def test_openssl_s_own_rules_accept_it(ca: LocalCa) -> None:
    issued = ca.issue(NAMES, 90, NOW)
    store = x509.verification.Store([ca.certificate])
    verifier = x509.verification.PolicyBuilder().store(store).time(NOW)
    leaf = x509.load_pem_x509_certificate(issued.certificate_pem)
    verifier.build_server_verifier(x509.DNSName("llm.example.com")).verify(leaf, [])
    with pytest.raises(x509.verification.VerificationError):
        verifier.build_server_verifier(x509.DNSName("other.example.com")).verify(leaf, [])


def reason(ca: LocalCa, days_later: int = 0, names: list[str] = NAMES, **files: bytes) -> str:
    issued = ca.issue(NAMES, 365, NOW)
    certificate = files.get("certificate", issued.certificate_pem)
    public = files.get("public", public_of(issued.key_pem.get_secret_value()))
    now = NOW + timedelta(days=days_later)
    return reason_to_renew(certificate, public, ca, names, 120, now) or "good"


def test_when_a_certificate_is_renewed(tmp_path: Path, ca: LocalCa) -> None:
    assert reason(ca) == "good"
    assert reason(ca, days_later=240) == "good"
    assert "days left" in reason(ca, days_later=246)
    assert "0 days left" in reason(ca, days_later=400)
    assert reason(ca, days_later=-1) == "it is not valid yet"
    assert reason(ca, names=[*NAMES, "more.example.com"]) == "it is for other names"
    assert reason(ca, names=["LLM.example.com", "192.0.2.11", "2001:db8:0::11"]) == "good"
    assert reason(ca, certificate=b"") == "it is damaged"
    other_key = public_of(ca.issue(NAMES, 9, NOW).key_pem.get_secret_value())
    assert reason(ca, public=other_key) == "its key is another one"
    stranger = kept_ca(tmp_path / "other", "prod", NOW).issue(NAMES, 365, NOW)
    assert (
        reason(
            ca,
            certificate=stranger.certificate_pem,
            public=public_of(stranger.key_pem.get_secret_value()),
        )
        == "another CA signed it"
    )


def test_a_host_with_a_good_certificate_keeps_it(ca: LocalCa) -> None:
    chosen = settings(edge={"names": NAMES})
    first = from_local_ca(chosen, ca, Certificate(None, None), NOW)
    contents = {entry.path: entry.content for entry in first if isinstance(entry, File)}
    assert [entry.secret for entry in first if isinstance(entry, File)] == [False, True]
    found = Certificate(contents[TLS_CERTIFICATE], public_of(contents[TLS_KEY]))
    again = from_local_ca(chosen, ca, found, NOW + timedelta(days=100))
    assert [type(entry) for entry in again[1:]] == [Kept, Kept]
    renewed = from_local_ca(chosen, ca, found, NOW + timedelta(days=300))
    assert [type(entry) for entry in renewed[1:]] == [File, File]


@pytest.mark.parametrize("damage", ["ca.pem", "ca.key"])
def test_a_damaged_ca_is_never_replaced_silently(tmp_path: Path, ca: LocalCa, damage: str) -> None:
    path = tmp_path / "state" / damage
    before = (tmp_path / "state" / "ca.key").read_bytes()
    path.write_bytes(b"garbage")
    with pytest.raises(SettingsError, match="damaged or one is missing"):
        kept_ca(tmp_path / "state", "prod", NOW)
    path.unlink()
    with pytest.raises(SettingsError, match="damaged or one is missing"):
        kept_ca(tmp_path / "state", "prod", NOW)
    assert damage == "ca.key" or (tmp_path / "state" / "ca.key").read_bytes() == before


def files(folder: Path, ca: LocalCa, names: list[str] = NAMES, at: datetime = NOW) -> list[str]:
    issued = ca.issue(names, 90, at)
    (folder / "cert.pem").write_bytes(issued.certificate_pem)
    (folder / "key.pem").write_bytes(issued.key_pem.get_secret_value())
    return judged(folder)


def judged(folder: Path, names: list[str] = NAMES) -> list[str]:
    return check_files(str(folder / "cert.pem"), str(folder / "key.pem"), names, NOW)


def test_good_files_have_no_problem(tmp_path: Path, ca: LocalCa) -> None:
    assert files(tmp_path, ca) == []
    assert files(tmp_path, ca, ["*.example.com", "192.0.2.11", "2001:db8::11"]) == []


def test_what_can_be_wrong_with_files(tmp_path: Path, ca: LocalCa) -> None:
    [problem] = files(tmp_path, ca, at=NOW - timedelta(days=100))
    assert "expired on 2026-11-14" in problem
    [problem] = files(tmp_path, ca, at=NOW + timedelta(days=10))
    assert "is not valid before 2026-12-04" in problem
    [problem] = files(tmp_path, ca, ["llm.example.com", "192.0.2.11"])
    assert "does not name 2001:db8::11; it names" in problem
    files(tmp_path, ca)
    other = ca.issue(NAMES, 90, NOW).key_pem.get_secret_value()
    (tmp_path / "key.pem").write_bytes(other)
    [problem] = judged(tmp_path)
    assert "key.pem is not the key of" in problem
    (tmp_path / "key.pem").write_bytes(b"-----BEGIN NONSENSE-----")
    [problem] = judged(tmp_path)
    assert "is not a private key in PEM" in problem
    (tmp_path / "key.pem").unlink()
    [problem] = judged(tmp_path)
    assert "key.pem cannot be read: No such file" in problem
    (tmp_path / "cert.pem").write_bytes(b"nothing")
    [problem] = judged(tmp_path)
    assert "is not a certificate in PEM" in problem
    (tmp_path / "cert.pem").unlink()
    [problem] = judged(tmp_path)
    assert "cert.pem cannot be read: No such file" in problem


def test_a_key_with_a_passphrase_is_refused(tmp_path: Path, ca: LocalCa) -> None:
    from cryptography.hazmat.primitives.serialization import BestAvailableEncryption

    files(tmp_path, ca)
    key = load_pem_private_key((tmp_path / "key.pem").read_bytes(), password=None)
    locked = key.private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"passphrase")
    )
    (tmp_path / "key.pem").write_bytes(locked)
    [problem] = judged(tmp_path)
    assert "has a passphrase" in problem


def test_a_chain_out_of_order_is_refused(tmp_path: Path, ca: LocalCa) -> None:
    files(tmp_path, ca)
    leaf = (tmp_path / "cert.pem").read_bytes()
    (tmp_path / "cert.pem").write_bytes(leaf + ca.certificate_pem)
    assert judged(tmp_path) == []
    other = kept_ca(tmp_path / "other", "x", NOW)
    (tmp_path / "cert.pem").write_bytes(leaf + other.certificate_pem)
    [problem] = judged(tmp_path)
    assert "the chain is out of order" in problem


def test_unencrypted_keys_are_what_nginx_reads(ca: LocalCa) -> None:
    key = load_pem_private_key(ca.issue(NAMES, 90, NOW).key_pem.get_secret_value(), password=None)
    assert key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def self_made(
    folder: Path,
    key: Any,
    *,
    digest: Any = hashes.SHA256(),  # noqa: B008
    issuer: str | None = None,
) -> list[str]:
    """A certificate with this key; :param issuer: another name signs it, with a key of its own."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "llm.example.com")])
    signer = rsa.generate_private_key(65537, 2048) if issuer else key
    by = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]) if issuer else name
    if isinstance(signer, ed25519.Ed25519PrivateKey):
        digest = None
    names = [x509.DNSName("llm.example.com")]
    certificate = (
        x509.CertificateBuilder(by, name, key.public_key(), 7)
        .not_valid_before(NOW - timedelta(days=1))
        .not_valid_after(NOW + timedelta(days=60))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(signer, digest)
    )
    (folder / "cert.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    return judged(folder, ["llm.example.com"])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: rsa.generate_private_key(65537, 1024), "an RSA key of 1024 bits (CN=llm.example"),
        (lambda: rsa.generate_private_key(65537, 1536), "an RSA key of 1536 bits"),
        (lambda: ec.generate_private_key(ec.SECP224R1()), "on the curve secp224r1"),
        (lambda: ec.generate_private_key(ec.SECP256K1()), "on the curve secp256k1"),
        (lambda: ec.generate_private_key(ec.SECP521R1()), "on the curve secp521r1"),
        (lambda: dsa.generate_private_key(1024), "of the kind DSA"),
        (ed25519.Ed25519PrivateKey.generate, "of the kind Ed25519"),
    ],
)
def test_a_weak_key_is_refused(tmp_path: Path, make: Any, words: str) -> None:
    [problem] = self_made(tmp_path, make())
    assert words in problem
    assert problem.endswith("use ECDSA on P-256 or P-384, or RSA with 2048 bits or more")
    assert check_ca_file(str(tmp_path / "cert.pem")) == [
        problem.replace("tls.certificate", "tls.ca_file")
    ]


@pytest.mark.parametrize(
    "make",
    [
        lambda: rsa.generate_private_key(65537, 2048),
        lambda: ec.generate_private_key(ec.SECP256R1()),
        lambda: ec.generate_private_key(ec.SECP384R1()),
    ],
)
def test_a_key_that_tls_has_is_taken(tmp_path: Path, make: Any) -> None:
    assert self_made(tmp_path, make()) == []
    assert check_ca_file(str(tmp_path / "cert.pem")) == []


def test_a_weak_link_of_the_chain_is_refused(tmp_path: Path, ca: LocalCa) -> None:
    self_made(tmp_path, rsa.generate_private_key(65537, 1024))
    weak = (tmp_path / "cert.pem").read_bytes()
    files(tmp_path, ca)
    leaf = (tmp_path / "cert.pem").read_bytes()
    (tmp_path / "cert.pem").write_bytes(leaf + weak)
    assert "an RSA key of 1024 bits" in judged(tmp_path)[0]


def test_signatures_with_sha1_are_refused_but_for_a_root_s_own(tmp_path: Path) -> None:
    done = subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-sha1", "-days", "60",
         "-subj", "/CN=root", "-keyout", str(tmp_path / "root.key"),
         "-out", str(tmp_path / "root.pem")],
        capture_output=True, check=False,
    )  # fmt: skip
    if done.returncode:
        pytest.skip("this OpenSSL does not sign with SHA-1")
    root = x509.load_pem_x509_certificate((tmp_path / "root.pem").read_bytes())
    assert list(weaknesses([root])) == []
    subprocess.run(
        ["openssl", "req", "-new", "-key", str(tmp_path / "root.key"), "-subj", "/CN=leaf",
         "-out", str(tmp_path / "leaf.csr")],
        capture_output=True, check=True,
    )  # fmt: skip
    subprocess.run(
        ["openssl", "x509", "-req", "-sha1", "-in", str(tmp_path / "leaf.csr"), "-CA",
         str(tmp_path / "root.pem"), "-CAkey", str(tmp_path / "root.key"), "-set_serial", "2",
         "-out", str(tmp_path / "leaf.pem")],
        capture_output=True, check=True,
    )  # fmt: skip
    leaf = x509.load_pem_x509_certificate((tmp_path / "leaf.pem").read_bytes())
    [problem] = weaknesses([leaf])
    assert "is signed with SHA1 (CN=leaf), which OpenSSL refuses" in problem
