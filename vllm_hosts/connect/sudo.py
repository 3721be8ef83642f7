"""Gives sudo its password on standard input, if a check has shown that it asks for one.

pyinfra's own way is ``env PYINFRA_SUDO_PASSWORD=... SUDO_ASKPASS=...``: for a moment the password
is in the arguments and the environment of processes on the host. Here it is the first line of
standard input for ``sudo -S``. sudo reads that line byte by byte, and nothing after it. If it does
not ask after all, a gate of ours in front of the command reads the line, so no command ever does.
"""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Callable
from contextlib import suppress
from getpass import getpass, getuser
from typing import Any
from weakref import WeakKeyDictionary

from pydantic import SecretStr, ValidationError
from pyinfra.api.arguments import CONNECTOR_ARGUMENT_KEYS, pop_global_arguments
from pyinfra.api.command import QuoteString, StringCommand
from pyinfra.api.host import Host
from pyinfra.api.state import State
from pyinfra.connectors.local import LocalConnector
from pyinfra.connectors.ssh import SSHConnector
from pyinfra.connectors.util import (
    CommandOutput,
    make_unix_command,
    make_unix_command_for_host,
)

from vllm_hosts.errors import HostError, SettingsError
from vllm_hosts.keys.sources import sudo_password
from vllm_hosts.settings.masks import MASK
from vllm_hosts.settings.sections import Secrets
from vllm_hosts.text import clean

#: pyinfra's own settings that put a password into arguments on the host.
PYINFRA_S_OWN = ("_sudo_password", "_use_sudo_password", "_su_password")
#: Messages of sudo and sudo-rs: they may not ask, or the password was wrong.
_ASKS = ("a password is required", "interactive authentication is required")
_WRONG = ("Sorry, try again", "incorrect password attempt", "no password was provided")
#: Runs before a command: continues after the mark, whether or not sudo has read the line before.
_GATE = (
    'IFS= read -r l; [ "$l" = "$1" ] || { IFS= read -r l; [ "$l" = "$1" ]; } || {'
    ' echo "standard input of sudo was cut short" >&2; exit 1; }; unset l; shift; exec "$@"'
)
#: Arguments of a connector, not of the command that it runs.
_CONTROL = ("_stdin", "_timeout", "_get_pty", "_success_exit_codes")

#: By host: None if sudo does not ask, or why commands there cannot run as root.
_settled: WeakKeyDictionary[Host, HostError | None] = WeakKeyDictionary()
_passwords: WeakKeyDictionary[Host, SecretStr] = WeakKeyDictionary()
_typed: SecretStr | None = None
_may_ask = True
#: How often somebody was asked for a password.
questions = 0


class NotRootError(HostError):
    """The host was reached, but its sudo refuses us."""


def install() -> None:
    """Replace pyinfra's way by ours. A second call changes nothing."""
    if getattr(SSHConnector.run_shell_command, "over_stdin", False):
        return
    for connector in (SSHConnector, LocalConnector):
        connector.run_shell_command = _over_stdin(connector.run_shell_command)  # type: ignore[method-assign]
    for name, module in list(sys.modules.items()):
        # Each module has imported it by name.
        if name.startswith("pyinfra.connectors.") and hasattr(module, _RETRY):
            setattr(module, _RETRY, _without_retry)


_RETRY = "execute_command_with_sudo_retry"


def _without_retry(host: Host, arguments: object, execute: Callable[[], Any]) -> Any:
    """Without pyinfra's own prompt, after which it would send the password in its own way."""
    return execute()


def take(password: str | None) -> None:
    """Use a password that was typed for pyinfra (``--same-sudo-password``)."""
    global _typed
    if password:
        _typed = SecretStr(password)


def ask_nobody() -> None:
    """Never prompt in this process: it runs beside one that may."""
    global _may_ask
    _may_ask = False


