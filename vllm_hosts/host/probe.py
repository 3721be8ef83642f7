"""Probing a host from outside, as a neighbour or a client would: one connection, a short wait."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import urllib3

from vllm_hosts.bounded import parse_json

#: Long enough for a handshake around the world, short enough for a run over many hosts.
TIMEOUT = 5.0


@dataclass(frozen=True)
class Answer:
    """What came back. ``body`` may hold a client's data, so it is not shown in a repr."""

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


def certificate(address: str, port: int, name: str, timeout: float = TIMEOUT) -> bytes:
    """The certificate that a server shows who asks for ``name``, in DER. Nobody judges it here.

    :raises OSError: no connection, or no TLS.
    """
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection((address, port), timeout=timeout) as plain,
        context.wrap_socket(plain, server_hostname=name) as tls,
    ):
        return tls.getpeercert(binary_form=True) or b""


def ask(
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
) -> Answer:
    """One request to exactly this address, whatever DNS says about the name.

    :param name: name or address that the certificate must carry, also sent as Host; None: plain
        HTTP.
    :param ca_file: PEM file with the CA to trust; None: the system's.
    :raises OSError: no connection, or TLS failed; the text says which.
    """
    wait = urllib3.Timeout(total=timeout)
    sent = dict(headers or {})
    try:
        if name is None:
            pool = urllib3.HTTPConnectionPool(address, port, timeout=wait, retries=False)
        else:
            sent.setdefault("Host", host_header(name, port))
            pool = urllib3.HTTPSConnectionPool(
                address,
                port,
                timeout=wait,
                retries=False,
                ca_certs=ca_file,
                server_hostname=name,
                assert_hostname=name,
            )
        with pool:
            response = pool.request(method, path, body=body, headers=sent, redirect=False)
            return Answer(response.status, dict(response.headers), response.data)
    except urllib3.exceptions.HTTPError as error:
        raise OSError(str(error)) from error


def patiently(ask: Callable[[], Answer], *, times: int = 30, pause: float = 1.0) -> Answer:
    """The answer when an edge that says "too many requests" has been given time.

    Edges limit what they refuse by source, and looking at what they refuse makes many of those.
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
