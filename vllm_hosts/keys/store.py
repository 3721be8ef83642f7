"""The one file with all secrets of an inventory: encrypted with age, or private to its owner."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from pydantic import SecretStr, ValidationError

from vllm_hosts.bounded import json_object
from vllm_hosts.errors import SettingsError
from vllm_hosts.keys import age
from vllm_hosts.keys.authority import Authority, stored
from vllm_hosts.keys.host_keys import HostKeys, host_keys
from vllm_hosts.keys.pki import CA_KEY_FILE, LocalCa, utc_now
from vllm_hosts.keys.places import state_folder
from vllm_hosts.keys.private_files import (
    Version,
    check_unshared,
    exists,
    keep_private,
    locked,
    make_folder,
    private_folder,
    read_private,
    version_of,
)
from vllm_hosts.keys.store_content import Content, new_content
from vllm_hosts.settings import HostSettings

#: The version of stores that this toolkit knows.
_FORMAT: int = Content.model_fields["version"].default


class KeyStore:
    """The secrets of one inventory.

    They are in ``keys/NAME.age`` beside the inventory's folder if that file exists (created by
    ``vllm-hosts keys init``), else in a private file in the inventory's state folder.

    What was read is kept, as long as it is what the file holds: a run that asks for every host
    decrypts once, and sees at once what another process has written.

    :param identity: file that decrypts the store; None: the usual places.
    """

    def __init__(self, inventory_file: Path, identity: Path | None = None) -> None:
        inventory_file = inventory_file.resolve()
        self.name = inventory_file.stem
        self.folder = state_folder(inventory_file)
        self.plain_path = self.folder / "keys.json"
        self.encrypted_path = _keys_folder(inventory_file) / f"{self.name}.age"
        self.recipients_path = self.encrypted_path.with_suffix(".recipients")
        self._identity = identity
        self._known: tuple[Version, Content] | None = None

    @property
    def encrypted(self) -> bool:
        """Whether the secrets are in an age file."""
        return exists(self.encrypted_path)

    @property
    def path(self) -> Path:
        """The file that holds the secrets."""
        return self.encrypted_path if self.encrypted else self.plain_path

    def read(self) -> Content:
        """What the store holds. Creates nothing.

        :raises SettingsError: there is no store, it is damaged or open to others, or no identity
            decrypts it.
        """
        content = self.peek()
        if content is None:
            raise SettingsError([self._none()])
        return content

    def peek(self) -> Content | None:
        """What the store holds; None: there is no store yet. Creates nothing.

        :raises SettingsError: as ``read``.
        """
        if not exists(self.path):
            return None
        if exists(self.folder):
            private_folder(self.folder)
        return self._load()

    def ca_certificate(self) -> bytes | None:
        """What clients have to trust, in PEM; None: there is no CA yet. Creates nothing.

        :raises SettingsError: as ``read``.
        """
        return self.authority.trusted()

    def update(
        self, change: Callable[[Content], Content], *, start: Content | None = None
    ) -> Content:
        """Change the store, completely or not at all. A second writer waits, and loses nothing.

        :param start: content of a store that does not exist yet; None: it has to exist.
        :raises SettingsError: as ``read``; or it cannot be written, and is unchanged.
        """
        if start is None and not exists(self.path):
            raise SettingsError([self._none()])
        private_folder(self.folder)
        with locked(self.folder):
            before = self._load()
            first = before or start
            if first is None:
                raise SettingsError([self._none()])
            content = change(first)
            if content != before:
                self._save(content)
        return content

    def _none(self) -> str:
        return (
            f"there is no key store for the inventory {self.name!r} in {self.plain_path.parent}"
            f" or {self.encrypted_path}; its first deploy creates one, and so does: vllm-hosts keys"
            " add. If the inventory was renamed or copied, see docs/inventories.md"
        )

    def host_keys(self, settings: HostSettings) -> HostKeys:
        """The secrets of one host.

        :raises SettingsError: as ``read``, the host was not deployed to yet, or a source of a
            secret gives nothing usable.
        """
        content = self.read()
        own = content.internal.get(settings.name)
        if (settings.is_gateway and content.gateways is None) or (
            settings.runs_agents and own is None
        ):
            raise SettingsError([f"{self.path} has no key for {settings.name}; deploy to it first"])
        return host_keys(content, settings)

    def client_key(self, name: str) -> SecretStr:
        """The newest key of a client.

        :raises SettingsError: there is no such client, or its keys have expired.
        """
        keys = self.read().client(name).valid_keys(utc_now())
        if not keys:
            raise SettingsError([f"all keys of client {name!r} have expired; rotate them"])
        return keys[-1].value

    @property
    def authority(self) -> Authority:
        """The local CA, and how another one takes its place."""
        return Authority(self)

    def local_ca(self) -> LocalCa:
        """The CA that signs now, created at first use. The state folder has the file for clients.

        :raises SettingsError: it is damaged, or as ``read``.
        """
        return self.authority.signer()

    def encrypt(self, recipients: Iterable[str]) -> None:
        """Move the secrets, the CA's among them, into an age file for these recipients.

        :raises SettingsError: it exists already, or a recipient is not valid.
        """
        if self.encrypted:
            raise SettingsError([f"{self.encrypted_path} exists; see vllm-hosts keys recipients"])
        self._check_unshared()
        lines = list(recipients)
        for line in lines:
            age.parse_recipient(line)
        self.local_ca()
        present = self.authority.present()
        assert present is not None
        private_folder(self.folder)
        with locked(self.folder):
            content = self._load() or new_content(utc_now())
            self._write_recipients(lines)
            self._save_encrypted(content.model_copy(update={"ca": stored(present)}), lines)
            try:
                self._load()
            except SettingsError:
                # Nobody here could decrypt it: everything stays as it was.
                for new in (self.encrypted_path, self.recipients_path):
                    new.unlink()
                raise
            # Only now that everything is in a file that can be decrypted.
            for old in (self.plain_path, self.folder / CA_KEY_FILE):
                old.unlink(missing_ok=True)

    def recipients(self) -> list[str]:
        """Who can decrypt the store.

        :raises SettingsError: it is not encrypted.
        """
        if not self.encrypted:
            raise SettingsError(
                [f"the keys of {self.name} are not encrypted; see vllm-hosts keys init"]
            )
        return self._listed()

    def set_recipients(self, lines: list[str]) -> None:
        """Encrypt the store again, for exactly these recipients.

        :raises SettingsError: one of them is not valid, or as ``read``.
        """
        with locked(private_folder(self.folder)):
            content = self._load()
            assert content is not None
            data = age.encrypt(_dumped(content), lines)
            self._write_recipients(lines)
            self._write(self.encrypted_path, data)

    def _listed(self) -> list[str]:
        """The recipients, from a file that nobody else can write."""
        self._check_unshared()
        return age.read_recipients(self.recipients_path)

    def _check_unshared(self) -> None:
        for path in (self.encrypted_path.parent, self.encrypted_path, self.recipients_path):
            check_unshared(path)

    def _load(self) -> Content | None:
        if self.encrypted:
            self._check_unshared()
        # Before the file is read: should it be replaced meanwhile, it is read again next time.
        version = version_of(self.path)
        if self._known is not None and self._known[0] == version:
            return self._known[1]
        content = self._read_file()
        self._known = (version, content) if version is not None and content is not None else None
        return content

    def _read_file(self) -> Content | None:
        if not self.encrypted:
            data = read_private(self.plain_path)
        else:
            content = age.read_whole(self.encrypted_path)
            data = age.decrypt(self.encrypted_path, content, self._identity)
        if data is None:
            return None
        try:
            return Content.model_validate_json(data)
        except ValidationError:
            if (version := _version(data)) > _FORMAT:
                raise SettingsError(
                    [
                        f"{self.path} was written by a newer vllm-hosts (format {version}, and this"
                        f" one knows {_FORMAT}); install that version again, or restore the store"
                        " from before the upgrade"
                    ]
                ) from None
            # The error's own text could contain a key.
            raise SettingsError(
                [
                    f"{self.path} is damaged; restore it from a backup, or move it away to have"
                    " new keys made (every client then needs its new key)"
                ]
            ) from None

    def _save(self, content: Content) -> None:
        if self.encrypted:
            self._save_encrypted(content, self._listed())
        else:
            self._write(self.plain_path, _dumped(content))

    def _save_encrypted(self, content: Content, recipients: list[str]) -> None:
        make_folder(self.encrypted_path.parent)
        self._write(self.encrypted_path, age.encrypt(_dumped(content), recipients))

    def _write_recipients(self, lines: list[str]) -> None:
        make_folder(self.recipients_path.parent)
        head = (
            f"# Who can decrypt {self.encrypted_path.name}: age recipients and SSH public keys.\n"
        )
        self._write(self.recipients_path, (head + "\n".join([*lines, ""])).encode())

    def _write(self, path: Path, data: bytes) -> None:
        self._known = None
        keep_private(path, data)


def _keys_folder(inventory_file: Path) -> Path:
    """``keys`` beside the folder ``inventory``, where it can be committed; else beside the file."""
    parent = inventory_file.parent
    return (parent.parent if parent.name in ("inventory", "inventories") else parent) / "keys"


def _version(data: bytes) -> int:
    """The format of what is no store as this version knows it; 0: it says none."""
    try:
        found = json_object(data.decode()).get("version")
    except ValueError:
        return 0
    return found if isinstance(found, int) else 0


def _dumped(content: Content) -> bytes:
    # Left out if empty: an older version would take the file for a damaged one.
    unused = {name for name in ("next_ca", "renew", "gateways") if not getattr(content, name)}
    return (content.model_dump_json(indent=2, exclude=unused) + os.linesep).encode()
