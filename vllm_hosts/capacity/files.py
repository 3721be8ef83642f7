"""Reading a model's folder on this machine: a copy of what the host or the hub has."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vllm_hosts.capacity.fields import UnplannableError
from vllm_hosts.capacity.model import ModelFiles

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"


def parse_config(model: str, text: str | bytes) -> Mapping[str, Any]:
    """The text of a config.json.

    :raises UnplannableError: it is no JSON object.
    """
    try:
        config = json.loads(text)
    except ValueError as error:
        raise UnplannableError(f"the config.json of {model} is not JSON: {error}") from None
    if not isinstance(config, dict):
        raise UnplannableError(f"the config.json of {model} is no JSON object")
    return config


def total_size(model: str, text: str | bytes) -> int:
    """Bytes of weights, from the text of a safetensors index.

    :raises UnplannableError: it does not say.
    """
    try:
        return int(json.loads(text)["metadata"]["total_size"])
    except (ValueError, KeyError, TypeError):
        raise UnplannableError(f"the {INDEX} of {model} has no metadata.total_size") from None


def read_folder(model: str, folder: Path) -> ModelFiles:
    """A folder with config.json, and weights or their index if they are there.

    :raises UnplannableError: the folder or its config.json cannot be read.
    """
    try:
        config = parse_config(model, (folder / "config.json").read_bytes())
        if (folder / INDEX).is_file():
            return ModelFiles(config, total_size(model, (folder / INDEX).read_bytes()))
        return ModelFiles(config, _weights(folder))
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
        if file.name.startswith("consolidated"):
            continue
        with file.open("rb") as opened:
            start = opened.read(8)
        if len(start) == 8:
            total += file.stat().st_size - 8 - struct.unpack("<Q", start)[0]
    return total or None
