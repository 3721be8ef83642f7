"""What is asked of a host's certificate, and what is read of the answer."""

from __future__ import annotations

import pytest

from vllm_hosts.errors import HostError
from vllm_hosts.facts.base import END
from vllm_hosts.facts.tls import GatewayCertificate, HostCertificate, MirrorCertificate
from vllm_hosts.host.certificates import Certificate

CERTIFICATE = "-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----"
KEY = "-----BEGIN PUBLIC KEY-----\ny\n-----END PUBLIC KEY-----"


def seen(certificate: str, key: str) -> Certificate:
    lines = ["== certificate", *certificate.splitlines(), "== public key", *key.splitlines(), END]
    return HostCertificate().process(lines)


def test_what_is_read() -> None:
    assert seen(CERTIFICATE, KEY) == Certificate(f"{CERTIFICATE}\n".encode(), f"{KEY}\n".encode())
    assert seen("", "") == Certificate(None, None)
    assert seen(CERTIFICATE, "").public_key_pem is None


def test_another_answer_is_no_absence_of_a_key() -> None:
    with pytest.raises(HostError) as error:
        seen(CERTIFICATE, "z" * 300)
    assert f"openssl pkey says b'{'z' * 200}'" in str(error.value)


@pytest.mark.parametrize(
    ("fact", "what", "reads"),
    [
        (HostCertificate, "the edge's certificate", "cat /c 2>/dev/null; echo"),
        (
            GatewayCertificate, "the certificate between gateways and hosts",
            "openssl x509 -in /c 2>/dev/null; echo",
        ),
        (MirrorCertificate, "the certificate for the mirror", "cat /c 2>/dev/null; echo"),
    ],
)  # fmt: skip
def test_what_is_asked(fact: type[HostCertificate], what: str, reads: str) -> None:
    assert (fact.what, fact.steady) == (what, True)
    script = fact().command("/c", "/k")
    # A file need not end with a line's end.
    assert f"echo '== certificate'; {reads}\n" in script
    assert "echo '== public key'; openssl pkey -in /k -pubout 2>/dev/null\n" in script
