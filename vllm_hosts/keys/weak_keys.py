"""Certificates whose keys or signatures OpenSSL, browsers or Mozilla's profile refuse. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa

#: Mozilla's server side TLS guideline 6.0, intermediate. Debian's OpenSSL refuses shorter ones too.
_RSA_BITS = 2048
_CURVES = ("secp256r1", "secp384r1")
_GOOD = "use ECDSA on P-256 or P-384, or RSA with 2048 bits or more"
#: Nobody checks a root's own signature.
_WEAK_DIGESTS = (hashes.SHA1, hashes.MD5)


def weaknesses(chain: Sequence[x509.Certificate]) -> Iterator[str]:
    """What is too weak in these certificates; each continues a sentence after the file's name."""
    for certificate in chain:
        try:
            name = certificate.subject.rfc4514_string() or "without a subject"
            key = certificate.public_key()
            digest = certificate.signature_hash_algorithm
            root = certificate.subject == certificate.issuer
        except (ValueError, UnsupportedAlgorithm):
            yield f"has a key or a signature of a kind that TLS does not know; {_GOOD}"
            continue
        if isinstance(key, rsa.RSAPublicKey):
            if key.key_size < _RSA_BITS:
                bits = f"{key.key_size} bits ({name})"
                yield f"has an RSA key of {bits}, which OpenSSL refuses; {_GOOD}"
        elif isinstance(key, ec.EllipticCurvePublicKey):
            if key.curve.name not in _CURVES:
                curve = f"{key.curve.name} ({name})"
                yield f"has a key on the curve {curve}, which clients refuse; {_GOOD}"
        else:
            kind = type(key).__name__.strip("_").removesuffix("PublicKey")
            yield f"has a key of the kind {kind} ({name}), which browsers refuse; {_GOOD}"
        if not root and isinstance(digest, _WEAK_DIGESTS):
            yield (
                f"is signed with {digest.name.upper()} ({name}), which OpenSSL refuses; have it"
                " signed with SHA-256"
            )
