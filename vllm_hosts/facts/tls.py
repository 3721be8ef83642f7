"""The certificate that a host has, and the public half of its key. The private half stays there."""

from __future__ import annotations

from vllm_hosts.facts.base import HostFact, ending, sections
from vllm_hosts.host.certificates import Certificate


class HostCertificate(HostFact[Certificate]):
    """Reads a certificate and lets the host itself take the public half out of its key."""

    what = "the edge's certificate"
    steady = True

    def command(self, certificate: str, key: str) -> str:
        return ending(
            f"""
            echo '== certificate'; cat {certificate} 2>/dev/null; echo
            echo '== public key'; openssl pkey -in {key} -pubout 2>/dev/null
            """
        )

    def parse(self, lines: list[str]) -> Certificate:
        parts = sections(lines)
        public = _pem(parts["public key"])
        if public is not None and not public.startswith(b"-----BEGIN PUBLIC KEY-----\n"):
            # Not the absence of a key, for which another would be made.
            raise ValueError(f"openssl pkey says {public[:200]!r}")
        return Certificate(_pem(parts["certificate"]), public)


class GatewayCertificate(HostCertificate):
    """The same between gateways and hosts, where the key may be in the certificate's own file."""

    what = "the certificate between gateways and hosts"

    def command(self, certificate: str, key: str) -> str:
        return ending(
            f"""
            echo '== certificate'; openssl x509 -in {certificate} 2>/dev/null; echo
            echo '== public key'; openssl pkey -in {key} -pubout 2>/dev/null
            """
        )


class MirrorCertificate(HostCertificate):
    """The same of a mirror, and of hosts that ask it."""

    what = "the certificate for the mirror"


def _pem(lines: list[str]) -> bytes | None:
    return ("\n".join(lines) + "\n").encode() if lines else None
