"""Connecting to a host: whatever goes wrong becomes one sentence, about that host alone.

pyinfra turns some exceptions into its own ``ConnectError`` and lets others through, such as for a
missing key or a bug in a connector. Those would end the run for all hosts.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from paramiko import SSHException
from pyinfra.api.host import Host
from pyinfra.api.state import BaseStateCallback, State
from pyinfra.connectors.ssh import SSHConnector

from vllm_hosts.connect import sudo
from vllm_hosts.connect.ssh_files import check_key, check_known_hosts, known_hosts
from vllm_hosts.connect.why import UnreachedError, why
from vllm_hosts.errors import HostError
from vllm_hosts.text import clean

# Without a handler it prints a traceback to standard error when a server hangs up.
logging.getLogger("paramiko").addHandler(logging.NullHandler())


#: Seconds between signs of life while a command says nothing, and after which a connection whose
#: other side acknowledges none is given up.
_KEEP_ALIVE, _UNANSWERED = 15, 90
#: Seconds after which a connection that says nothing is looked at again.
_WAKE_UP = 5.0


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
                    check_known_hosts(known_hosts(host))
                    check_key(host)
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
            # paramiko wakes up ten times a second to see whether that is due: a thousand hosts
            # that are only waited for would take most of a processor.
            transport.sock.settimeout(_WAKE_UP)
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
        words = str(error) or type(error).__name__
        raise HostError(f"the connection is lost: {words}") from error
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
