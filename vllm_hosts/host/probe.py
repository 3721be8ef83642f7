"""Probes a host from outside, as a neighbour or a client would: one connection, a short wait."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import urllib3

from vllm_hosts.bounded import parse_json

#: Long enough for a handshake around the world, short enough for a run over many hosts.
TIMEOUT = 5.0
#: Bytes of an answer: those of an edge have a few kilobytes.
MOST = 16 << 20
#: How long a connection is waited for that a firewall should drop.
SHORTEST, LONGEST = 0.25, 2.0


@dataclass(frozen=True)
class Response:
    """The answer. ``body`` may hold a client's data, so it is not shown in a repr."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)

    def json(self) -> object:
        """The body as JSON.

        :raises ValueError: it is not.
        """
        return parse_json(self.body)


def reachable(address: str, port: int, timeout: float = TIMEOUT) -> bool:
    """Whether a TCP connection to the port opens within ``timeout`` seconds."""
    try:
        with socket.create_connection((address, port), timeout=timeout):
            return True
    except OSError:
        return False


def source(address: str) -> str | None:
    """Where connections to an address come from on this machine; None: it has no way there.
    Nothing is sent."""
    try:
        [(family, _, _, _, there), *_] = socket.getaddrinfo(address, 9, type=socket.SOCK_DGRAM)
        with socket.socket(family, socket.SOCK_DGRAM) as one:
            one.connect(there)
            return str(one.getsockname()[0])
    except OSError:
        return None


def round_trip(address: str, port: int, timeout: float = TIMEOUT) -> float | None:
    """Seconds that a TCP connection to a port takes to open, the longest of three; None: one did
    not open within ``timeout``."""
    longest = 0.0
    for _ in range(3):
        begun = time.monotonic()
        if not reachable(address, port, timeout):
            return None
        longest = max(longest, time.monotonic() - begun)
    return longest


def patience(seconds: float | None) -> float:
    """Seconds after which a packet that got no answer was dropped, from those of a round trip."""
    return LONGEST if seconds is None else min(LONGEST, max(SHORTEST, 10 * seconds))


def certificate(address: str, port: int, name: str, timeout: float = TIMEOUT) -> bytes:
    """The certificate that a server presents for ``name``, in DER, without verifying it.

    :raises OSError: no connection, or no TLS.
    """
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection((address, port), timeout=timeout) as plain,
        context.wrap_socket(plain, server_hostname=name) as tls,
    ):
        return tls.getpeercert(binary_form=True) or b""


class Asking(Protocol):
    """Sends one request for a path.

    :raises OSError: no connection, or TLS failed; the text says which.
    """

    def __call__(
        self,
        path: str,
        *,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> Response: ...


@contextmanager
def visit(
    address: str,
    port: int,
    *,
    name: str | None,
    ca_file: str | None = None,
    timeout: float = TIMEOUT,
) -> Iterator[Asking]:
    """Requests to exactly this address, whatever DNS says about the name: over one connection, as
    long as the server keeps it.

    :param name: name or address that the certificate must carry, also sent as Host; None: plain
        HTTP.
    :param ca_file: PEM file with the CA to trust; None: the system's.
    """
    wait = urllib3.Timeout(total=timeout)
    if name is None:
        pool = urllib3.HTTPConnectionPool(address, port, timeout=wait, retries=False)
    else:
        pool = urllib3.HTTPSConnectionPool(
            address,
            port,
            timeout=wait,
            retries=False,
            ca_certs=ca_file,
            server_hostname=name,
            assert_hostname=name,
        )

    def ask(
        path: str,
        *,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> Response:
        sent = {
            **({"Host": host_header(name, port)} if name is not None else {}),
            **(headers or {}),
        }
        try:
            response = pool.request(
                method, path, body=body, headers=sent, redirect=False, preload_content=False
            )
            content = _content(response, time.monotonic() + timeout)
            return Response(response.status, dict(response.headers), content)
        except urllib3.exceptions.HTTPError as error:
            raise OSError(str(error)) from error

    with pool:
        yield ask


def get(
    address: str,
    port: int,
    path: str,
    *,
    name: str | None,
    ca_file: str | None = None,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
    timeout: float = TIMEOUT,
) -> Response:
    """One request, as ``visit`` sends it.

    :raises OSError: as ``Asking``.
    """
    with visit(address, port, name=name, ca_file=ca_file, timeout=timeout) as ask:
        return ask(path, method=method, headers=headers, body=body)


def _content(response: urllib3.BaseHTTPResponse, end: float) -> bytes:
    """What a server sends, unpacked.

    :raises OSError: more than any answer of an edge has, or not all of it in time.
    """
    found = bytearray()
    with closing(response):
        while piece := response.read1(64 << 10):
            found += piece
            if len(found) > MOST:
                raise OSError(f"an answer of more than {MOST >> 20} MB")
            if time.monotonic() > end:
                raise OSError("an answer that does not end")
    return bytes(found)


def patiently(ask: Callable[[], Response], *, times: int = 30, pause: float = 1.0) -> Response:
    """The answer, after waiting while the edge says "too many requests".

    Edges limit refused requests by source, and checks of what they refuse make many of them.
    """
    for _ in range(times):
        answer = ask()
        if answer.status != 429:
            return answer
        time.sleep(pause)
    return ask()


def host_header(name: str, port: int) -> str:
    """The Host header, or a URL's host part, for a name or address on an HTTPS port."""
    host = f"[{name}]" if ":" in name else name
    return host if port == 443 else f"{host}:{port}"