def may_ask(state: State, host: Host) -> bool:
    """Whether somebody may have to type a password at this host's first connection."""
    given, _ = pop_global_arguments(state, host, {})
    return bool(given["_sudo"]) and host not in _settled and _typed is None and _may_ask


def settle(state: State, host: Host) -> None:
    """Check once whether sudo asks at a connected host, and that it accepts the password.

    :raises NotRootError: it does not. This process does not retry: accounts could get locked.
    """
    if host not in _settled:
        try:
            _settled[host] = None
            _settle(state, host)
        except HostError as error:
            _settled[host] = error
        except BaseException:
            del _settled[host]
            raise
    if found := _settled[host]:
        raise found


def _settle(state: State, host: Host) -> None:
    given, _ = pop_global_arguments(state, host, {})
    options: dict[str, Any] = {key: given.get(key) for key in CONNECTOR_ARGUMENT_KEYS}
    for name in PYINFRA_S_OWN:
        if host.data.get(name):
            raise NotRootError(refusal(name))
    if not options["_sudo"] or not isinstance(host.connector, SSHConnector | LocalConnector):
        return
    # Cached credentials could expire in the middle of a run.
    done, output = _plainly(host, [*_sudo(options, "-k", "-n"), "sh", "-c", "true"])
    if done or not any(words in output.stderr for words in _ASKS):
        return
    user = _user(host)
    password, source = _password(host, user)
    mark = secrets.token_hex(8)
    command = [*_sudo(options, "-k", "-S", "-p", "''"), "sh", "-c", f"'echo {mark}'"]
    done, output = _plainly(host, command, [password.get_secret_value()])
    if done and mark in output.stdout_lines:
        _passwords[host] = password
        return
    # A host may repeat what it was sent.
    given_away = password.get_secret_value().strip() or password.get_secret_value()
    said = (line.replace(given_away, MASK).strip() for line in output.stderr_lines)
    lines = [line for line in said if line]
    if any(words in line for line in lines for words in _WRONG):
        raise NotRootError(
            f"commands do not run as root: sudo refuses the password of {user} ({source}), which"
            " was tried once; correct it, or give another to this host alone with"
            ' secrets = {"sudo_password_env": "VARIABLE"}'
        )
    raise NotRootError(
        f"commands do not run as root: {clean(lines[-1]) if lines else 'sudo gave no answer'}; give"
        f" {user} the right to use sudo for everything there, or log in as root"
    )


def _user(host: Host) -> str:
    """The user who is logged in there."""
    client = getattr(host.connector, "client", None)
    transport = client.get_transport() if client is not None else None
    found = transport.get_username() if transport is not None else getuser()
    return str(found or "the login")


def _sudo(options: dict[str, Any], *flags: str) -> list[object]:
    words: list[object] = ["sudo", "-H", *flags]
    if options.get("_use_sudo_login"):
        words.append("-i")
    if options.get("_preserve_sudo_env"):
        words.append("-E")
    if options.get("_sudo_user"):
        words += ["-u", QuoteString(options["_sudo_user"])]
    return words


def _plainly(
    host: Host, words: list[object], given: list[str] | None = None
) -> tuple[bool, CommandOutput]:
    """Run sudo itself, with English messages, as the user who logs in."""
    command = StringCommand("LC_ALL=C", *words)
    return host.connector.run_shell_command(
        command, print_output=False, print_input=False, _stdin=given or [], _shell_executable="sh"
    )


def _password(host: Host, user: str) -> tuple[SecretStr, str]:
    """A host's password and where it comes from.

    :raises NotRootError: there is none.
    """
    global questions
    try:
        found = sudo_password(_secrets(host))
    except SettingsError as error:
        raise NotRootError("; ".join(error.problems)) from error
    if found is not None:
        return found
    if _typed is None and _may_ask and _has_terminal():
        asked = f"sudo password of {user} at {host.name}, and at all hosts that ask for one: "
        # Blocks every greenlet, so that nothing else is printed over the prompt.
        questions += 1
        with suppress(EOFError, OSError):
            take(getpass(asked))
    if _typed is None:
        raise NotRootError(
            "commands do not run as root: sudo asks for a password, and there is no terminal to"
            " type it on;"
            ' set secrets = {"sudo_password_env": "VARIABLE"}, or {"sudo_password_command":'
            f' "COMMAND"}}, for this host, or allow {user} to use sudo without a password there'
        )
    return _typed, "as it was typed"


