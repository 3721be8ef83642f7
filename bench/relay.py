"""A relay in front of SSH that makes hosts far away: each direction takes half a round trip.

What is sent keeps its order and its pace: many packets are on their way at the same time, as on a
long line. The handshake of TCP ends here, so a new connection is held back for one round trip.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from threading import Event, Thread

_PIECE = 65536


@dataclass(frozen=True)
class Target:
    """Where connections to a port of this machine go on to."""

    address: str
    port: int = 22


class Relay:
    """Ports on loopback, one for each target, with a delay that can be changed between runs."""

    def __init__(self) -> None:
        #: Seconds of a round trip.
        self.round_trip = 0.0
        #: Connections and bytes, in both directions.
        self.connections = self.carried = 0

    async def _serve(self, target: Target) -> asyncio.Server:
        tasks = set[asyncio.Task[None]]()

        def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.create_task(self._accepted(target, reader, writer))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        return await asyncio.start_server(accepted, "127.0.0.1", 0, limit=_PIECE)

    async def _accepted(
        self, target: Target, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.connections += 1
        await asyncio.sleep(self.round_trip)
        try:
            onward = await asyncio.open_connection(target.address, target.port)
        except OSError:
            writer.close()
            return
        for one in (writer, onward[1]):
            one.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.gather(self._carry(reader, onward[1]), self._carry(onward[0], writer))

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One direction. What comes is written when it would have arrived."""
        loop = asyncio.get_running_loop()
        line: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def deliver() -> None:
            while True:
                due, data = await line.get()
                if (wait := due - loop.time()) > 0:
                    await asyncio.sleep(wait)
                if not data:
                    with suppress(OSError):
                        writer.write_eof()
                    return
                self.carried += len(data)
                with suppress(OSError):
                    writer.write(data)
                    await writer.drain()

        delivering = asyncio.create_task(deliver())
        data = b"begun"
        while data:
            try:
                data = await reader.read(_PIECE)
            except OSError:
                data = b""
            line.put_nowait((loop.time() + self.round_trip / 2, data))
        await delivering

    @contextmanager
    def running(self, *targets: Target) -> Iterator[list[int]]:
        """The ports, as long as the relay runs: in a thread of its own."""
        ports: list[int] = []
        ready = Event()
        loop = asyncio.new_event_loop()

        async def serve() -> None:
            for target in targets:
                server = await self._serve(target)
                ports.append(server.sockets[0].getsockname()[1])
            ready.set()

        def run() -> None:
            asyncio.set_event_loop(loop)
            loop.create_task(serve())  # noqa: RUF006
            loop.run_forever()
            for task in (begun := asyncio.all_tasks(loop)):
                task.cancel()
            loop.run_until_complete(asyncio.gather(*begun, return_exceptions=True))
            loop.close()

        thread = Thread(target=run, daemon=True)
        thread.start()
        ready.wait(10)
        try:
            yield ports
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join(5)
