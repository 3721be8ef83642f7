"""Many clients that ask gateways, and what became of every one of their requests.

A program of its own, which `tests/lab/fleet_asks.py` starts: a job as JSON on its standard input, a
line of JSON for each request into the job's file. It asks lab hosts only, while the lab's bridge is
up, at most `_MOST_REQUESTS` times from `_MOST_CLIENTS` clients, and ends by itself.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import re
import resource
import signal
import ssl
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TextIO
from urllib.parse import urlsplit

from lab import layout, network
from tests.lab.fleet_http import BROKEN, CONNECT, Connection, CutShort, Head

_MOST_CLIENTS, _MOST_REQUESTS, _MOST_SECONDS = 6000, 20_000, 900.0
#: As every client: a connection that was kept, and ends before a byte of an answer, is made again.
_TRIES = 3
#: vLLM names answers after the request's id, which nginx wrote and logs.
_ID = re.compile(r'"id": ?"[^"]*?([0-9a-f]{32})')


@dataclass(frozen=True)
class Job:
    """What to ask whom, how often.

    :param keys: clients' names and keys, taken in turn.
    :param pause: seconds between two requests of a client.
    :param failover: a client whose gateway does not answer goes to the next, as with DNS.
    :param conversation: how many requests each conversation has; 0: none is named.
    :param certificate: a file with the client's own, and its key; ``name``: see ``Connection``.
    """

    out: str
    urls: list[str]
    ca_file: str
    keys: list[tuple[str, str]]
    model: str
    clients: int = 32
    requests: int = 2000
    seconds: float = 90.0
    pause: float = 0.0
    tokens: int = 12
    streams: Literal["half", "all", "none"] = "half"
    failover: bool = False
    conversation: int = 5
    headers: dict[str, str] = field(default_factory=dict)
    certificate: str = ""
    name: str = ""

    def __post_init__(self) -> None:
        for url in self.urls:
            if ipaddress.ip_address(urlsplit(url).hostname or "") not in layout.BRIDGE_V4.network:
                raise SystemExit(f"{url} is no lab host's")
        if (
            not 0 < self.clients <= _MOST_CLIENTS
            or not 0 < self.requests <= _MOST_REQUESTS
            or not 0 < self.seconds <= _MOST_SECONDS
        ):
            raise SystemExit("a load has to be bounded in clients, requests and seconds")


@dataclass
class Asked:
    """One request. Times are those of ``time.monotonic``, which all processes share.

    :param gateway: the address that was asked, the last one if there were several.
    :param first: when the first byte of an answer came; 0: none did.
    :param id: the request's, as hosts log it, if the answer came so far.
    :param again: how often it was sent again, since no byte of an answer had come.
    """

    number: int
    client: str
    gateway: str
    streamed: bool
    session: str
    began: float
    first: float = 0.0
    ended: float = 0.0
    status: int = 0
    id: str = ""
    tokens: int = 0
    prompt_tokens: int = 0
    again: int = 0
    why: str = ""

    @property
    def failed(self) -> bool:
        """Whether its client did not get a whole answer."""
        return self.status != 200 or bool(self.why)

    @property
    def begun(self) -> bool:
        """Whether an agent's answer had begun."""
        return self.status == 200 and self.first > 0

    def __str__(self) -> str:
        kind = "stream" if self.streamed else "answer"
        came = f"{self.first - self.began:.2f} s" if self.first else "never"
        return (
            f"#{self.number} of {self.client} at {self.gateway} ({kind}): status {self.status},"
            f" first byte after {came}, ended after {self.ended - self.began:.2f} s,"
            f" id {self.id or 'unknown'}: {self.why or 'whole'}"
        )


