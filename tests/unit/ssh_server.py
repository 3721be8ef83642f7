"""An SSH server on loopback, as a process of its own: this machine in the place of a host.

Any user is let in with the one key. Commands run here, with programs of a folder in front.
"""

from __future__ import annotations

import atexit
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any

import paramiko
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)
from paramiko.common import (
    AUTH_FAILED,
    AUTH_SUCCESSFUL,
    OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED,
    OPEN_SUCCEEDED,
)

#: Seconds within which the reply to a request is certainly on its way; nobody waits for that long.
_REPLIED = 5.0
#: It listens on 127.0.0.1 and on the addresses after it.
ADDRESSES = 16
ROOT = Path(__file__).resolve().parents[2]


def write_key(path: Path, passphrase: bytes | None = None) -> Path:
    """A new private key as ssh-keygen writes it."""
    # Opened hundreds of times, and no secret: one round is enough.
    quick = PrivateFormat.OpenSSH.encryption_builder().kdf_rounds(1)
    lock: KeySerializationEncryption = quick.build(passphrase) if passphrase else NoEncryption()
    key = Ed25519PrivateKey.generate()
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, lock))
    path.chmod(0o600)
    return path


@dataclass(frozen=True)
class SshServer:
    """``folder`` holds ``client`` (the key that is let in), ``host`` and ``programs``; and
    ``jumps``, the addresses that somebody went on to from here."""

    folder: Path
    port: int

    def data(self, number: int = 1, **changes: object) -> dict[str, object]:
        """What an inventory says of it, at one of its addresses."""
        return {
            "ssh_hostname": f"127.0.0.{number}",
            "ssh_port": self.port,
            "ssh_user": "root",
            "ssh_key": str(self.folder / "client"),
            "ssh_known_hosts_file": str(self.folder / "known_hosts"),
            **changes,
        }

    def jumps(self) -> list[str]:
        path = self.folder / "jumps"
        return path.read_text().splitlines() if path.exists() else []

    def executions(self) -> int:
        """Commands that it was sent so far."""
        path = self.folder / "executions"
        return len(path.read_bytes()) if path.exists() else 0

    def program(self, name: str, script: str) -> None:
        """A program that commands find before the system's."""
        path = self.folder / f"{name}.program"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        # Written by another process: one that this one forks meanwhile would hold it open, and what
        # is open for writing is not executed; the shell would take the system's instead.
        subprocess.run(
            ["cp", "-p", "--remove-destination", path, self.folder / "programs" / name], check=True
        )


@contextmanager
def ssh_server(folder: Path, *, cut_after: int = 10_000) -> Iterator[SshServer]:
    """Runs until the block ends.

    :param cut_after: commands that it takes; at the next one it hangs up.
    """
    (folder / "programs").mkdir(parents=True)
    write_key(folder / "client")
    write_key(folder / "host")
    pid, port = _forked(folder, cut_after)
    try:
        yield SshServer(folder, port)
    finally:
        os.kill(pid, signal.SIGKILL)


@contextmanager
def hanging_up() -> Iterator[int]:
    """The port of a server that says nothing and closes every connection."""
    listener = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        while True:
            try:
                listener.accept()[0].close()
            except OSError:
                return

    threading.Thread(target=answer, daemon=True).start()
    yield listener.getsockname()[1]
    listener.close()


@cache
def _forking() -> subprocess.Popen[str]:
    """A process that has imported everything, and forks for each server."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.unit.ssh_server"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    atexit.register(process.kill)
    return process


def _forked(folder: Path, cut_after: int) -> tuple[int, int]:
    """Its process and its port."""
    process = _forking()
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(f"{cut_after} {folder}\n")
    process.stdin.flush()
    pid, _, port = process.stdout.readline().partition(" ")
    return int(pid), int(port)


class _Transport(paramiko.Transport):
    """Its thread takes requests, and says when the reply to one is on its way."""

    _replied: threading.Event | None = None

    def next_reply(self) -> threading.Event:
        """From the transport's own thread, which replies as soon as it goes on."""
        self._replied = threading.Event()
        return self._replied

    def _send_user_message(self, data: Any) -> None:
        super()._send_user_message(data)  # type: ignore[misc]
        if threading.current_thread() is self and self._replied is not None:
            self._replied.set()
            self._replied = None


