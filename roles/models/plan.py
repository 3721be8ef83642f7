"""Where models lie on a host. Touches no host."""

from __future__ import annotations

from vllm_hosts.host.files import Folder
from vllm_hosts.host.paths import models_folder
from vllm_hosts.settings import HostSettings


def cache_folders(settings: HostSettings) -> list[Folder]:
    """The cache, owned by root, and the part that downloads write and agents read."""
    vllm = settings.vllm
    owner, _, group = vllm.fetch_user.partition(":")
    return [
        Folder(vllm.cache_directory),
        Folder(models_folder(settings), mode=0o750, owner=owner, group=group),
    ]