def _secrets(host: Host) -> Secrets:
    """A host's section `secrets`. Neighbours have none of their own."""
    inventory = host.inventory
    merged: dict[str, Any] = {}
    for data in (
        inventory.get_data(),
        *(inventory.get_group_data(group) for group in host.groups),
        inventory.get_host_data(host.name),
        inventory.get_override_data(),
    ):
        merged |= data.get("secrets") or {}
    try:
        return Secrets.model_validate(merged)
    except ValidationError as error:
        words = error.errors(include_input=False)[0]["msg"]
        raise SettingsError([f"secrets of {host.name}: {words}"]) from None


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


def refusal(name: str) -> str:
    """The sentence about a setting of pyinfra's that would show a password on the host."""
    instead = (
        "log in as root, or with _sudo"
        if name == "_su_password"
        else 'set secrets = {"sudo_password_env": "VARIABLE"} or {"sudo_password_command":'
        ' "COMMAND"} instead, or leave it out to be prompted'
    )
    return f"{name} would stand in process arguments on the host; {instead}"


def _over_stdin(plain: Callable[..., Any]) -> Callable[..., Any]:
    def run_shell_command(
        self: SSHConnector | LocalConnector,
        command: StringCommand,
        print_output: bool = False,
        print_input: bool = False,
        **arguments: Any,
    ) -> Any:
        arguments.pop("_sudo_password", None)
        password = _passwords.get(self.host)
        if password is not None and arguments.get("_sudo"):
            command, arguments = asked(command, arguments, password)
        return plain(self, command, print_output, print_input, **arguments)

    run_shell_command.over_stdin = True  # type: ignore[attr-defined]
    return run_shell_command


def asked(
    command: StringCommand, arguments: dict[str, Any], password: SecretStr
) -> tuple[StringCommand, dict[str, Any]]:
    """The command for a sudo that asks, and the arguments for its connector.

    ``repr`` and ``str`` show no password: it is only in ``_stdin``.
    """
    control = {key: arguments[key] for key in _CONTROL if key in arguments}
    inner = {
        key: value for key, value in arguments.items() if key not in control and "sudo" not in key
    }
    mark = secrets.token_hex(8)
    words = [*_sudo(arguments, "-S", "-k", "-p", "''"), "sh", "-c", QuoteString(_GATE), "sudo"]
    given = control.get("_stdin") or []
    if hasattr(given, "readlines"):
        given = given.readlines()
    if not isinstance(given, list | tuple):
        given = [given]
    control["_stdin"] = [password.get_secret_value(), mark, *given]
    # A terminal would echo the password.
    control["_get_pty"] = False
    return (
        StringCommand(*words, mark, make_unix_command(command, **inner)),
        {**control, "_shell_executable": None},
    )


def whole(
    state: State, host: Host, command: StringCommand, options: dict[str, Any]
) -> tuple[str, list[str]]:
    """A command as a connector sends it, and the lines that stand first in its standard input: for
    one that stays, and is spoken with."""
    options = {key: value for key, value in options.items() if key != "_sudo_password"}
    password = _passwords.get(host)
    if password is not None and options.get("_sudo"):
        command, options = asked(command, options, password)
    given = options.get("_stdin") or []
    inner = {key: value for key, value in options.items() if key not in _CONTROL}
    sent = make_unix_command_for_host(state, host, command, **inner)
    return sent.get_raw_value(), [str(line) for line in given]
