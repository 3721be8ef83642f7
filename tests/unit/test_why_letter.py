"""Why a host could not be reached: one sentence for whatever pyinfra and paramiko raise."""

from __future__ import annotations

import socket
from types import SimpleNamespace
from typing import Any

import pytest
from paramiko import AuthenticationException, BadHostKeyException, RSAKey, SSHException
from paramiko.ssh_exception import NoValidConnectionsError
from pyinfra.api.exceptions import ConnectError

from vllm_hosts.connect import why as module
from vllm_hosts.connect.why import UnreachedError, why
from vllm_hosts.errors import HostError, SettingsError

KNOWN = {"ssh_known_hosts_file": "/k h"}


def host(**data: Any) -> Any:
    return SimpleNamespace(name="gpu1", data=KNOWN | data)


def behind(cause: BaseException, words: str = "SSH error") -> ConnectError:
    """As pyinfra raises its own."""
    error = ConnectError(words)
    error.__cause__ = cause
    return error


@pytest.fixture(autouse=True)
def no_aliases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ssh_entry", lambda host: {})


CHANGED = (
    "its SSH host key has changed: it was reinstalled, or somebody is intercepting the connection."
    " If you know that it was reinstalled: ssh-keygen -f '/k h' -R "
)
HANGS_UP = "; is that sshd, and does it let this machine in (MaxStartups, fail2ban)?"
REFUSES = "gpu1 refuses connections to port 22; is sshd running there, and is ssh_port right?"
LETS_IN = (
    "it does not let {} in with {}; correct ssh_user and ssh_key, or add the key to that user's"
    " authorized_keys there"
)


@pytest.mark.parametrize(
    ("error", "data", "said"),
    [
        (UnreachedError("ours"), {}, "ours"),
        (HostError("ours"), {}, "ours"),
        (
            ConnectError("No such private key file: x"), {"ssh_key": "/a"},
            "the SSH key /a does not exist; correct ssh_key, or leave it out to use an agent",
        ),
        *(
            (
                ConnectError(text), {"ssh_key": "/a"},
                "the SSH key /a cannot be read as a private key; if it has a passphrase,"
                " ssh_key_password may be wrong",
            )
            for text in ("Invalid private key file: /a", "Invalid key")
        ),
        (ConnectError("Host key does not match"), {}, f"{CHANGED}gpu1"),
        (
            ConnectError("Host key does not match"),
            {"ssh_port": 2222, "ssh_hostname": "192.0.2.1"},
            f"{CHANGED}'[192.0.2.1]:2222'",
        ),
        (
            ConnectError("No host key for gpu1 found in known_hosts"), {"ssh_port": 2222},
            "its SSH host key is not in /k h, and ssh_strict_host_key_checking requires it there;"
            " compare it with the host's own, then: ssh-keyscan -p 2222 gpu1",
        ),
        (
            behind(AuthenticationException("x")), {},
            LETS_IN.format("the user of this machine", "any key of the agent or of ~/.ssh"),
        ),
        (
            ConnectError("Authentication error: x"), {"ssh_user": "ada", "ssh_key": "/a"},
            LETS_IN.format("ada", "the SSH key /a"),
        ),
        (
            behind(socket.gaierror(-2, "Name or service not known")), {},
            "the name gpu1 does not resolve (Name or service not known); correct it, or set"
            " ssh_hostname to the host's address",
        ),
        (behind(ConnectionRefusedError()), {}, REFUSES),
        (ConnectError("Unable to connect to port 7 on 192.0.2.9"), {}, REFUSES),
        (
            behind(TimeoutError("timed out")), {},
            "no answer from gpu1 port 22; is it up, is the address right, and does a firewall let"
            " this machine in?",
        ),
        (
            behind(SSHException("No existing session")), {},
            "gpu1 port 22 took the connection, and did not go on as sshd does; is that sshd, and"
            " does it answer there?",
        ),
        (
            behind(NoValidConnectionsError({("192.0.2.9", 22): OSError(113, "No route to host")})),
            {},
            "no way leads to gpu1 port 22 (No route to host); is it up, and is the address right?",
        ),
        (
            behind(NoValidConnectionsError({
                ("192.0.2.9", 22): OSError(113, "No route to host"),
                ("192.0.2.8", 22): ConnectionRefusedError(),
            })),
            {},
            REFUSES,
        ),
        (behind(EOFError()), {}, f"gpu1 port 22 closed the connection (EOFError){HANGS_UP}"),
        (
            behind(ConnectionResetError("reset")), {},
            f"gpu1 port 22 closed the connection (reset){HANGS_UP}",
        ),
        *(
            (
                behind(SSHException(f"a {text}")), {},
                f"gpu1 port 22 closed the connection (a {text}){HANGS_UP}",
            )
            for text in ("protocol banner", "EOFError", "Connection reset")
        ),
        (behind(PermissionError(13, "Permission denied", "/a")), {}, "/a: Permission denied"),
        (behind(OSError("no route")), {}, "no route"),
        (behind(SSHException("odd\x1b[2J")), {}, "odd"),
        (ConnectError("plain"), {}, "plain"),
        (RuntimeError("odd"), {}, "RuntimeError: odd"),
        (RuntimeError(), {}, "RuntimeError: RuntimeError"),
    ],
)  # fmt: skip
def test_the_sentence(error: BaseException, data: dict[str, Any], said: str) -> None:
    assert why(error, host(**data)) == said


def test_a_key_that_is_another() -> None:
    key = RSAKey.generate(1024)
    assert why(behind(BadHostKeyException("gpu1", key, key)), host()) == f"{CHANGED}gpu1"


def test_a_passphrase_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "passphrase", lambda key: f"needs {key}")
    error = ConnectError("/a is encrypted, set ssh_key_password")
    assert why(error, host(ssh_key="/a")) == "needs /a"


def test_an_alias_names_where_it_leads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ssh_entry", lambda host: {"hostname": "192.0.2.9"})
    tried = ConnectError("[Errno None] Unable to connect to port 7 on 192.0.2.9, or so")
    assert why(tried, host()) == (
        "192.0.2.9 refuses connections to port 7; is sshd running there, and is its Port in your"
        " SSH configuration right?"
    )
    assert why(behind(ConnectionRefusedError()), host()) == REFUSES

    def broken(host: object) -> object:
        raise SettingsError(["x"])

    monkeypatch.setattr(module, "ssh_entry", broken)
    assert why(tried, host()) == REFUSES


def test_what_stands_behind_pyinfra_s_own_is_found() -> None:
    deep = behind(behind(TimeoutError()))
    assert why(deep, host()).startswith("no answer from gpu1")
    inner = ConnectError("SSH error")
    inner.__context__ = TimeoutError()
    assert why(inner, host()).startswith("no answer from gpu1")
    # Whoever ends the run is not the host's reason.
    assert why(behind(KeyboardInterrupt(), "plain"), host()) == "plain"
