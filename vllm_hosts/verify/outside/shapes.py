"""Requests that no honest client sends, and what the edge must make of them. JSON in, JSON out.

Written byte by byte over a socket, since every HTTP library would refuse to send them.
"""

from __future__ import annotations

import json
import re
import socket
import ssl
import sys
import time
from collections.abc import Container, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

#: Seconds of silence after which an answer is taken for complete. Edges close before: a busy host
#: may take a second to answer.
_QUIET = 5.0
#: Seconds in which an edge must have cut a client that sends nothing more; nginx's is 10.
SLOW_LIMIT = 20.0
#: Edges limit what they refuse by source: so often, and after such a pause, a shape is sent again.
_AGAIN, _PAUSE = 30, 1.0
#: Bodies of ours do not end with a line, so a second answer begins anywhere.
_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3}) ")


@dataclass(frozen=True)
class Shape:
    """One request. ``allowed``: statuses that refuse it; the connection may be closed instead."""

    promise: str
    name: str
    data: bytes
    allowed: tuple[int, ...]
    server_name: str | None = None
    plain: bool = False
    slow: bool = False


@dataclass(frozen=True)
class Met:
    """What came back: every status line, and seconds until the connection ended or fell silent."""

    statuses: tuple[int, ...]
    closed: bool
    seconds: float


def shapes(host: str, path: str) -> Iterator[Shape]:
    """All of them, for an edge with this Host header and an API path that exists."""
    start = f"GET {path} HTTP/1.1\r\nHost: {host}\r\n".encode()
    post = f"POST {path} HTTP/1.1\r\nHost: {host}\r\n".encode()
    end = b"Connection: close\r\n\r\n"
    second = f"GET /metrics HTTP/1.1\r\nHost: {host}\r\n".encode() + end

    yield Shape("EDGE-08", "plain HTTP on the TLS port", start + end, (400, 404), plain=True)
    stranger = f"GET {path} HTTP/1.1\r\nHost: stranger.invalid\r\n".encode() + end
    yield Shape("EDGE-09", "another Host", stranger, (404, 421))
    yield Shape(
        "EDGE-09", "another name in TLS", stranger, (404, 421), server_name="stranger.invalid"
    )
    absolute = f"GET http://127.0.0.1:8001{path} HTTP/1.1\r\nHost: {host}\r\n".encode() + end
    yield Shape("EDGE-09", "another Host in the request line", absolute, (400, 404, 421))
    yield Shape("EDGE-09", "no Host", f"GET {path} HTTP/1.1\r\n".encode() + end, (400,))
    yield Shape("EDGE-09", "two Hosts", start + b"Host: stranger.invalid\r\n" + end, (400,))

    big = b"X-Big: " + b"x" * 40_000 + b"\r\n"
    yield Shape("EDGE-10", "a header of 40 kB", start + big + end, (400, 431))
    many = b"".join(b"X-%d: %s\r\n" % (n, b"x" * 4000) for n in range(20))
    yield Shape("EDGE-10", "headers of 80 kB together", start + many + end, (400, 431))
    long = f"GET {path}?{'x' * 20_000} HTTP/1.1\r\nHost: {host}\r\n".encode() + end
    yield Shape("EDGE-10", "a URL of 20 kB", long, (400, 414))
    huge = post + b"Content-Length: 1099511627776\r\n\r\n"
    yield Shape("EDGE-11", "a body of 1 TB", huge, (413,))
    yield Shape("EDGE-12", "headers that never end", start + b"X-Slow: ", (408,), slow=True)

    both = b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    chunked = b"\r\n\r\n0\r\n\r\n"
    smuggling = {
        "length and chunks": both,
        "chunks and length": b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
        "two lengths": b"Content-Length: 0\r\nContent-Length: 44\r\n\r\n",
        "a length with a sign": b"Content-Length: +0\r\n\r\n",
        "a length in hexadecimal": b"Content-Length: 0x0\r\n\r\n",
        "a length and a space": b"Content-Length : 44\r\n\r\n",
        "a negative length": b"Content-Length: -1\r\n\r\n",
        "an unknown coding": b"Transfer-Encoding: xchunked" + chunked,
        "two codings": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity" + chunked,
        "a coding after a tab": b"Transfer-Encoding:\tchunked, identity" + chunked,
        "a coding and a space": b"Transfer-Encoding : chunked" + chunked,
        "a folded header": b"X-Fold: a\r\n Transfer-Encoding: chunked" + chunked,
        "an endless chunk": b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
        "a NUL in a header": b"X-Nul: a\x00b\r\n\r\n",
        "a name with a control character": b"X\x0bTransfer-Encoding: chunked" + chunked,
    }
    for name, rest in smuggling.items():
        yield Shape("EDGE-13", name, post + rest + second, (400, 401, 405, 413))

    for strange in (
        f"/{path}",
        path.replace("/v1/", "/v1//"),
        f"{path}/",
        f"{path}%2f",
        f"{path}%00",
        f"{path}%252f",
        f"{path};x=1",
        f"{path}/..;/metrics",
        "/v1/../metrics",
        "/v1/%2e%2e/metrics",
        "/v1/.%2e/metrics",
        "/v1/..%2fmetrics",
        "/v1/%252e%252e/metrics",
        "/v1\\..\\metrics",
        "/./metrics",
        "/metrics%20",
        "/metrics%23",
        "/METRICS",
        path.replace("/v1/", "/%761/"),
        path.replace("/v1/", "/v1/./"),
        path.replace("/v1/", "/v1/x/../"),
        path.replace("/v1/", "/v1/x%2f..%2f"),
        path.replace("/v1/", "/v1%2f"),
        f"{path}%0a",
        f"{path}#x",
        "*",
    ):
        line = f"GET {strange} HTTP/1.1\r\nHost: {host}\r\n".encode() + end
        # 401: without a key, what is nothing is not told apart from what is there.
        yield Shape("EDGE-14", f"path {strange}", line, (400, 401, 404))
    for method in ("TRACE", "CONNECT", "OPTIONS", "DELETE", "PROPFIND"):
        line = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n".encode() + end
        yield Shape("EDGE-14", f"method {method}", line, (400, 401, 404, 405))


