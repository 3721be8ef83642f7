"""Reading a model's configuration from the hub, on the controller: small files, never weights."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import gevent
from gevent.lock import BoundedSemaphore
from platformdirs import user_cache_path
from pydantic import SecretStr

from vllm_hosts.bounded import INDEX_SIZE, BoundError, parse_json, read_file
from vllm_hosts.capacity.fields import UnplannableError
from vllm_hosts.capacity.model_folder import CONFIG_SIZE, INDEX, SINGLE, parse_config, total_size
from vllm_hosts.capacity.model_shape import ModelFiles
from vllm_hosts.errors import SettingsError
from vllm_hosts.keys.private_files import make_folder, write_private

#: What was read is good for this long before the hub is queried again.
_FRESH = timedelta(days=7)


class _UnreachableError(UnplannableError):
    """The hub did not answer, so that asking it about other models would take as long again."""


def cache_folder() -> Path:
    """Where answers are kept: on Linux ``$XDG_CACHE_HOME/vllm-hosts/models``.

    :raises SettingsError: nothing says where this user's home is.
    """
    try:
        return user_cache_path("vllm-hosts") / "models"
    except RuntimeError as error:
        raise SettingsError(
            ["this user has no home, and so no cache; set HOME or XDG_CACHE_HOME"]
        ) from error


class HubClient:
    """Asks a hub about models: at most once for each, with what it said kept on the disk.

    :param token: gives the Hugging Face token when it is needed; None: there is none.
    :param seconds: how long one model may take.
    :param offline: query nobody, and use what is cached, however old.
    :param rest: for this long after a hub did not answer it is not queried again, by any run.
    """

    def __init__(
        self,
        token: Callable[[], SecretStr | None],
        *,
        seconds: float,
        offline: bool = False,
        rest: timedelta = timedelta(),
        folder: Path | None = None,
    ) -> None:
        self._token = token
        self._seconds = seconds
        self._offline = offline
        self._rest = rest
        self._folder = folder or cache_folder()
        self._answers: dict[tuple[str, str | None, str | None], ModelFiles | str] = {}
        self._silent: set[str | None] = set()
        # Hosts are checked side by side, and may have the same models.
        self._one_at_a_time = BoundedSemaphore()

    def read(
        self, model: str, endpoint: str | None = None, revision: str | None = None
    ) -> ModelFiles | str:
        """A model's files, or a sentence that says why they are not known.

        :param endpoint: another hub's URL; None: ``HF_ENDPOINT``, or Hugging Face.
        :param revision: commit, branch or tag; None: the newest.
        """
        asked = (model, endpoint, revision)
        with self._one_at_a_time:
            if asked not in self._answers:
                self._answers[asked] = self._read(*asked)
            return self._answers[asked]

    def _read(self, model: str, endpoint: str | None, revision: str | None) -> ModelFiles | str:
        name = "--".join([*model.split("/"), *(revision or "").split("/")]).removesuffix("--")
        kept = self._folder / f"{name}{_suffix(endpoint)}.json"
        answer = _kept(kept, None if self._offline else _FRESH)
        if answer is not None and isinstance(answer.get("config"), dict):
            return ModelFiles(answer["config"], answer.get("weight_bytes"))
        if self._offline:
            return f"{model} is not in {self._folder}, and the hub was not queried (--offline)"
        silence = self._folder / f"silent{_suffix(endpoint)}.json"
        if endpoint in self._silent or _kept(silence, self._rest) is not None:
            return f"the hub did not answer a while ago, and was not queried again for {model}"
        try:
            token = None if _in_the_clear(endpoint) else self._token()
            with gevent.Timeout(self._seconds, _UnreachableError(_late(model, self._seconds))):
                files = _fetch(model, endpoint, revision, token)
        except SettingsError as error:
            return "; ".join(error.problems)
        except _UnreachableError as error:
            self._silent.add(endpoint)
            _keep(silence, {})
            return str(error)
        except UnplannableError as error:
            return str(error)
        _keep(kept, {"config": dict(files.config), "weight_bytes": files.weight_bytes})
        return files


def _in_the_clear(endpoint: str | None) -> bool:
    """Whether a token would travel without TLS."""
    return (endpoint or os.environ.get("HF_ENDPOINT") or "").startswith("http://")


def _late(model: str, seconds: float) -> str:
    return f"the hub did not answer within {seconds:g} s when queried for {model}"


def _suffix(endpoint: str | None) -> str:
    """Of what is kept: another hub may have something else under the same name."""
    hub = endpoint or os.environ.get("HF_ENDPOINT") or ""
    return f"@{hashlib.sha256(hub.encode()).hexdigest()[:8]}" if hub else ""


def _keep(path: Path, answer: dict[str, Any]) -> None:
    # A cache that cannot be written is no reason to stop.
    with suppress(OSError):
        make_folder(path.parent)
        text = json.dumps(answer | {"read": datetime.now(UTC).isoformat()})
        write_private(path, text.encode())


def _kept(path: Path, longest: timedelta | None) -> dict[str, Any] | None:
    """What is kept, if it is not too old (None: however old). A damaged file counts as none."""
    try:
        answer: dict[str, Any] = parse_json(read_file(path))
        age = datetime.now(UTC) - datetime.fromisoformat(answer["read"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return answer if longest is None or age < longest else None


def _fetch(
    model: str, endpoint: str | None, revision: str | None, token: SecretStr | None
) -> ModelFiles:
    """config.json and the index, or the size of the only file with weights."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    # Slow to import, and needed by few commands.
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils._headers import build_hf_headers

    # False: not the token of whoever is logged in here, since the host would not have it.
    secret = token.get_secret_value() if token else False

    def size(name: str) -> int | None:
        url = hf_hub_url(model, name, revision=revision, endpoint=endpoint)
        return get_hf_file_metadata(url, token=secret).size

    def text(name: str, most: int) -> bytes:
        # Asked first, since a download tries again for half a minute where nobody answers.
        if (size(name) or 0) > most:
            raise UnplannableError(f"the {name} of {model} is not read: it is too large")
        url = hf_hub_url(model, name, revision=revision, endpoint=endpoint)
        # Not into huggingface_hub's own cache: its files there have the names that a hub gives
        # them in headers, which may lead anywhere.
        with Received(most) as received:
            try:
                http_get(url, received, headers=build_hf_headers(token=secret))
            except BoundError as error:
                raise UnplannableError(f"the {name} of {model} is not read: {error}") from None
            return received.getvalue()

    try:
        config = parse_config(model, text("config.json", CONFIG_SIZE))
        try:
            return ModelFiles(config, total_size(model, text(INDEX, INDEX_SIZE)))
        except EntryNotFoundError as error:
            if isinstance(error, LocalEntryNotFoundError):
                raise
        with suppress(EntryNotFoundError):
            return ModelFiles(config, size(SINGLE))
        return ModelFiles(config)
    except UnplannableError:
        raise
    except Exception as error:
        raise _why(model, error) from None


class Received(BytesIO):
    """What arrives from a hub, which may say one size and send another."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most

    def write(self, data: Any) -> int:
        """As a file's.

        :raises BoundError: it is more than may arrive.
        """
        if self.tell() + len(memoryview(data)) > self._most:
            raise BoundError("it is too large")
        return super().write(data)


def _why(model: str, error: Exception) -> UnplannableError:
    """A failed question to the hub, in a sentence. Never shows the request, which has the token."""
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    if isinstance(error, GatedRepoError):
        return UnplannableError(
            f"{model} is gated: accept its terms on the hub, and set secrets.hf_token_env to a"
            " variable with a token that may read it"
        )
    if isinstance(error, RepositoryNotFoundError):
        return UnplannableError(
            f"the hub has no model {model}, or shows it to nobody without a token; check the name,"
            " or set secrets.hf_token_env"
        )
    if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
        return UnplannableError(f"{model} has no config.json on the hub, and cannot be planned")
    if isinstance(error, HfHubHTTPError):
        code = getattr(error.response, "status_code", "an error")
        return UnplannableError(f"the hub answered {code} when queried for {model}")
    cause = error.__cause__ or error
    return _UnreachableError(f"the hub could not be queried for {model}: {type(cause).__name__}")
