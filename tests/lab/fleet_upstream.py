"""Stands in for GPU hosts with vLLM behind a gateway, for load only: their port for gateways.

A program: a job as JSON on its standard input. It listens on one port for each host, wants a
certificate of the CA as hosts do, tells agents apart by the name in the handshake, and answers
`GET /pulse` and chat completions, whole and streamed. At SIGUSR1 it writes down how many requests
each agent has had since the last time, and how many at most at the same time.
"""

from __future__ import annotations

import asyncio
import json
import signal
import ssl
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.lab.fleet_load import many_files

_CONTENT = "word "


@dataclass(frozen=True)
class Job:
    """What to serve.

    :param hosts: of each, its address and port, and the files of its certificate and key.
    :param interval: seconds between two tokens of a stream.
    """

    hosts: list[tuple[str, int, str, str]]
    ca_file: str
    counts_file: str
    tokens: int = 20
    interval: float = 0.5


@dataclass
class _Count:
    total: int = 0
    now: int = 0
    most: int = 0


@dataclass
class _Served:
    job: Job
    counts: dict[str, _Count] = field(default_factory=dict)

    def written_down(self) -> None:
        seen = {name: [one.total, one.most] for name, one in self.counts.items()}
        self.counts.clear()
        new = Path(f"{self.job.counts_file}.new")
        new.write_text(json.dumps(seen))
        new.rename(self.job.counts_file)

    def context(self, certificate: str, key: str) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=self.job.ca_file)
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_cert_chain(certificate, key)
        context.sni_callback = _remember
        return context

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        agent = getattr(writer.get_extra_info("ssl_object"), "asked_for", "unknown")
        with suppress(OSError, EOFError, asyncio.LimitOverrunError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                _, path, _ = head.split(" ", 2)
                lines = [line.partition(":") for line in head.split("\r\n")[1:]]
                headers = {name.lower(): value.strip() for name, _, value in lines}
                body = await _body(reader, headers)
                await self._answer(agent, path, headers, body, writer)
        writer.close()

    async def _answer(
        self,
        agent: str,
        path: str,
        headers: Mapping[str, str],
        body: bytes,
        writer: asyncio.StreamWriter,
    ) -> None:
        if path == "/pulse":
            return _whole(writer, "ok")
        count = self.counts.setdefault(agent, _Count())
        count.total, count.now = count.total + 1, count.now + 1
        count.most = max(count.most, count.now)
        try:
            asked = json.loads(body)
            tokens = min(int(asked.get("max_tokens", self.job.tokens)), 1000)
            name = headers.get("x-request-id", "unknown")
            answer: dict[str, Any] = {"id": f"chatcmpl-{name}", "model": asked.get("model")}
            if not asked.get("stream"):
                answer["choices"] = [{"message": {"content": _CONTENT * tokens}, "index": 0}]
                answer["usage"] = {"prompt_tokens": 1, "completion_tokens": tokens}
                return _whole(writer, json.dumps(answer))
            await self._stream(answer, tokens, asked, writer)
        finally:
            count.now -= 1
        return None

    async def _stream(
        self, answer: dict[str, Any], tokens: int, asked: Any, writer: asyncio.StreamWriter
    ) -> None:
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        async for event in self._events(answer, tokens, asked):
            data = f"data: {event}\n\n".encode()
            writer.write(b"%x\r\n%b\r\n" % (len(data), data))
            await writer.drain()
        writer.write(b"0\r\n\r\n")

    async def _events(self, answer: dict[str, Any], tokens: int, asked: Any) -> AsyncIterator[str]:
        delta = {"choices": [{"delta": {"content": _CONTENT}, "index": 0}]}
        chunk = json.dumps(answer | delta)
        for number in range(tokens):
            if number:
                await asyncio.sleep(self.job.interval)
            yield chunk
        if (asked.get("stream_options") or {}).get("include_usage"):
            usage = {"prompt_tokens": 1, "completion_tokens": tokens}
            yield json.dumps(answer | {"choices": [], "usage": usage})
        yield "[DONE]"


async def _body(reader: asyncio.StreamReader, headers: Mapping[str, str]) -> bytes:
    if headers.get("transfer-encoding") != "chunked":
        return await reader.readexactly(int(headers.get("content-length", 0)))
    body = b""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        body += (await reader.readexactly(size + 2))[:-2]
    await reader.readuntil(b"\r\n")
    return body


def _remember(there: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
    there.asked_for = (name or "unknown").partition(".vllm-hosts.")[0]  # type: ignore[attr-defined]


def _whole(writer: asyncio.StreamWriter, text: str) -> None:
    data = text.encode()
    writer.write(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
        % (len(data), data)
    )


async def _until_told(job: Job) -> None:
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    served = _Served(job)
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, served.written_down)
    servers = [
        await asyncio.start_server(
            served.serve, address, port, ssl=served.context(certificate, key), backlog=4096
        )
        for address, port, certificate, key in job.hosts
    ]
    print("serves", flush=True)
    with suppress(TimeoutError):
        await asyncio.wait_for(ended.wait(), 1800)
    for server in servers:
        server.close()


if __name__ == "__main__":
    many_files()
    asyncio.run(_until_told(Job(**json.load(sys.stdin))))
