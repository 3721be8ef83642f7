"""The CA and what it issues, field by field and to the second: hosts and clients have these."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from pydantic import SecretStr

from vllm_hosts.errors import SettingsError
from vllm_hosts.keys import pki
from vllm_hosts.keys.pki import LocalCa, certificate_names, utc_now
from vllm_hosts.keys.renewal import reason_to_renew

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
NAMES = ["llm.example.com", "192.0.2.11"]
MINUTE, SECOND = timedelta(minutes=1), timedelta(seconds=1)


@pytest.fixture
def ca() -> LocalCa:
    return LocalCa.create("prod", NOW)


def common_name(name: x509.Name) -> str:
    [found] = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found.value)


def usages(certificate: x509.Certificate) -> dict[str, bool]:
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.critical
    names = (
        *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment"),
        *("key_agreement", "key_cert_sign", "crl_sign"),
    )
    return {name: True for name in names if getattr(usage.value, name)}


def test_the_ca_s_own_certificate(ca: LocalCa) -> None:
    own = ca.certificate
    assert own.subject == own.issuer
    assert common_name(own.subject) == "vllm-hosts local CA (prod)"
    assert own.not_valid_before_utc == NOW - 10 * MINUTE
    assert own.not_valid_after_utc - own.not_valid_before_utc == timedelta(days=3650)
    basic = own.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (basic.critical, basic.value.ca, basic.value.path_length) == (True, True, 0)
    assert usages(own) == {"key_cert_sign": True, "crl_sign": True}


def test_names_that_clients_tell_apart() -> None:
    dated = LocalCa.create("prod", NOW, dated=True).certificate
    assert common_name(dated.subject) == "vllm-hosts local CA 2026-11-24 12:00:00 (prod)"
    # As long as X.509 allows.
    long = LocalCa.create("x" * 100, NOW).certificate
    assert common_name(long.subject) == ("vllm-hosts local CA (" + "x" * 100)[:64]


def test_a_host_s_certificate(ca: LocalCa) -> None:
    issued = ca.issue(NAMES, 90, NOW)
    assert "key_pem" not in repr(issued)
    found = x509.load_pem_x509_certificate(issued.certificate_pem)
    assert common_name(found.subject) == NAMES[0]
    assert found.not_valid_after_utc - found.not_valid_before_utc == timedelta(days=90)
    critical = {one.oid: one.critical for one in found.extensions}
    basic = found.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (basic.critical, basic.value.ca) == (True, False)
    assert usages(found) == {"digital_signature": True}
    extended = found.extensions.get_extension_for_class(x509.ExtendedKeyUsage)
    assert list(extended.value) == [ExtendedKeyUsageOID.SERVER_AUTH]
    assert {oid for oid, is_critical in critical.items() if is_critical} == {
        x509.BasicConstraints.oid,
        x509.KeyUsage.oid,
    }
    long = x509.load_pem_x509_certificate(
        ca.issue([f"{'y' * 63}.example.com"], 9, NOW).certificate_pem
    )
    assert common_name(long.subject) == "y" * 63 + "."


class TestFiles:
    @pytest.fixture
    def folder(self, tmp_path: Path, ca: LocalCa) -> Path:
        folder = tmp_path / "state"
        folder.mkdir(mode=0o700)
        assert ca.keep(folder) is ca
        return folder

    @pytest.fixture
    def held(self, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Path, bool]]:
        """Folders, and whether only to look."""
        folders: list[tuple[Path, bool]] = []

        @contextmanager
        def locked(folder: Path, looking: bool = False) -> Iterator[None]:
            folders.append((folder, looking))
            yield

        monkeypatch.setattr(pki, "locked", locked)
        return folders

    def test_it_is_read_as_it_was_kept(
        self, folder: Path, ca: LocalCa, held: list[tuple[Path, bool]]
    ) -> None:
        found = LocalCa.load(folder)
        assert found is not None
        assert (found.certificate, held) == (ca.certificate, [(folder, True)])
        assert LocalCa.load(folder / "none") is None

    def test_two_that_make_one_keep_one(
        self, folder: Path, ca: LocalCa, held: list[tuple[Path, bool]]
    ) -> None:
        kept = LocalCa.create("prod", NOW).keep(folder)
        assert (kept.certificate, held) == (ca.certificate, [(folder, False)])

    def test_a_folder_that_others_may_enter(self, folder: Path) -> None:
        folder.chmod(0o755)
        with pytest.raises(SettingsError):
            LocalCa.load(folder)

    def test_half_of_it_names_both(self, folder: Path) -> None:
        (folder / "ca.key").unlink()
        with pytest.raises(SettingsError) as refused:
            LocalCa.load(folder)
        both = f"{folder / 'ca.pem'} and {folder / 'ca.key'} are damaged or one is missing"
        assert refused.value.problems[0].startswith(both)


def test_a_key_that_is_not_its_own(ca: LocalCa) -> None:
    other = LocalCa.create("prod", NOW)
    key = rsa.generate_private_key(65537, 2048)
    foreign = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    for text in (other.key_text(), SecretStr(foreign)):
        with pytest.raises(SettingsError, match="^here do not belong together; restore both"):
            LocalCa.from_pem(ca.certificate_pem, text, "here")
    again = LocalCa.from_pem(other.certificate_pem + ca.certificate_pem, ca.key_text(), "here")
    assert again.certificate == ca.certificate


def test_an_rsa_ca_is_none_of_ours() -> None:
    """Its certificate and its key belong together, and it is refused all the same."""
    key = rsa.generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "theirs")])
    own = (
        x509.CertificateBuilder(name, name, key.public_key(), 7)
        .not_valid_before(NOW)
        .not_valid_after(NOW + timedelta(days=60))
        .sign(key, hashes.SHA256())
    )
    text = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    with pytest.raises(SettingsError):
        LocalCa.from_pem(own.public_bytes(Encoding.PEM), SecretStr(text), "here")
    # It names nobody, as certificates did once.
    assert certificate_names(own) == set()


class TestRenewal:
    """To the second: a deploy that renews too early changes something in every run."""

    def reason(self, ca: LocalCa, at: datetime, asked: datetime | None = None) -> str | None:
        issued = ca.issue(NAMES, 90, NOW)
        key = load_pem_private_key(issued.key_pem.get_secret_value(), password=None)
        public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        return reason_to_renew(issued.certificate_pem, public, ca, NAMES, 30, at, asked)

    def test_what_is_half_there_is_not_there(self, ca: LocalCa) -> None:
        issued = ca.issue(NAMES, 90, NOW)
        for certificate, key in ((None, b"key"), (issued.certificate_pem, None), (None, None)):
            found = reason_to_renew(certificate, key, ca, NAMES, 30, NOW)
            assert found == "there is none"

    def test_from_its_first_second_until_it_is_due(self, ca: LocalCa) -> None:
        first = NOW - 10 * MINUTE
        due = first + timedelta(days=60)
        assert self.reason(ca, first) is None
        assert self.reason(ca, first - SECOND) == "it is not valid yet"
        assert self.reason(ca, due) is None
        assert self.reason(ca, due + SECOND) == "it has 29 days left"

    def test_a_request_ends_with_the_next_one(self, ca: LocalCa) -> None:
        assert self.reason(ca, NOW, NOW) is None
        asked = NOW + SECOND
        assert self.reason(ca, NOW, asked) == "a new one was requested on 2026-11-24 12:00 UTC"


def test_now() -> None:
    assert abs(utc_now() - datetime.now(UTC)) < MINUTE
