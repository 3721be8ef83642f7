"""Our file for sshd, from the settings. Touches no host."""

from __future__ import annotations

from vllm_hosts.host.files import Absent, Entry, File
from vllm_hosts.host.paths import SSHD_CONF
from vllm_hosts.host.render import render
from vllm_hosts.settings import HostSettings

PATH = SSHD_CONF


def ssh_entries(settings: HostSettings) -> list[Entry]:
    """The file, or its absence if hardening is off."""
    if not settings.ssh_hardening.enabled:
        return [Absent(PATH)]
    return [File(PATH, render("ssh_hardening/sshd.conf.j2").encode())]
