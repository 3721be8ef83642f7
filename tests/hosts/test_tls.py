"""TLS, as a client on the controller meets it."""

from __future__ import annotations

import socket
import ssl
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from testinfra.host import Host

from tests.hosts.conftest import Edge
from vllm_hosts.paths import TLS_CERTIFICATE
from vllm_hosts.settings import HostSettings


def handshake(edge: Edge, version: ssl.TLSVersion | None = None, name: str | None = None) -> bytes:
    """One handshake with the edge; the certificate in DER. ``version``: the only one offered."""
    context = ssl.create_default_context(cafile=edge.ca_file)
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


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
@pytest.mark.parametrize("version", ["TLSv1", "TLSv1_1"])
def test_old_tls_is_refused(settings: HostSettings, edge: Edge, version: str) -> None:
    with pytest.raises(ssl.SSLError) as refused:
        handshake(edge, ssl.TLSVersion[version])
    assert "NO_CIPHERS" not in str(refused.value), "this machine cannot even ask for old TLS"


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
def test_current_tls_is_spoken(settings: HostSettings, edge: Edge, version: str) -> None:
    assert handshake(edge, ssl.TLSVersion[version])


def test_the_tls_certificate_is_good_for_every_name(settings: HostSettings, edge: Edge) -> None:
    for name in settings.edge_names:
        assert handshake(edge, name=name), name


def test_the_tls_certificate_has_a_month_left(settings: HostSettings, edge: Edge) -> None:
    left = x509.load_der_x509_certificate(handshake(edge)).not_valid_after_utc - datetime.now(UTC)
    assert left > timedelta(days=min(30, settings.tls.renew_before_days))


def test_the_edge_serves_the_tls_certificate_in_its_file(
    host: Host, settings: HostSettings, edge: Edge
) -> None:
    served = x509.load_der_x509_certificate(handshake(edge))
    on_disk = x509.load_pem_x509_certificates(host.file(TLS_CERTIFICATE).content)[0]
    assert served == on_disk