def complaint(shape: Shape, met: Met) -> str | None:
    """What is wrong with the edge's answer, in a few words; None: it refused as it should."""
    if shape.slow:
        if met.closed and set(met.statuses) <= set(shape.allowed):
            return None
        return f"{shape.name}: still open after {met.seconds:.0f} s"
    if not met.statuses and met.closed:
        return None
    first, *more = met.statuses or (0,)
    if first not in shape.allowed:
        said = first or "silence"
        return f"{shape.name}: answered with {said}, not {' or '.join(map(str, shape.allowed))}"
    # What follows may be our own second request, answered as itself: closed like any other path.
    if [status for status in more if status not in (400, 401, 404, 429)]:
        return f"{shape.name}: a request inside the request was answered with {more}"
    return None


def send(address: str, port: int, name: str, shape: Shape, quiet: float = _QUIET) -> Met:
    """One connection, one shape, everything that comes back.

    :param quiet: seconds without a word after which that is all.
    :raises OSError: no connection.
    """
    started = time.monotonic()
    data = b""
    closed = False
    context = ssl.create_default_context()
    # Whose certificate it is, other tests ask.
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection((address, port), timeout=5) as plain:
        connection = plain
        if not shape.plain:
            connection = context.wrap_socket(plain, server_hostname=shape.server_name or name)
        connection.settimeout(SLOW_LIMIT if shape.slow else quiet)
        try:
            connection.sendall(shape.data)
            while piece := connection.recv(65536):
                data += piece
            closed = True
        except TimeoutError:
            pass
        except (ConnectionError, ssl.SSLError):
            closed = True
    statuses = tuple(int(code) for code in _STATUS.findall(data))
    return Met(statuses, closed, time.monotonic() - started)


def complaints(edge: dict[str, Any], wanted: Container[str]) -> dict[str, Any]:
    """By promise: what an edge does not refuse as it should. Or an ``error``: nobody is there."""
    found: dict[str, Any] = {}
    chosen = [shape for shape in shapes(edge["host"], edge["path"]) if shape.promise in wanted]

    def one(shape: Shape) -> str | None:
        for _ in range(_AGAIN):
            met = send(edge["address"], edge["port"], edge["server_name"], shape)
            if met.statuses[:1] != (429,):
                break
            time.sleep(_PAUSE)
        return complaint(shape, met)

    try:
        with ThreadPoolExecutor(12) as pool:
            for shape, wrong in zip(chosen, pool.map(one, chosen), strict=True):
                found.setdefault(shape.promise, [])
                if wrong:
                    found[shape.promise].append(wrong)
    except OSError as error:
        return {"error": f"no connection to the edge: {error}"}
    return found


if __name__ == "__main__":
    edges = json.loads(sys.stdin.read())
    with ThreadPoolExecutor(4) as hosts:
        answers = hosts.map(lambda edge: complaints(edge, sys.argv[1:]), edges.values())
        print(json.dumps(dict(zip(edges, answers, strict=True))))
