"""Settings of the lab's hosts: the lab's own archives and image, and a model that fits a CPU."""

import json
import os

from lab import archive as _archive
from lab import layout as _layout

_fingerprints = _archive.fingerprints()

docker = {
    "archive_url": f"https://{_layout.ARCHIVE_NAME}/docker/linux",
    "key_fingerprint": _fingerprints["docker"],
}
nvidia = {
    "archive_url": f"https://{_layout.ARCHIVE_NAME}/nvidia/libnvidia-container/stable/deb",
    "key_url": f"https://{_layout.ARCHIVE_NAME}/nvidia/libnvidia-container/gpgkey",
    "key_fingerprint": _fingerprints["nvidia"],
}
vllm = {"image": _layout.IMAGE, "image_disk": 6, "health_timeout": 600}

#: vLLM's CPU build: no compiler in the image, and little memory for the KV cache.
_CPU = {"extra_args": ["--enforce-eager"], "env": {"VLLM_CPU_KVCACHE_SPACE": "1"}}
agents = [
    {
        "name": "tiny",
        "model": _layout.MODEL_FOLDER,
        "port": 8001,
        "gpus": [0],
        "max_model_len": 1024,
        "tool_call_parser": "hermes",
        **_CPU,
    },
    {
        "name": "spare",
        "model": _layout.MODEL_FOLDER,
        "port": 8002,
        "gpus": [1],
        "max_model_len": 512,
        **_CPU,
    },
]

# The lab's tests change settings for one run in this way.
globals().update(json.loads(os.environ.get("LAB_SETTINGS", "{}")))
