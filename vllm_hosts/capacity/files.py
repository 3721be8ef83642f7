"""Reading a model's folder on this machine: a copy of what the host or the hub has."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vllm_hosts.bounded import INDEX_SIZE, BoundError, parse_json, read_file, why
from vllm_hosts.capacity.fields import UnplannableError
from vllm_hosts.capacity.model import ModelFiles

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
#: Bytes of a config.json: those that list every quantised module have a few hundred thousand.
CONFIG_SIZE = 4 << 20
#: Bytes of weights. No model has a pebibyte.
LARGEST = 1 << 50


def parse_config(model: str, text: str | bytes) -> Mapping[str, Any]:
    """The text of a config.json.

    :raises UnplannableError: it is no JSON object.
    """
    try:
        config = parse_json(text, size=CONFIG_SIZE)
    except BoundError as error:
        raise UnplannableError(f"the config.json of {model} is not read: {error}") from None
    except ValueError as error:
        raise UnplannableError(f"the config.json of {model} is not JSON: {why(error)}") from None
    if not isinstance(config, dict):
        raise UnplannableError(f"the config.json of {model} is no JSON object")
    return config


def total_size(model: str, text: str | bytes) -> int:
    """Bytes of weights, from the text of a safetensors index.

    :raises UnplannableError: it does not say.
    """
    try:
        size = parse_json(text, size=INDEX_SIZE)["metadata"]["total_size"]
        # Some libraries have written it as 1.5e10.
        if not isinstance(size, int | float) or not 0 < size <= LARGEST:
            raise ValueError
    except BoundError as error:
        raise UnplannableError(f"the {INDEX} of {model} is not read: {error}") from None
    except (ValueError, KeyError, TypeError):
        raise UnplannableError(f"the {INDEX} of {model} has no metadata.total_size") from None
    return int(size)


def read_folder(model: str, folder: Path) -> ModelFiles:
    """A folder with config.json, and weights or their index if they are there.

    :raises UnplannableError: the folder or its config.json cannot be read.
    """
    try:
        config = parse_config(model, read_file(folder / "config.json", CONFIG_SIZE))
        if (folder / INDEX).is_file():
            return ModelFiles(config, total_size(model, read_file(folder / INDEX, INDEX_SIZE)))
        return ModelFiles(config, _weights(folder))
    except BoundError as error:
        raise UnplannableError(
            f"the config.json or {INDEX} in {folder} is not read: {error}"
        ) from None
    except OSError as error:
        raise UnplannableError(
            f"{error.filename or folder} cannot be read: {error.strerror}"
        ) from None


def _weights(folder: Path) -> int | None:
    """Bytes of tensors in all safetensors files; each begins with the length of its header.

    Format: https://huggingface.co/docs/safetensors/index#format. Mistral's ``consolidated`` files
    are a second copy, which vLLM leaves alone where there is another.
    """
    total = 0
    for file in folder.glob("*.safetensors"):
        # Nothing but files is opened: a FIFO would never answer.
        if file.name.startswith("consolidated") or not file.is_file():
            continue
        with file.open("rb") as opened:
            start = opened.read(8)
        size = file.stat().st_size
        header: int = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if header > size - 8:
            raise UnplannableError(f"{file} is no safetensors file: its header does not fit in it")
        total += size - 8 - header
    return total or None
