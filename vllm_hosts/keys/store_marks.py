"""Which key store a host belongs to, judged by what it has. Touches no host and no file."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum

from cryptography import x509
from cryptography.x509.oid import NameOID

from vllm_hosts.host.files import NOTHING, Found
from vllm_hosts.host.shared import SharedFound
from vllm_hosts.keys import HostKeys
from vllm_hosts.keys.pki import CA_NAME, signed_by
from vllm_hosts.keys.store_content import Content

_MARK = re.compile(r"store ([0-9a-f]{32})\ninventory ([^\x00-\x1f]{1,100})")


@dataclass(frozen=True)
class Mark:
    """The mark on a host: a store's identifier, and the name of its inventory. Not secret."""

    store: str
    inventory: str

    def text(self) -> str:
        """The text that is written."""
        return (
            "# Whose keys this host has: another inventory's deploy leaves the host alone.\n"
            f"store {self.store}\ninventory {self.inventory}\n"
        )

    @classmethod
    def read(cls, text: str) -> Mark | None:
        """The mark in a text; None: there is none."""
        match = _MARK.search(text)
        return cls(match[1], match[2]) if match else None


@dataclass(frozen=True)
class Marked:
    """What a host has that identifies its store.

    :param text: of its mark; None: there is none.
    :param file: kind, mode and owner of the mark, as stat has them.
    :param digests: of the host's keys, if it has no mark.
    :param own: those of them that are in .env.
    :param user: whose rights this was read with; only root sees everything.
    :param shared: what is there where deploys write beside others.
    """

    text: str | None
    file: Found = NOTHING
    certificate: bytes | None = None
    digests: frozenset[str] = frozenset()
    own: frozenset[str] = frozenset()
    user: str = "0"
    shared: SharedFound = field(default_factory=SharedFound)

    def is_right(self, mark: Mark) -> bool:
        """Whether the host has exactly this mark."""
        root_s = self.file.owner[1] == self.file.group[1] == "0"
        plain = self.file.kind == "f" and self.file.mode == 0o644
        return plain and root_s and self.text == mark.text().strip()


class Whose(Enum):
    """Whose a host is, according to its mark or its keys."""

    OURS = "ours"
    NOBODYS = "nobody's"
    ANOTHERS = "another's"
    UNREADABLE = "unreadable"


@dataclass(frozen=True)
class Signs:
    """What identifies a store's hosts, including those that a version without marks deployed.

    :param digests: of every key that the host could have from the store.
    :param ca: the local CA's certificate; None: there is none.
    """

    store: str
    digests: frozenset[str]
    ca: bytes | None


def digests(content: Content, host: str, agents: Iterable[str]) -> frozenset[str]:
    """SHA-256 of all keys that a host may have from a store: clients' headers, and agents' keys."""
    found = {
        f"Bearer {key.value.get_secret_value()}"
        for record in content.clients.values()
        for key in record.keys
    }
    if host in content.internal:
        keys = HostKeys(content.internal[host].value, (), None)
        found |= {keys.internal_of(agent).get_secret_value() for agent in agents}
    return frozenset(hashlib.sha256(key.encode()).hexdigest() for key in found)


def whose(found: Marked, signs: Signs) -> Whose:
    """Whose a host is. A mark is believed; without one, keys and the CA decide."""
    if found.text is not None:
        mark = Mark.read(found.text)
        if mark is None or found.file.kind != "f":
            return Whose.UNREADABLE
        return Whose.OURS if mark.store == signs.store else Whose.ANOTHERS
    if found.digests & signs.digests or _signed(found.certificate, signs.ca):
        return Whose.OURS
    if found.digests or ca_name(found.certificate) is not None:
        return Whose.ANOTHERS
    return Whose.NOBODYS


def inventory_of(found: Marked) -> str | None:
    """The name of the inventory that a host belongs to, if it has one."""
    mark = Mark.read(found.text) if found.text is not None else None
    return mark.inventory if mark else ca_name(found.certificate)


def ca_name(certificate: bytes | None) -> str | None:
    """The inventory whose local CA issued a certificate; None: it is not from a local CA."""
    try:
        issuer = x509.load_pem_x509_certificate(certificate or b"").issuer
    except ValueError:
        return None
    for name in issuer.get_attributes_for_oid(NameOID.COMMON_NAME):
        before, _, rest = str(name.value).partition(" (")
        if before.startswith(CA_NAME):
            return rest.removesuffix(")")
    return None


def _signed(certificate: bytes | None, trusted: bytes | None) -> bool:
    """Whether one of the CAs that clients trust signed a host's certificate."""
    try:
        leaf = x509.load_pem_x509_certificate(certificate or b"")
        roots = x509.load_pem_x509_certificates(trusted or b"")
    except ValueError:
        return False
    return any(signed_by(leaf, root) for root in roots)