class _Server(paramiko.ServerInterface):
    def __init__(self, folder: Path, cut: threading.Semaphore, transport: _Transport) -> None:
        self._folder, self._transport = folder, transport
        self._client = paramiko.Ed25519Key.from_private_key_file(str(folder / "client"))
        self._path = f"{folder / 'programs'}:{os.environ['PATH']}"
        self._cut = cut

    def get_allowed_auths(self, username: str) -> str:
        return "publickey"

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        good = key.asbytes() == self._client.asbytes()
        return AUTH_SUCCESSFUL if good else AUTH_FAILED

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return OPEN_SUCCEEDED

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        if not self._cut.acquire(blocking=False):
            channel.get_transport().close()
            return False
        with (self._folder / "executions").open("ab") as file:
            file.write(b".")
        replied = self._transport.next_reply()
        threading.Thread(target=self._run, args=(channel, command, replied), daemon=True).start()
        return True

    def check_channel_direct_tcpip_request(
        self, chanid: int, origin: tuple[str, int], destination: tuple[str, int]
    ) -> int:
        """As a jump host, to other addresses of loopback."""
        if not destination[0].startswith("127."):
            return OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED
        with (self._folder / "jumps").open("a") as file:
            file.write(f"{destination[0]}:{destination[1]}\n")
        threading.Thread(target=self._jump, args=(chanid, destination), daemon=True).start()
        return OPEN_SUCCEEDED

    def _jump(self, chanid: int, destination: tuple[str, int]) -> None:
        channel = self._transport.accept(10)
        while channel is not None and channel.get_id() != chanid:
            channel = self._transport.accept(10)
        if channel is None:
            return
        with channel, socket.create_connection(destination, 10) as there:
            there.settimeout(None)
            back = threading.Thread(target=_pass_on, args=(there, channel), daemon=True)
            back.start()
            _pass_on(channel, there)

    def _run(self, channel: paramiko.Channel, command: bytes, replied: threading.Event) -> None:
        process = subprocess.Popen(
            ["/bin/sh", "-c", command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PATH": self._path},
        )
        assert process.stdout is not None and process.stderr is not None
        threading.Thread(target=_give, args=(channel, process), daemon=True).start()
        said = threading.Thread(target=_say, args=(process.stderr, channel.sendall_stderr))
        said.start()
        _say(process.stdout, channel.sendall)
        said.join()
        channel.send_exit_status(process.wait())
        # The other thread has to have said first that it takes the request: sshd never ends a
        # channel before.
        replied.wait(_REPLIED)
        channel.close()


def _give(channel: paramiko.Channel, process: subprocess.Popen[bytes]) -> None:
    """What comes from the client, as it comes, until it ends."""
    assert process.stdin is not None
    with suppress(OSError):
        while chunk := channel.recv(65536):
            process.stdin.write(chunk)
            process.stdin.flush()
    with suppress(OSError):
        process.stdin.close()


def _say(source: IO[bytes], send: Callable[[bytes], object]) -> None:
    with suppress(OSError):
        while chunk := source.read1(65536):  # type: ignore[attr-defined]
            send(chunk)


def _pass_on(
    source: socket.socket | paramiko.Channel, target: socket.socket | paramiko.Channel
) -> None:
    try:
        while data := source.recv(65536):
            target.sendall(data)
    except OSError:
        pass


def _fork() -> None:
    # Nobody waits for the servers that were killed.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        cut_after, _, folder = line.rstrip("\n").partition(" ")
        parent = os.getpid()
        if not os.fork():
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
            _serve(Path(folder), int(cut_after))


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(0)


def _serve(folder: Path, cut_after: int) -> None:
    key = paramiko.Ed25519Key.from_private_key_file(str(folder / "host"))
    cut = threading.Semaphore(cut_after)
    first = socket.create_server(("127.0.0.1", 0))
    port = first.getsockname()[1]
    # One machine under two names is refused: each host of a test has an address of its own.
    others = [socket.create_server((f"127.0.0.{n}", port)) for n in range(2, ADDRESSES + 1)]
    print(os.getpid(), port, flush=True)
    for listener in others:
        threading.Thread(target=_accept, args=(listener, key, folder, cut), daemon=True).start()
    _accept(first, key, folder, cut)


def _accept(
    listener: socket.socket, key: paramiko.PKey, folder: Path, cut: threading.Semaphore
) -> None:
    while True:
        connection, _ = listener.accept()
        # As sshd does: no small packet waits for a word about the one before.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        transport = _Transport(connection)
        transport.add_server_key(key)
        try:
            transport.start_server(server=_Server(folder, cut, transport))
        except (paramiko.SSHException, EOFError, OSError):
            transport.close()


if __name__ == "__main__":
    _fork()
