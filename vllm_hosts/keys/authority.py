"""An inventory's local CA, which is kept in the encrypted store or in files beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol

from cryptography import x509

from vllm_hosts.errors import SettingsError
from vllm_hosts.keys import ca
from vllm_hosts.keys.pki import CA_KEY_FILE, LocalCa, signed_by, utc_now
from vllm_hosts.keys.places import CA_FILE
from vllm_hosts.keys.private_files import keep_private, locked, private_folder
from vllm_hosts.keys.store_content import Content, NextCa, StoredCa

_END = "-----END CERTIFICATE-----"


class Store(Protocol):
    """What the authority needs from the store of keys. See ``KeyStore``."""

    name: str
    folder: Path

    @property
    def encrypted(self) -> bool: ...
    @property
    def path(self) -> Path: ...
    def peek(self) -> Content | None: ...
    def update(self, change: Callable[[Content], Content]) -> Content: ...


class Authority:
    """The CA, and the one that will replace it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._file = store.folder / CA_FILE

    def signer(self) -> LocalCa:
        """The CA that signs now, created at first use. Writes the file that clients need.

        :raises SettingsError: it is damaged, or as ``KeyStore.read``.
        """
        found = self.found()
        if found is None:
            return self.keep(LocalCa.create(self._store.name, utc_now()))
        self.settle()
        return found

    def found(self) -> LocalCa | None:
        """The CA that signs now; None: there is none yet. Creates and writes nothing.

        :raises SettingsError: as ``signer``.
        """
        content = self._store.peek()
        following, now = content.next_ca if content else None, utc_now()
        if following is not None and ca.phase(following, now) != "both":
            where = f"the new CA in {self._store.path}"
            return LocalCa.from_pem(following.certificate.encode(), following.key, where)
        return self._in_place(content)

    def keep(self, made: LocalCa) -> LocalCa:
        """Store a new CA, unless there is one already: then that one is kept.

        :raises SettingsError: as ``signer``, or it cannot be written.
        """
        store = self._store
        if store.encrypted:
            store.update(lambda content: content if content.ca else _with(content, made))
        else:
            made.keep(private_folder(store.folder))
        self.settle()
        kept = self.found()
        assert kept is not None
        return kept

    def present(self) -> LocalCa | None:
        """The present CA: during a change, the old one until it is no longer trusted.

        :raises SettingsError: as ``signer``.
        """
        self.settle()
        return self._in_place(self._store.peek())

    def settle(self) -> None:
        """Complete a change that is over, and bring the file for clients up to date.

        :raises SettingsError: as ``signer``.
        """
        now = utc_now()
        if self._store.encrypted:
            self._store.update(lambda content: _over(content, now))
        else:
            self._settle_files(now)
        content = self._store.peek()
        # Found by its key: the file may still hold a CA that is outgoing, or was withdrawn.
        present = self._in_place(content)
        if present is not None:
            following = content.next_ca if content else None
            private_folder(self._store.folder)
            self._write_public(ca.trusted(present.certificate_pem.decode(), following, now))

    def trusted(self) -> bytes | None:
        """What clients should trust now, in PEM: during a change, both CAs. None: there is no CA
        yet, and none is created.

        :raises SettingsError: as ``KeyStore.read``.
        """
        content = self._store.peek()
        following = content.next_ca if content else None
        if self._store.encrypted:
            present = content.ca.certificate if content and content.ca else None
        else:
            present = self._present_in_file(following)
        return ca.trusted(present, following, utc_now()).encode() if present else None

    def following(self) -> NextCa | None:
        """The CA that replaces the present one, until the old one is no longer trusted.

        :raises SettingsError: as ``KeyStore.read``.
        """
        content = self._store.peek()
        following = content.next_ca if content else None
        return None if following and ca.phase(following, utc_now()) == "over" else following

    def refresh_file(self) -> None:
        """Bring the file for clients up to date if there is a CA: in another clone of an encrypted
        store it may be old or missing.

        :raises SettingsError: as ``KeyStore.read``.
        """
        if (certificates := self.trusted()) is not None:
            private_folder(self._store.folder)
            self._write_public(certificates.decode())

    def check_replace(self, overlap: timedelta) -> None:
        """Check that ``replace`` would create a CA. Changes nothing.

        :raises SettingsError: as ``replace``.
        """
        if self.trusted() is None:
            raise SettingsError(["there is no CA to replace yet; the first deploy creates one"])
        if (content := self._store.peek()) is not None:
            ca.check_begin(content, overlap, utc_now())

    def replace(self, overlap: timedelta) -> NextCa:
        """Create a CA that replaces the present one after ``overlap``; zero: now.

        :raises SettingsError: as ``signer``; there is no CA yet, or a change is under way.
        """
        now = utc_now()
        self.check_replace(overlap)
        # Completes an earlier change that is over.
        self.signer()
        made = LocalCa.create(self._store.name, now, dated=True)
        return self._changed(lambda content: ca.begin(content, made, overlap, now))

    def finish(self) -> NextCa:
        """End the present phase of a change now, rather than at its time.

        :raises SettingsError: as ``signer``, or no change is under way.
        """
        return self._changed(lambda content: ca.finish(content, utc_now()))

    def cancel(self) -> None:
        """Withdraw a new CA that has not taken over yet.

        :raises SettingsError: as ``signer``, or there is none.
        """
        self._store.update(lambda content: ca.cancel(content, utc_now()))
        self.signer()

    def _changed(self, change: Callable[[Content], Content]) -> NextCa:
        following = self._store.update(change).next_ca
        assert following is not None
        self.signer()
        return following

    def _in_place(self, content: Content | None) -> LocalCa | None:
        """The present CA, from where it is kept."""
        store = self._store
        if not store.encrypted:
            return LocalCa.load(store.folder)
        kept = content.ca if content else None
        if kept is None:
            return None
        return LocalCa.from_pem(kept.certificate.encode(), kept.key, str(store.path))

    def _settle_files(self, now: datetime) -> None:
        """Complete a change in files. They match the store at any time, even if this is cut off."""
        content = self._store.peek()
        following = content.next_ca if content else None
        if following is None or ca.phase(following, now) != "over":
            return

        def done(content: Content) -> Content:
            # Meanwhile another run may have begun another change.
            over = content.next_ca == following
            return content.model_copy(update={"next_ca": None}) if over else content

        with locked(private_folder(self._store.folder)):
            seen = self._store.peek()
            if seen is None or seen.next_ca != following:
                # Another run has completed it, and the CA in the files may be a later one.
                return
            keep_private(self._file, following.certificate.encode() + self._file.read_bytes())
            key = following.key.get_secret_value().encode()
            keep_private(self._store.folder / CA_KEY_FILE, key)
        self._store.update(done)

    def _present_in_file(self, following: NextCa | None) -> str | None:
        """The present CA's certificate, read without its key: the one that is not the new CA's."""
        if not self._file.is_file():
            return None
        text = self._file.read_bytes().decode("ascii", "replace")
        if following is None:
            return text
        own = following.certificate.strip()
        others = [one for one in _each(text) if one != own]
        return others[0] if others else own

    def _write_public(self, certificates: str) -> None:
        data = certificates.encode()
        if not self._file.exists() or self._file.read_bytes() != data:
            keep_private(self._file, data)


