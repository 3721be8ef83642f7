"""Our file for sshd, from the settings. Touches no host."""

from __future__ import annotations

from vllm_hosts.host.files import Absent, Entry, File
from vllm_hosts.host.render import render
from vllm_hosts.settings import HostSettings

#: First in its folder: sshd keeps the first value that it reads.
PATH = "/etc/ssh/sshd_config.d/00-vllm-hosts.conf"


def ssh_entries(settings: HostSettings) -> list[Entry]:
    """The file, or its absence if hardening is off."""
    if not settings.ssh_hardening.enabled:
        return [Absent(PATH)]
    return [File(PATH, render("ssh_hardening/sshd.conf.j2").encode())]
