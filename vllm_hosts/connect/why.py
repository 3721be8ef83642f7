"""Why a host could not be reached, from whatever pyinfra and paramiko raise: one sentence."""

from __future__ import annotations

import errno
import re
import socket
from shlex import quote

from paramiko import AuthenticationException, BadHostKeyException, SSHException
from paramiko.ssh_exception import NoValidConnectionsError
from pyinfra.api.exceptions import ConnectError
from pyinfra.api.host import Host

from vllm_hosts.connect.addresses import port_of, ssh_entry
from vllm_hosts.connect.ssh_files import known_hosts, passphrase
from vllm_hosts.errors import HostError, SettingsError
from vllm_hosts.text import clean


class UnreachedError(ConnectError):
    """A connection that failed, with our sentence."""


def why(error: BaseException, host: Host) -> str:
    """One sentence about why a host could not be reached, with the way out if there is one."""
    cause = _innermost(error)
    text = clean(str(cause) or type(cause).__name__)
    if isinstance(error, UnreachedError | HostError):
        return str(error)
    address, port, data = _address(host), _port(host), host.data
    key = data.get("ssh_key")
    if "No such private key file" in text:
        return f"the SSH key {key} does not exist; correct ssh_key, or leave it out to use an agent"
    if "is encrypted, set ssh_key_password" in text:
        return passphrase(str(key))
    if "Invalid private key file" in text or "Invalid key" in text:
        return (
            f"the SSH key {key} cannot be read as a private key; if it has a passphrase,"
            " ssh_key_password may be wrong"
        )
    if isinstance(cause, BadHostKeyException) or "does not match" in text:
        name = address if port == 22 else f"[{address}]:{port}"
        return (
            "its SSH host key has changed: it was reinstalled, or somebody is intercepting the"
            " connection. If you know that it was reinstalled: ssh-keygen -f"
            f" {quote(str(known_hosts(host)))}"
            f" -R {quote(name)}"
        )
    if "found in known_hosts" in text:
        return (
            f"its SSH host key is not in {known_hosts(host)}, and ssh_strict_host_key_checking"
            f" requires it there; compare it with the host's own, then: ssh-keyscan -p {port}"
            f" {address}"
        )
    if isinstance(cause, AuthenticationException) or "Authentication error" in text:
        user = data.get("ssh_user") or "the user of this machine"
        way = f"the SSH key {key}" if key else "any key of the agent or of ~/.ssh"
        return (
            f"it does not let {user} in with {way}; correct ssh_user and ssh_key, or add the key to"
            " that user's authorized_keys there"
        )
    if isinstance(cause, socket.gaierror):
        return (
            f"the name {address} does not resolve ({cause.strerror}); correct it, or set"
            " ssh_hostname to the host's address"
        )
    if strerror := _no_way(cause):
        return (
            f"no way leads to {address} port {port} ({strerror}); is it up, and is the address"
            " right?"
        )
    if (tried := _TRIED.search(text)) and _is_alias(host):
        return (
            f"{tried[2]} refuses connections to port {tried[1]}; is sshd running there, and is its"
            " Port in your SSH configuration right?"
        )
    if isinstance(cause, ConnectionRefusedError) or "Unable to connect to port" in text:
        return (
            f"{address} refuses connections to port {port}; is sshd running there, and is ssh_port"
            " right?"
        )
    if isinstance(cause, TimeoutError):
        return (
            f"no answer from {address} port {port}; is it up, is the address right, and does a"
            " firewall let this machine in?"
        )
    if _SILENT in text:
        return (
            f"{address} port {port} took the connection, and did not go on as sshd does; is that"
            " sshd, and does it answer there?"
        )
    if isinstance(cause, EOFError | ConnectionError) or any(word in text for word in _HANGS_UP):
        return (
            f"{address} port {port} closed the connection ({text}); is that sshd, and does it let"
            " this machine in (MaxStartups, fail2ban)?"
        )
    if isinstance(cause, OSError) and cause.filename:
        return f"{cause.filename}: {cause.strerror}"
    if isinstance(cause, OSError | SSHException | ConnectError):
        return text
    return f"{type(cause).__name__}: {text}"


#: paramiko's messages, with the address that was really used: an alias's, or a jump host's.
_TRIED = re.compile(r"Unable to connect to port (\d+) on ([^\s,)]+)")


def _is_alias(host: Host) -> bool:
    try:
        return bool(ssh_entry(host))
    except SettingsError:
        return False


#: paramiko's messages if the other side hung up before SSH began.
_HANGS_UP = ("protocol banner", "EOFError", "Connection reset")
#: Paramiko's words where its patience with a server has ended.
_SILENT = "No existing session"
#: What a kernel says where no host answers for an address, which paramiko calls a port.
_NO_WAY = (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN)


def _no_way(cause: BaseException) -> str:
    """The kernel's words, if it knows no way to any address that was tried; else empty."""
    tried = cause.errors.values() if isinstance(cause, NoValidConnectionsError) else [cause]
    known = [one for one in tried if isinstance(one, OSError) and one.errno in _NO_WAY]
    return clean(known[0].strerror or "") if known and len(known) == len([*tried]) else ""


def _innermost(error: BaseException) -> BaseException:
    """The exception behind pyinfra's own, which keeps only the message."""
    while isinstance(error, ConnectError):
        inner = error.__cause__ or error.__context__
        if inner is None or not isinstance(inner, Exception):
            break
        error = inner
    return error


def _address(host: Host) -> str:
    return str(host.data.get("ssh_hostname") or host.name)


def _port(host: Host) -> int:
    return port_of(host.data.get("ssh_port")) or 22
