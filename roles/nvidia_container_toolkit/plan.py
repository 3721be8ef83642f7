"""What a GPU host needs between Docker and the driver, from its settings. Touches no host."""

from __future__ import annotations

PACKAGES = (
    "nvidia-container-toolkit",
    "nvidia-container-toolkit-base",
    "libnvidia-container-tools",
    "libnvidia-container1",
)
#: Left by older instructions; apt would refuse two Signed-By for one archive.
STALE = (
    "/etc/apt/sources.list.d/libnvidia-container.list",
    "/etc/apt/sources.list.d/nvidia-docker.list",
    "/etc/apt/sources.list.d/nvidia-container-runtime.list",
    "/etc/apt/sources.list.d/nvidia-container-toolkit.list",
)
#: As `nvidia-ctk runtime configure` writes it. Merged by us: the tool rewrites the file each time,
#: and some of its versions drop other people's keys.
RUNTIME = {"runtimes": {"nvidia": {"args": [], "path": "nvidia-container-runtime"}}}