class _Load:
    def __init__(self, job: Job, out: TextIO) -> None:
        self._job, self._out = job, out
        self._context = ssl.create_default_context(cafile=job.ca_file)
        if job.certificate:
            self._context.load_cert_chain(job.certificate)
        self._next = 0
        self._end = time.monotonic() + job.seconds
        self._stopped = False

    async def run(self) -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._stop)
        clients = [asyncio.create_task(self._client(one)) for one in range(self._job.clients)]
        guard = asyncio.create_task(self._guard(clients))
        await asyncio.gather(*clients, return_exceptions=False)
        guard.cancel()

    @property
    def _goes_on(self) -> bool:
        return (
            not self._stopped and time.monotonic() < self._end and self._next < self._job.requests
        )

    def _stop(self) -> None:
        self._stopped = True

    async def _guard(self, clients: list[asyncio.Task[None]]) -> None:
        """Nothing is sent once the bridge is gone: the addresses may be somebody else's then."""
        while network.is_up():
            await asyncio.sleep(0.5)
        for client in clients:
            client.cancel()

    async def _client(self, which: int) -> None:
        job = self._job
        start = which % len(job.urls)
        urls = [*job.urls[start:], *job.urls[:start]]
        connect = 1.0 if job.failover else CONNECT
        connections = [
            Connection(url, self._context, connect=connect, name=job.name) for url in urls
        ]
        # Not all in the same moment.
        await asyncio.sleep(job.pause * which / job.clients)
        asked = 0
        while self._goes_on:
            number, self._next = self._next, self._next + 1
            done = await self._ask(connections, which, number, asked)
            asked += 1
            print(json.dumps(asdict(done)), file=self._out, flush=True)
            if self._goes_on:
                await asyncio.sleep(max(job.pause, 0.25) if done.failed else job.pause)

    async def _ask(
        self, connections: list[Connection], which: int, number: int, asked: int
    ) -> Asked:
        job = self._job
        name, key = job.keys[which % len(job.keys)]
        streamed = job.streams == "all" or (job.streams == "half" and number % 2 == 1)
        session = f"{name}-{which}-{asked // job.conversation}" if job.conversation else ""
        body: dict[str, Any] = {
            "model": job.model,
            "messages": [{"role": "user", "content": f"{which} asks {number}"}],
            "max_tokens": job.tokens,
            "ignore_eos": True,
            "stream": streamed,
        }
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        headers |= {"X-Session-Id": session} if session else {}
        done = Asked(number, name, "", streamed, session, time.monotonic())
        text = json.dumps(body).encode()
        for attempt in range(_TRIES):
            connection = connections[0]
            kept = connection.is_open
            done.gateway, done.again = connection.host, attempt
            try:
                head = await connection.ask("/v1/chat/completions", headers | job.headers, text)
            except BROKEN as error:
                done.why = f"no answer{' over a kept connection' if kept else ''}: {error!r}"
                connection.close()
                if job.failover:
                    connections.append(connections.pop(0))
                elif not kept or isinstance(error, TimeoutError):
                    break
                continue
            await _read(done, connection, head)
            break
        done.ended = time.monotonic()
        return done


async def _read(done: Asked, connection: Connection, head: Head) -> None:
    done.first, done.status, done.why = time.monotonic(), head.status, ""
    text = b""
    try:
        async for piece in connection.pieces(head):
            text += piece
            if not done.id and (found := _ID.search(text[:2000].decode(errors="replace"))):
                done.id = found[1]
    except CutShort as error:
        done.why = f"cut short: {error}; the end is {text[-80:]!r}"
        return
    if head.status != 200:
        done.why = text[:200].decode(errors="replace")
    elif done.streamed:
        whole = text.rstrip().endswith(b"data: [DONE]") and b'"error"' not in text
        done.why = "" if whole else f"no end of a stream: {text[-120:]!r}"
    else:
        usage = json.loads(text)["usage"]
        done.tokens, done.prompt_tokens = usage["completion_tokens"], usage["prompt_tokens"]


def many_files() -> None:
    """As many connections as this machine lets one process have."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def main() -> None:
    """Do the job that standard input has."""
    if not network.is_up():
        raise SystemExit("the lab is not up")
    job = Job(**json.load(sys.stdin))
    many_files()
    with open(job.out, "w") as out:
        asyncio.run(_Load(job, out).run())


if __name__ == "__main__":
    main()
