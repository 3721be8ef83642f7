"""Reading a model's folder on this machine: a copy of what the host or the hub has."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vllm_hosts.bounded import INDEX_SIZE, BoundError, parse_json, read_file, why
from vllm_hosts.capacity.fields import UnplannableError
from vllm_hosts.capacity.model_shape import ModelFiles
from vllm_hosts.hub.weights import IS_POINTER, LARGEST, is_pointer, parts, read_total, tensor_bytes

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
#: Bytes of a config.json: those that list every quantised module have a few hundred thousand.
CONFIG_SIZE = 4 << 20


def parse_config(model: str, text: str | bytes) -> Mapping[str, Any]:
    """The text of a config.json.

    :raises UnplannableError: it is not a JSON object.
    """
    if is_pointer(text.encode() if isinstance(text, str) else text):
        raise UnplannableError(f"the config.json of {model} {IS_POINTER}")
    try:
        config = parse_json(text, size=CONFIG_SIZE)
    except BoundError as error:
        raise UnplannableError(f"the config.json of {model} is not read: {error}") from None
    except ValueError as error:
        raise UnplannableError(f"the config.json of {model} is not JSON: {why(error)}") from None
    if not isinstance(config, dict):
        raise UnplannableError(f"the config.json of {model} is not a JSON object")
    return config


def total_size(model: str, text: str | bytes) -> int | None:
    """Bytes of weights, from the text of a safetensors index; None: it does not say.

    :raises UnplannableError: it cannot be read, or says what no model has.
    """
    try:
        index = parse_json(text, size=INDEX_SIZE)
    except BoundError as error:
        raise UnplannableError(f"the {INDEX} of {model} is not read: {error}") from None
    except ValueError as error:
        raise UnplannableError(f"the {INDEX} of {model} is not JSON: {why(error)}") from None
    metadata = index.get("metadata") if isinstance(index, dict) else None
    said = metadata.get("total_size") if isinstance(metadata, dict) else None
    total = read_total(said)
    if total is None and isinstance(said, int | float) and said > LARGEST:
        raise UnplannableError(f"the {INDEX} of {model} has an impossible metadata.total_size")
    return total


def read_folder(model: str, folder: Path) -> ModelFiles:
    """A folder with config.json, and weights or their index if they are there.

    :raises UnplannableError: the folder or its config.json cannot be read, or there are files that
        hold no weights.
    """
    try:
        config = parse_config(model, read_file(folder / "config.json", CONFIG_SIZE))
        total, names = None, frozenset[str]()
        if (folder / INDEX).is_file():
            index = read_file(folder / INDEX, INDEX_SIZE)
            if is_pointer(index):
                raise UnplannableError(f"{folder} holds no weights: {INDEX} {IS_POINTER}")
            total, names = total_size(model, index), parts(index, INDEX_SIZE)
        # The files themselves are checked in any case: a pointer is no weights.
        files = _weights(folder, names)
        return ModelFiles(config, files if total is None else total)
    except BoundError as error:
        raise UnplannableError(
            f"the config.json or {INDEX} in {folder} is not read: {error}"
        ) from None
    except OSError as error:
        raise UnplannableError(
            f"{error.filename or folder} cannot be read: {error.strerror}"
        ) from None


def _weights(folder: Path, names: frozenset[str]) -> int | None:
    """Bytes of tensors in the safetensors files; None: there are none, or not all.

    Mistral's ``consolidated`` files are a second copy, which vLLM leaves alone where there is
    another.

    :param names: those that the index names; empty: all of the folder.
    """
    total = 0
    for file in sorted(folder.glob("*.safetensors")):
        # Nothing but files is opened: a FIFO would never answer.
        if file.name.startswith("consolidated") or not file.is_file():
            continue
        if names and file.name not in names:
            continue
        names -= {file.name}
        with file.open("rb") as opened:
            try:
                total += tensor_bytes(opened, file.stat().st_size)
            except ValueError as error:
                raise UnplannableError(f"{folder} holds no weights: {file.name} {error}") from None
    return None if names else total or None
