"""HTTP/1.1 over TLS as a load needs it: when the first byte came, and how an answer ended.

Written out, since clients that people use hide both, and cost ten times as much.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

#: Seconds for a connection and its handshake, and between two pieces of an answer.
CONNECT, SILENCE = 10.0, 45.0
#: What a connection may fail with, however it ends.
BROKEN = (OSError, EOFError, TimeoutError, ValueError, asyncio.LimitOverrunError)


class CutShort(Exception):
    """An answer that began and did not end."""


@dataclass(frozen=True)
class Head:
    """How an answer begins."""

    status: int
    headers: Mapping[str, str]


class Connection:
    """One connection to an edge, kept for the next request.

    :param url: scheme, host and port are read from it.
    :param name: what is asked for in the handshake; empty: the host.
    """

    def __init__(
        self, url: str, context: ssl.SSLContext, *, connect: float = CONNECT, name: str = ""
    ) -> None:
        parts = urlsplit(url)
        assert parts.hostname
        self.host, self._port = parts.hostname, parts.port or 443
        self._context, self._connect, self._name = context, connect, name
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    @property
    def is_open(self) -> bool:
        """Whether a request would go over a connection that was there before."""
        return self._reader is not None and not self._reader.at_eof()

    async def ask(self, path: str, headers: Mapping[str, str], body: bytes) -> Head:
        """Send a request, and wait for the beginning of its answer.

        :raises OSError: (or another of ``BROKEN``) no byte of an answer came.
        """
        if not self.is_open:
            await self._open()
        assert self._reader and self._writer
        lines = [f"POST {path} HTTP/1.1", f"Host: {self.host}", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self._writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        async with asyncio.timeout(SILENCE):
            text = await self._reader.readuntil(b"\r\n\r\n")
        first, *rest = text.decode("latin-1").split("\r\n")
        pairs = [line.partition(":") for line in rest if line]
        return Head(
            int(first.split()[1]), {name.lower(): value.strip() for name, _, value in pairs}
        )

    async def pieces(self, head: Head) -> AsyncIterator[bytes]:
        """The answer's body as it comes.

        :raises CutShort: it did not come to its end; the text says how.
        """
        assert self._reader
        try:
            if head.headers.get("transfer-encoding") == "chunked":
                while size := int(await self._line(), 16):
                    async with asyncio.timeout(SILENCE):
                        yield (await self._reader.readexactly(size + 2))[:-2]
                await self._line()
            elif left := int(head.headers.get("content-length", 0)):
                async with asyncio.timeout(SILENCE):
                    yield await self._reader.readexactly(left)
        except BROKEN as error:
            self.close()
            raise CutShort(repr(error)) from error
        if head.headers.get("connection", "").lower() == "close":
            self.close()

    def close(self) -> None:
        """Forget the connection: the next request makes another."""
        if self._writer is not None:
            with suppress(*BROKEN):
                self._writer.transport.abort()
        self._reader = self._writer = None

    async def _open(self) -> None:
        self.close()
        async with asyncio.timeout(self._connect):
            self._reader, self._writer = await asyncio.open_connection(
                self.host, self._port, ssl=self._context, server_hostname=self._name or self.host
            )

    async def _line(self) -> bytes:
        assert self._reader
        async with asyncio.timeout(SILENCE):
            return await self._reader.readuntil(b"\r\n")