def _each(text: str) -> list[str]:
    """The single certificates of a file in PEM."""
    return [f"{one.strip()}\n{_END}" for one in text.split(_END) if one.strip()]


def _with(content: Content, made: LocalCa) -> Content:
    return content.model_copy(update={"ca": stored(made)})


def _over(content: Content, now: datetime) -> Content:
    """With the new CA in place, if the old one is no longer trusted."""
    following = content.next_ca
    if following is None or ca.phase(following, now) != "over":
        return content
    own = StoredCa(certificate=following.certificate, key=following.key)
    return content.model_copy(update={"ca": own, "next_ca": None})


def stored(made: LocalCa) -> StoredCa:
    """A CA in the form that the store holds."""
    return StoredCa(certificate=made.certificate_pem.decode(), key=made.key_text())


#: Certificates of hosts live for a year at most, and clients need time.
_CA_ENDS_SOON = timedelta(days=400)


def ca_warnings(
    authority: Authority, certificate: x509.Certificate, host: str, now: datetime
) -> Iterator[str]:
    """What will go wrong because of the local CA, on a host that works today.

    :param certificate: the one that the host presents.
    :raises SettingsError: as ``KeyStore.read``.
    """
    given = authority.trusted()
    if given is None:
        return
    signer, *others = x509.load_pem_x509_certificates(given)
    following = authority.following()
    if following is not None and ca.phase(following, now) == "after":
        if any(signed_by(certificate, one) for one in others):
            yield (
                "its certificate is from the outgoing CA, which clients stop trusting after"
                f" {ca.shown(following.old_ends)}; a deploy replaces it with one from the new CA:"
                " pyinfra"
                f" INVENTORY deploy.py --limit {host}"
            )
    elif following is None and signer.not_valid_after_utc - now < _CA_ENDS_SOON:
        yield (
            f"the local CA expires on {signer.not_valid_after_utc:%Y-%m-%d}, and with it every"
            " certificate that it signed; create another in time: vllm-hosts keys new-ca INVENTORY"
        )
