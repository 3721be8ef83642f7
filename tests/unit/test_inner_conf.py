"""What a host behind gateways knows them by: the certificates that they are given."""

from __future__ import annotations

import re
from ipaddress import ip_network

import pytest
from cryptography import x509

from tests.unit.samples import behind
from vllm_hosts.keys.pki import LocalCa, utc_now
from vllm_hosts.roles.nginx.edge_refusals import INNER_ERRORS
from vllm_hosts.roles.nginx.inner import inner_conf
from vllm_hosts.settings.fleet import GatewayHost

#: As long as a DNS name may be, and longer than a certificate's subject.
LONG = ".".join(["a" * 63, "b" * 63, "c" * 63, "d" * 61])


@pytest.mark.parametrize("name", ["gw1", LONG, LONG[:64], LONG[:65]])
def test_a_gateway_is_known_by_its_certificate(name: str) -> None:
    settings = behind().model_copy(
        update={"gateways": (GatewayHost(name, (ip_network("192.0.2.1/32"),)),)}
    )
    conf = inner_conf(
        settings, side="", ipv6=False, curves=["X25519"], errors=INNER_ERRORS, hidden_headers=[]
    )
    now = utc_now()
    issued = LocalCa.create("x", now).issue([name], 9, now, role="client").certificate_pem
    subject = x509.load_pem_x509_certificate(issued).subject.rfc4514_string()
    assert f'"SUCCESS {subject}" "{name}";' in re.sub(" +", " ", conf)
