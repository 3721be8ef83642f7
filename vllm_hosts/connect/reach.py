"""Connecting to a host: whatever goes wrong becomes one sentence, about that host alone.

pyinfra turns some exceptions into its own ``ConnectError`` and lets others through, such as for a
missing key or a bug in a connector. Those would end the run for all hosts.
"""

from __future__ import annotations

import logging
import re
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from shlex import quote

from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_ssh_private_key
from paramiko import AuthenticationException, BadHostKeyException, HostKeys, SSHException
from paramiko.hostkeys import InvalidHostKey
from pyinfra.api.exceptions import ConnectError
from pyinfra.api.host import Host
from pyinfra.api.state import BaseStateCallback, State
from pyinfra.connectors.ssh import SSHConnector

from vllm_hosts.connect import sudo
from vllm_hosts.connect.addresses import ssh_entry
from vllm_hosts.errors import HostError, SettingsError
from vllm_hosts.text import clean

# Without a handler it prints a traceback to standard error when a server hangs up.
logging.getLogger("paramiko").addHandler(logging.NullHandler())


#: Seconds between signs of life while a command says nothing, and after which a connection whose
#: other side acknowledges none is given up.
_KEEP_ALIVE, _UNANSWERED = 15, 90


class UnreachedError(ConnectError):
    """A connection that failed, with our sentence."""


class Reaching(BaseStateCallback):
    """Connections that fail with a sentence, and that send without delay."""

    @staticmethod
    def host_before_connect(state: State, host: Host) -> None:
        """Called right before each connection that pyinfra makes."""
        sudo.install()
        connector = host.connector
        if getattr(connector.connect, "says_why", False):
            return
        connect = connector.connect

        def guarded() -> None:
            try:
                if isinstance(connector, SSHConnector):
                    if not host.data.get("ssh_known_hosts_file"):
                        # Expanded as ssh itself does.
                        known_hosts(host).parent.mkdir(mode=0o700, exist_ok=True)
                    _check_known_hosts(known_hosts(host))
                    _check_key(host)
                connect()
                sudo.settle(state, host)
            except Exception as error:
                raise UnreachedError(why(error, host)) from error

        guarded.says_why = True  # type: ignore[attr-defined]
        connector.connect = guarded  # type: ignore[method-assign]

    @staticmethod
    def host_connect(state: State, host: Host) -> None:
        # paramiko leaves Nagle's algorithm on, which costs a delayed acknowledgement per command.
        client = getattr(host.connector, "client", None)
        transport = client.get_transport() if client is not None else None
        if transport is not None and isinstance(transport.sock, socket.socket):
            transport.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # A host that lost its power answers nothing, not even that: without something to
            # acknowledge, and an end to waiting for that, a command there is waited for for ever.
            transport.set_keepalive(_KEEP_ALIVE)
            if limit := getattr(socket, "TCP_USER_TIMEOUT", None):
                transport.sock.setsockopt(socket.IPPROTO_TCP, limit, 1000 * _UNANSWERED)


def connect(host: Host) -> None:
    """Connect to a host, and print nothing.

    :raises HostError: why that is not possible, without the host's name.
    """
    state = host.state
    if not any(isinstance(handler, Reaching) for handler in state.callback_handlers):
        state.add_callback_handler(Reaching())
    try:
        host.connect(show_errors=False, raise_exceptions=True)
    except Exception as error:
        if isinstance(error.__cause__, sudo.NotRootError):
            raise HostError(str(error.__cause__)) from error
        raise HostError(f"cannot be reached: {why(error, host)}") from error


@contextmanager
def saying(host: Host) -> Iterator[None]:
    """Turns whatever is raised while something is done at a host into a ``HostError``."""
    try:
        yield
    except HostError:
        raise
    except (OSError, EOFError, SSHException) as error:
        host.connected = False
        raise HostError(f"the connection is lost: {error or type(error).__name__}") from error
    except Exception as error:
        raise HostError(f"could not be completed: {why(error, host)}") from error


