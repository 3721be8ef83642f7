"""Models' files as they are, and as they come when something went wrong on the way."""

from __future__ import annotations

import json

POINTER = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\n"
    b"size 3945426872\n"
)


def safetensors(size: int = 1000, content: bytes | None = None) -> bytes:
    """A whole file with one tensor of so many bytes, or this one."""
    data = bytes(size) if content is None else content
    header = json.dumps(
        {
            "__metadata__": {"format": "pt"},
            "x": {"dtype": "U8", "shape": [len(data)], "data_offsets": [0, len(data)]},
        }
    ).encode()
    return len(header).to_bytes(8, "little") + header + data
