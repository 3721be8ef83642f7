"""As much of HTTP/2 as tests need: a flood of small requests in few bytes, on one connection, and a
request that does not say how long it is."""

from __future__ import annotations

import socket
import ssl
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST, _SETTINGS, _WINDOW = 0, 1, 3, 4, 8
_END_STREAM, _END_HEADERS = 1, 4
#: nginx takes 128 at the same time, and closes the connection on many more at once.
_AT_ONCE = 100


def flood(address: str, port: int, name: str, path: str, count: int) -> tuple[int, int]:
    """Send so many requests without a key at once; bytes that were sent, and answers that came.

    :raises OSError: no connection, or none that speaks HTTP/2.
    """
    with _connected(address, port, name) as connection:
        # GET, https, and two fields by their index in the table that everybody has (RFC 7541).
        head = bytes([0x82, 0x87]) + _field(4, path) + _field(1, name)
        connection.settimeout(5)
        connection.sendall(
            _PREFACE
            + _frame(_SETTINGS, 0, 0, b"")
            + _frame(_WINDOW, 0, 0, struct.pack("!I", 2**30))
        )
        sent, answered = 0, 0
        with suppress(OSError):
            for start in range(0, count, _AT_ONCE):
                frames = b"".join(
                    _frame(_HEADERS, _END_STREAM | _END_HEADERS, 2 * number + 1, head)
                    for number in range(start, min(start + _AT_ONCE, count))
                )
                connection.sendall(frames)
                sent += len(frames)
                answered += _answers(connection, len(frames) // (9 + len(head)))
        return sent, answered


def post_without_length(port: int, name: str, path: str, key: str, body: str) -> bytes:
    """What this machine's edge answers, frames and all."""
    # POST and https, and fields by the index of their name.
    head = bytes([0x83, 0x87]) + _field(4, path) + _field(1, name)
    head += _field(23, f"Bearer {key}") + _field(31, "application/json")
    with _connected("127.0.0.1", port, name) as connection:
        connection.sendall(
            _PREFACE + _frame(_SETTINGS, 0, 0, b"") + _frame(_HEADERS, _END_HEADERS, 1, head)
        )
        # Read while the head is all that there is; nginx knows the length of what is there already.
        time.sleep(0.2)
        connection.sendall(_frame(_DATA, _END_STREAM, 1, body.encode()))
        found = b""
        while b'"}' not in found and (piece := connection.recv(65536)):
            found += piece
        return found


@contextmanager
def _connected(address: str, port: int, name: str) -> Iterator[ssl.SSLSocket]:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection((address, port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname=name) as connection,
    ):
        if connection.selected_alpn_protocol() != "h2":
            raise OSError("the edge does not speak HTTP/2")
        yield connection


def _answers(connection: ssl.SSLSocket, count: int) -> int:
    """Streams that got a head or were refused, until so many did or the edge has had enough.

    :raises OSError: it has.
    """
    data, answered = b"", 0
    while answered < count:
        piece = connection.recv(65536)
        if not piece:
            raise ConnectionError("closed")
        data += piece
        while len(data) >= 9 and len(data) >= 9 + int.from_bytes(data[:3], "big"):
            answered += data[3] in (_HEADERS, _RST)
            data = data[9 + int.from_bytes(data[:3], "big") :]
    return answered


def _field(index: int, value: str) -> bytes:
    """A field that goes into no table; values of less than 127 bytes."""
    number = bytes([index] if index < 15 else [15, index - 15])
    return number + bytes([len(value)]) + value.encode()


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return (
        len(payload).to_bytes(3, "big") + bytes([kind, flags]) + struct.pack("!I", stream) + payload
    )
