"""Runs on the lab's neighbour: holds unfinished requests to one lab host, from several addresses.

python3 - ADDRESS PORT COUNT SECONDS SOURCE [SOURCE ...]

Opens COUNT connections in turn from the sources, sends the beginning of a TLS handshake over each,
and holds what it got. Prints how many are open, then waits. It ends by itself; a lab host is the
only target that it takes.
"""

from __future__ import annotations

import ipaddress
import selectors
import socket
import sys
import time


def main() -> None:
    address, port, count, seconds, *sources = sys.argv[1:]
    if ipaddress.ip_address(address) not in ipaddress.ip_network("10.87.0.0/16"):
        raise SystemExit(f"{address} is no lab host")
    end = time.monotonic() + min(float(seconds), 120)
    waiting = selectors.DefaultSelector()
    held = []
    for number in range(min(int(count), 5000)):
        one = socket.socket()
        one.setblocking(False)
        one.bind((sources[number % len(sources)], 0))
        one.connect_ex((address, int(port)))
        waiting.register(one, selectors.EVENT_WRITE)
        held.append(one)
    opened: set[socket.socket] = set()
    until = time.monotonic() + 5
    while time.monotonic() < until and len(opened) < len(held):
        for key, _ in waiting.select(timeout=0.2):
            there = key.fileobj
            assert isinstance(there, socket.socket)
            waiting.unregister(there)
            if there.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:
                opened.add(there)
                # The beginning of a handshake that never goes on.
                there.send(b"\x16\x03\x01\x02\x00\x01")
    print(f"{len(opened)} open", flush=True)
    while time.monotonic() < end:
        time.sleep(0.5)


main()
