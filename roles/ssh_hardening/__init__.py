"""SSH without passwords, if the settings say so.

Promises: nobody can log in with a password, and nobody is locked out: a login with a key has to
work before the change, and over a new connection after it, or the host undoes it after a minute,
or at a boot before.
Needs: preflight. Writes: /etc/ssh/sshd_config.d/00-vllm-hosts.conf. Reloads sshd when it changed.
"""

from __future__ import annotations

from pyinfra.api.deploy import deploy

from vllm_hosts.operations.ssh import passwords_refused, sshd_configured
from vllm_hosts.project import run
from vllm_hosts.roles.ssh_hardening.plan import ssh_entries


@deploy("SSH hardening")
def ssh_hardening() -> None:
    """Switch password logins off, or leave SSH as it is."""
    settings = run.current().settings
    sshd_configured(
        ssh_entries(settings), name="sshd accepts keys only, if the settings ask for it"
    )
    if settings.ssh_hardening.enabled:
        passwords_refused(name="sshd refuses passwords")
