"""Changes sshd's configuration, but only if a login with a key is known to work."""

from __future__ import annotations

from collections.abc import Sequence

from pyinfra.api.exceptions import ConnectError
from pyinfra.context import ctx_host, ctx_state

from vllm_hosts.errors import HostError
from vllm_hosts.facts import look
from vllm_hosts.facts.ssh import PasswordLogins
from vllm_hosts.facts.tree import TreeState
from vllm_hosts.host.files import Entry, File, differing
from vllm_hosts.operations.base import Commands, host_operation
from vllm_hosts.operations.confirmed import armed, confirmed
from vllm_hosts.operations.differences import entries_differ, remember
from vllm_hosts.operations.foreseen import leads_to
from vllm_hosts.operations.tree import change

_CHANGE = "ssh"
_RELOAD = "systemctl reload ssh.service 2>/dev/null || systemctl try-restart ssh.service"


@host_operation
def sshd_configured(entries: Sequence[Entry]) -> Commands:
    """Write our file for sshd; undone unless a new login works.

    :param entries: our file, or its absence.
    """
    remember(entries)
    found = look(TreeState, paths=[entry.path for entry in entries], stamp=None)
    different = differing(entries, found.paths)
    if not different:
        return
    entries_differ(different, found.paths)
    leads_to("sshd is reloaded; open connections stay")
    [entry] = different
    if isinstance(entry, File) and ctx_state.get().is_executing:
        _require_key_login()
    yield armed(_CHANGE, [entry.path], save=":", undo=_RELOAD)
    yield change(different, validate="mkdir -p /run/sshd && sshd -t", activate=_RELOAD)
    yield confirmed(_CHANGE, "does a login with a key work for this user?")


@host_operation
def passwords_refused() -> Commands:
    """Fail the host if sshd accepts passwords in spite of our file. Changes nothing."""
    if ctx_state.get().is_executing and (ways := look(PasswordLogins)):
        raise HostError(
            f"sshd still accepts passwords ({', '.join(ways)}): another file in /etc/ssh sets it"
            " before ours; see: sshd -T"
        )
    yield from ()


def _require_key_login() -> None:
    """Require that a new connection can log in with a key.

    :raises HostError: it does not, or this is no SSH connection.
    """
    host = ctx_host.get()
    connector = type(host.connector)(host.state, host)
    try:
        connector.connect()
        client = getattr(connector, "client", None)
        transport = client.get_transport() if client is not None else None
        method = getattr(getattr(transport, "auth_handler", None), "auth_method", None)
    except (ConnectError, OSError, EOFError) as error:
        raise HostError(f"no new SSH connection opens: {error}") from error
    finally:
        connector.disconnect()
    if method != "publickey":
        raise HostError(
            "ssh_hardening disables passwords, but this login was not seen to work with a key"
            f" (it used {method or 'no SSH'}); set ssh_key for this host, or"
            " ssh_hardening.enabled = False"
        )
