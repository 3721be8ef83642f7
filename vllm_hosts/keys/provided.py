"""Certificates, keys and CA files that users provide: what is wrong with them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import cache
from itertools import pairwise
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from vllm_hosts.keys.pki import certificate_names, covers, signed_by
from vllm_hosts.keys.weak_keys import weaknesses


def check_ca_file(path: str) -> list[str]:
    """What is wrong with a CA file that a user provides, one sentence each."""
    try:
        roots = x509.load_pem_x509_certificates(Path(path).read_bytes())
    except OSError as error:
        return [f"tls.ca_file {path} cannot be read: {error.strerror}"]
    except ValueError:
        return [f"tls.ca_file {path} holds no certificate in PEM"]
    return [f"tls.ca_file {path} {one}" for one in weaknesses(roots)]


@cache
def _public(key: bytes) -> PublicKeyTypes:
    """The public half of a private key in PEM. To read one of RSA takes 40 ms, since it is checked
    to be whole; hosts with different names may have the same."""
    return load_pem_private_key(key, password=None).public_key()


def check_files(
    certificate_file: str, key_file: str, names: Sequence[str], now: datetime
) -> list[str]:
    """What is wrong with a certificate and key that a user provides, one sentence each."""
    try:
        chain = x509.load_pem_x509_certificates(Path(certificate_file).read_bytes())
    except OSError as error:
        return [f"tls.certificate {certificate_file} cannot be read: {error.strerror}"]
    except ValueError:
        return [f"tls.certificate {certificate_file} is not a certificate in PEM"]
    try:
        public = _public(Path(key_file).read_bytes())
    except OSError as error:
        return [f"tls.key {key_file} cannot be read: {error.strerror}"]
    except TypeError:
        return [f"tls.key {key_file} has a passphrase; nginx needs it without"]
    except (ValueError, UnsupportedAlgorithm):
        return [f"tls.key {key_file} is not a private key in PEM"]
    if weak := [f"tls.certificate {certificate_file} {one}" for one in weaknesses(chain)]:
        return weak
    leaf = chain[0]
    found = []
    if public != leaf.public_key():
        found.append(f"tls.key {key_file} is not the key of {certificate_file}")
    if leaf.not_valid_after_utc <= now:
        found.append(
            f"tls.certificate {certificate_file} expired on"
            f" {leaf.not_valid_after_utc:%Y-%m-%d}; provide a new one"
        )
    if leaf.not_valid_before_utc > now:
        found.append(
            f"tls.certificate {certificate_file} is not valid before"
            f" {leaf.not_valid_before_utc:%Y-%m-%d}"
        )
    for name in names:
        if not covers(leaf, name):
            found.append(
                f"tls.certificate {certificate_file} does not name {name}; it names"
                f" {', '.join(sorted(certificate_names(leaf))) or 'nothing'}"
            )
    for certificate, issuer in pairwise(chain):
        if not signed_by(certificate, issuer):
            found.append(
                f"tls.certificate {certificate_file}: the chain is out of order; put the host's"
                " certificate first, each followed by the one that signed it"
            )
            break
    return found
