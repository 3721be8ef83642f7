"""API keys and tokens on the controller. Values are typed, so that no repr shows them."""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError

from vllm_hosts.atomic import locked, private_folder, read_private, write_private
from vllm_hosts.errors import SettingsError
from vllm_hosts.settings import HostSettings

#: What .env, nginx and an HTTP header carry without quoting.
_SAFE = re.compile(r"[A-Za-z0-9._~+/=-]+")
DEFAULT_CLIENT = "default"


@dataclass(frozen=True)
class Client:
    """A named holder of an API key."""

    name: str
    key: SecretStr


@dataclass(frozen=True)
class HostKeys:
    """The secrets that one host needs."""

    internal: SecretStr
    clients: tuple[Client, ...]
    hf_token: SecretStr | None


class KeyStore(Protocol):
    """Where keys come from. A file today; whatever takes its place needs no more than this."""

    def host_keys(self, settings: HostSettings) -> HostKeys:
        """The secrets of one host; keys that do not exist yet are made and kept."""
        ...

    def client_key(self, name: str) -> SecretStr:
        """A client's key.

        :raises SettingsError: there is no such client.
        """
        ...


class _Stored(BaseModel):
    model_config = ConfigDict(extra="forbid")

    internal: dict[str, str] = {}
    clients: dict[str, str] = {}


class FileKeyStore:
    """Keys of one inventory in ``keys.json``, mode 0600, in a folder of mode 0700."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "keys.json"

    def host_keys(self, settings: HostSettings) -> HostKeys:
        """See ``KeyStore``.

        :raises SettingsError: the file is damaged or open to others, or a named environment
            variable holds nothing usable.
        """
        if found := problems(settings):
            raise SettingsError(found)
        stored = self._update(lambda stored: _complete(stored, settings.name))
        given = _from_environment(settings.secrets.internal_key_env)
        return HostKeys(
            internal=given or SecretStr(stored.internal[settings.name]),
            clients=tuple(
                Client(name, SecretStr(key)) for name, key in sorted(stored.clients.items())
            ),
            hf_token=_from_environment(settings.secrets.hf_token_env),
        )

    def client_key(self, name: str) -> SecretStr:
        """See ``KeyStore``."""
        stored = self._update(_with_default_client)
        if name not in stored.clients:
            known = ", ".join(sorted(stored.clients))
            raise SettingsError([f"there is no client {name!r} in {self.path}; there is {known}"])
        return SecretStr(stored.clients[name])

    def _update(self, change: Callable[[_Stored], None]) -> _Stored:
        private_folder(self.folder)
        with locked(self.folder):
            content = read_private(self.path)
            stored = self._parse(content)
            before = stored.model_copy(deep=True)
            change(stored)
            if content is None or stored != before:
                write_private(self.path, (stored.model_dump_json(indent=2) + "\n").encode())
        return stored

    def _parse(self, content: bytes | None) -> _Stored:
        if content is None:
            return _Stored()
        try:
            return _Stored.model_validate(json.loads(content))
        except (ValueError, ValidationError):
            # The error's own text could show a key.
            raise SettingsError(
                [
                    f"{self.path} is damaged; restore it from a backup, or move it away to have"
                    " new keys made (every client then needs its new key)"
                ]
            ) from None


def _complete(stored: _Stored, host: str) -> None:
    stored.internal.setdefault(host, secrets.token_urlsafe(32))
    _with_default_client(stored)


def _with_default_client(stored: _Stored) -> None:
    if not stored.clients:
        stored.clients[DEFAULT_CLIENT] = secrets.token_urlsafe(32)


def _from_environment(variable: str | None) -> SecretStr | None:
    return SecretStr(os.environ[variable]) if variable else None


def problems(settings: HostSettings) -> list[str]:
    """What is wrong with secrets that come from the environment, one sentence each."""
    named = {
        "secrets.internal_key_env": settings.secrets.internal_key_env,
        "secrets.hf_token_env": settings.secrets.hf_token_env,
    }
    found = []
    for setting, variable in named.items():
        if variable is None:
            continue
        value = os.environ.get(variable)
        if not value:
            how = "empty" if value == "" else "not set"
            found.append(
                f"{setting} names the environment variable {variable}, which is {how};"
                " export it, or remove the setting"
            )
        elif not _SAFE.fullmatch(value):
            found.append(
                f"{setting}: the value of {variable} has spaces, line breaks or other characters"
                " that a key cannot have; export it without them"
            )
    return found
