"""TLS, as a client on the controller meets it."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime

import pytest
from cryptography import x509
from testinfra.host import Host

from vllm_hosts.errors import HostError, SettingsError
from vllm_hosts.host.paths import TLS_CERTIFICATE
from vllm_hosts.keys.authority import ca_warnings
from vllm_hosts.keys.expiry import left, to_do
from vllm_hosts.settings import HostSettings
from vllm_hosts.suite.conftest import Edge
from vllm_hosts.suite.looks import Outside
from vllm_hosts.suite.promise import BrokenError, promise


def handshake(
    edge: Edge,
    version: ssl.TLSVersion | None = None,
    name: str | None = None,
    *,
    trusted: bool = True,
) -> bytes:
    """One handshake with the edge; the certificate in DER.

    :param version: the only one offered.
    :param trusted: whether the certificate has to be good; some promises are about other things.
    """
    context = ssl.create_default_context(cafile=edge.ca_file)
    if version is not None and version < ssl.TLSVersion.TLSv1_2:
        trusted = False
    if not trusted:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if version is not None:
        # Our own library must not be the one that refuses.
        context.minimum_version = context.maximum_version = version
        context.set_ciphers("DEFAULT@SECLEVEL=0")
    address = (edge.settings.address, edge.settings.edge.https_port)
    name = name or edge.settings.edge_names[0]
    with (
        socket.create_connection(address, timeout=5) as plain,
        context.wrap_socket(plain, server_hostname=name) as tls,
    ):
        return tls.getpeercert(binary_form=True) or b""


@promise("TLS-01")
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_old_tls_is_refused(settings: HostSettings, edge: Edge) -> None:
    spoken = []
    for version in (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1):
        try:
            handshake(edge, version)
        except ssl.SSLError as refused:
            if "NO_CIPHERS" in str(refused):
                raise HostError("this machine cannot even offer old TLS") from refused
        else:
            spoken.append(version.name)
    assert spoken == []


@promise("TLS-02")
def test_current_tls_is_spoken(settings: HostSettings, edge: Edge) -> None:
    refused = {}
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        try:
            handshake(edge, version, trusted=False)
        except ssl.SSLError as error:
            refused[version.name] = error.reason
    assert refused == {}


@promise("TLS-03")
def test_the_certificate_is_good_for_every_name(settings: HostSettings, edge: Edge) -> None:
    wrong = {}
    for name in settings.edge_names:
        try:
            handshake(edge, name=name)
        except ssl.SSLCertVerificationError as error:
            wrong[name] = error.verify_message
    assert wrong == {}


@promise("TLS-04")
def test_the_certificate_does_not_end_soon(
    settings: HostSettings,
    edge: Edge,
    noted: Callable[[str, str], None],
    warned: Callable[[str], None],
) -> None:
    """The report warns before: of hosts that nobody deploys to, and of CAs that change."""
    certificate = x509.load_der_x509_certificate(handshake(edge, trusted=False))
    now = datetime.now(UTC)
    found = left(certificate, settings, now)
    noted("Certificate until", found.ends.strftime("%Y-%m-%d"))
    if found.is_short:
        raise BrokenError(found.words)
    if found.is_due:
        warned(f"its certificate expires: {found.words}; {to_do(settings)}")
    if settings.tls.mode == "local-ca":
        # A store that cannot be opened says nothing about this certificate.
        with suppress(SettingsError):
            for sentence in ca_warnings(edge.store.authority, certificate, settings.name, now):
                warned(sentence)


@promise("TLS-05")
def test_the_edge_serves_the_certificate_in_its_file(
    host: Host, settings: HostSettings, edge: Edge
) -> None:
    served = x509.load_der_x509_certificate(handshake(edge, trusted=False))
    text = host.check_output(f"cat {TLS_CERTIFICATE}")
    assert served == x509.load_pem_x509_certificates(text.encode())[0]


@promise("TLS-06")
def test_browsers_are_told_to_stay_with_https(settings: HostSettings, edge: Edge) -> None:
    for path, key in (("/v1/models", edge.key), ("/v1/models", None), ("/metrics", None)):
        said = edge.ask(path, key=key).headers.get("Strict-Transport-Security", "")
        if "max-age=63072000" not in said:
            raise BrokenError(f"{path}: Strict-Transport-Security is {said or 'missing'}")


@promise("TLS-07")
def test_tls_is_as_mozilla_s_intermediate_profile_asks(
    settings: HostSettings, outside: Outside
) -> None:
    assert outside.tls_issues() == {}