def disconnect(host: Host) -> None:
    """Disconnect from a host, ignoring errors."""
    with suppress(Exception):
        host.disconnect()


def named(host: Host, error: HostError) -> HostError:
    """The sentence, preceded by the host that it is about."""
    return HostError(f"{host.name}: {error}")


def require_root(user: str, words: str) -> None:
    """:param user: what ``id -u`` printed; ``words``: what was printed where it printed nothing.

    :raises HostError: commands there do not run as root.
    """
    if user == "0":
        return
    if user.isdigit():
        raise HostError(
            f"commands do not run as root: user {user} is not root; set _sudo for this host, or log"
            " in as root"
        )
    raise HostError(
        f"commands do not run as root: {clean(words) or 'no answer to id -u'}; give ssh_user the"
        " right to use sudo for everything there, or log in as root and leave _sudo out"
    )


def _address(host: Host) -> str:
    return str(host.data.get("ssh_hostname") or host.name)


def _port(host: Host) -> int:
    return int(host.data.get("ssh_port") or 22)


def known_hosts(host: Host) -> Path:
    """The known_hosts file; ``UserKnownHostsFile`` in an SSH configuration is not read."""
    return Path(host.data.get("ssh_known_hosts_file") or "~/.ssh/known_hosts").expanduser()


def _check_known_hosts(file: Path) -> None:
    """Check known_hosts: pyinfra treats an unreadable file as empty, and so accepts any host key.

    :raises HostError: the file exists, but cannot be read or parsed.
    """
    if problem := _unreadable(file, _version(file)):
        raise HostError(problem)


def _version(file: Path) -> tuple[int, ...]:
    try:
        found = file.stat()
    except OSError:
        return ()
    return (found.st_mtime_ns, found.st_size, found.st_mode, found.st_uid)


@cache
def _unreadable(file: Path, version: tuple[int, ...]) -> str:
    try:
        HostKeys().load(str(file))
    except FileNotFoundError:
        if file.parent.is_dir():
            return ""
        return (
            f"the folder of {file} does not exist, so its key cannot be recorded; create the folder"
        )
    except OSError as error:
        return (
            f"{file}, with the keys of known hosts, cannot be read ({error.strerror}); make it"
            " readable, or name another file as ssh_known_hosts_file"
        )
    except InvalidHostKey as error:
        return f"{_odd(file)} ({error.exc}: {error.line}); correct or remove that line"
    except Exception as error:
        return f"{_odd(file)} ({error}); correct or remove that line"
    return ""


def _odd(file: Path) -> str:
    return f"{file}, with the keys of known hosts, has a line that cannot be understood"


def _check_key(host: Host) -> None:
    """:raises HostError: pyinfra would ask for a passphrase where nobody can type one."""
    key = host.data.get("ssh_key")
    if not key or host.data.get("ssh_key_password") or sys.stdin.isatty():
        return
    file = Path(str(key)).expanduser()
    try:
        data = file.read_bytes()
        read = load_ssh_private_key if b"OPENSSH PRIVATE KEY" in data else load_pem_private_key
        read(data, None)
    except TypeError as error:
        raise HostError(_passphrase(str(key))) from error
    except (OSError, ValueError):
        # Missing, or of a kind that is not read here: pyinfra reports it.
        return


def _passphrase(key: str) -> str:
    return (
        f"the SSH key {key} has a passphrase, and there is no terminal to type it on; add the key"
        " to an agent"
        f" (ssh-add {quote(key)}) and leave ssh_key out, or set ssh_key_password"
    )


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
        return _passphrase(str(key))
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
_HANGS_UP = ("protocol banner", "EOFError", "No existing session", "Connection reset")


def _innermost(error: BaseException) -> BaseException:
    """The exception behind pyinfra's own, which keeps only the message."""
    while isinstance(error, ConnectError):
        inner = error.__cause__ or error.__context__
        if inner is None or not isinstance(inner, Exception):
            break
        error = inner
    return error
