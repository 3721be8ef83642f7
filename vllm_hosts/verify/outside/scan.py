"""Which ports of addresses answer. Plain Python, so that any neighbour can run it from stdin.

python3 scan.py '[{"address": "192.0.2.7", "tcp": [1, 65535], "udp": [53]}]'    # prints JSON

One connection attempt per port, all of them bounded in number and time. Needs no privileges, but
many open files: start it under `ulimit -n 26000`.
"""

from __future__ import annotations

import errno
import json
import os
import select
import selectors
import socket
import sys
import time
from collections.abc import Callable
from threading import Thread

#: Seconds that a port gets: the kernel sends a lost SYN again after one.
PATIENCE = 1.2
#: Connection attempts under way at the same time, to one address and to all; and addresses.
AT_ONCE, TOGETHER = 8000, 32000
ADDRESSES = 8
#: Datagrams that make a service answer: a DNS and an NTP question, else a few zeros.
_QUESTIONS = {
    53: b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x01",
    123: b"\x1b" + bytes(47),
}


def family_of(address: str) -> socket.AddressFamily:
    """IPv6 for an address with colons."""
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def own_address(address: str) -> str:
    """The address of this machine that packets to another one come from."""
    with socket.socket(family_of(address), socket.SOCK_DGRAM) as one:
        one.connect((address, 9))
        return str(one.getsockname()[0])


def open_tcp(
    address: str, first: int, last: int, at_once: int, skip: frozenset[int] = frozenset()
) -> list[int]:
    """TCP ports on which a connection opens.

    :param skip: ports to leave out: sshd, known to be open, locks out who connects and leaves.
    :param at_once: connection attempts under way at the same time.
    :raises OSError: this machine has no way to the address.
    """
    if not hasattr(select, "epoll"):
        return _open_tcp_slowly(address, first, last, skip)
    poll = select.epoll()
    kind = family_of(address)
    waiting: dict[int, tuple[socket.socket, int, float]] = {}  # in the order of their starts
    found: list[int] = []
    ports = iter(port for port in range(first, last + 1) if port not in skip)
    more = True
    while more or waiting:
        while more and len(waiting) < at_once:
            port = next(ports, None)
            if port is None:
                more = False
                break
            one = socket.socket(kind, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            code = one.connect_ex((address, port))
            if code == errno.EINPROGRESS:
                poll.register(one.fileno(), select.EPOLLOUT)
                waiting[one.fileno()] = (one, port, time.monotonic() + PATIENCE)
                continue
            one.close()
            if code == 0:
                found.append(port)
            elif code in (errno.ENETUNREACH, errno.EADDRNOTAVAIL, errno.EACCES, errno.EPERM):
                raise OSError(code, f"{address} cannot be scanned from here")
        # What is given up was not answered by then, however long this process had to wait since.
        now = time.monotonic()
        for number, _ in poll.poll(0.02, at_once):
            one, port, _ = waiting.pop(number)
            if one.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:
                found.append(port)
            one.close()
        while waiting and waiting[oldest := next(iter(waiting))][2] <= now:
            waiting.pop(oldest)[0].close()
    return sorted(found)


def _open_tcp_slowly(address: str, first: int, last: int, skip: frozenset[int]) -> list[int]:
    """Where there is no epoll, as on macOS: a few hundred threads."""
    from concurrent.futures import ThreadPoolExecutor

    def opens(port: int) -> bool:
        with socket.socket(family_of(address), socket.SOCK_STREAM) as one:
            one.settimeout(PATIENCE)
            return one.connect_ex((address, port)) == 0

    ports = [port for port in range(first, last + 1) if port not in skip]
    with ThreadPoolExecutor(200) as pool:
        return [
            port for port, is_open in zip(ports, pool.map(opens, ports), strict=True) if is_open
        ]


def reached_udp(address: str, ports: list[int]) -> dict[int, str]:
    """UDP ports that give a sign of life, and which: an answer, or an ICMP refusal."""
    sockets = {}
    for port in ports:
        one = socket.socket(family_of(address), socket.SOCK_DGRAM)
        one.setblocking(False)
        one.connect((address, port))
        sockets[one] = port
    found: dict[int, str] = {}
    with selectors.DefaultSelector() as silent:
        for one, port in sockets.items():
            silent.register(one, selectors.EVENT_READ, (one, port))
        for _ in range(2):
            for one, port in [key.data for key in silent.get_map().values()]:
                try:
                    one.send(_QUESTIONS.get(port, bytes(8)))
                except OSError as error:
                    found[port] = _refused(error)
                    silent.unregister(one)
            until = time.monotonic() + PATIENCE
            while silent.get_map() and (left := until - time.monotonic()) > 0:
                for one, port in [key.data for key, _ in silent.select(left)]:
                    try:
                        one.recv(4096)
                        found[port] = "answers"
                    except OSError as error:
                        found[port] = _refused(error)
                    silent.unregister(one)
    for one in sockets:
        one.close()
    return found


def _refused(error: OSError) -> str:
    if error.errno == errno.ECONNREFUSED:
        return "is closed, but its packets reach the host"
    return f"cannot be scanned: {error.strerror}"


def both(first: Callable[[], object], second: Callable[[], object]) -> list[object]:
    """What two functions return that mostly wait. A small Python has no `concurrent`.

    :raises Exception: what one of them raised.
    """
    found: list[object] = [None, None]

    def keep(number: int, function: Callable[[], object]) -> None:
        try:
            found[number] = function()
        except Exception as error:
            found[number] = error

    beside = Thread(target=keep, args=(1, second))
    beside.start()
    keep(0, first)
    beside.join()
    for one in found:
        if isinstance(one, Exception):
            raise one
    return found


def scan_all(asked: dict[str, object], at_once: int) -> dict[str, object]:
    """One address as asked: what answers there, or why that cannot be told."""
    address, tcp, udp = asked["address"], asked["tcp"], asked["udp"]
    assert isinstance(address, str)
    assert isinstance(tcp, list)
    assert isinstance(udp, list)
    try:
        skip = asked.get("skip", [])
        assert isinstance(skip, list)
        opened, reached = both(
            lambda: open_tcp(address, tcp[0], tcp[1], at_once, frozenset(skip)),
            lambda: reached_udp(address, udp),
        )
        return {"address": address, "own": own_address(address), "tcp": opened, "udp": reached}
    except OSError as error:
        return {"address": address, "error": str(error)}


def scan_some(asked: list[dict[str, object]], at_once: int) -> list[dict[str, object]]:
    """Look at addresses one after the other."""
    return [scan_all(one, at_once) for one in asked]


def in_process(asked: list[dict[str, object]], at_once: int) -> tuple[int, int]:
    """The same in a process of its own, which may have as many open files as this one.

    :returns: its process id, and the end of a pipe with its answer as JSON.
    """
    here, there = os.pipe()
    process = os.fork()
    if process == 0:
        failed = 1
        try:
            with os.fdopen(there, "w") as answer:
                answer.write(json.dumps(scan_some(asked, at_once)))
            failed = 0
        finally:
            os._exit(failed)
    os.close(there)
    return process, here


def main(request: str) -> None:
    """Look at several addresses at the same time; JSON in, JSON out, in the same order."""
    asked = json.loads(request)
    shares = [asked[number::ADDRESSES] for number in range(min(ADDRESSES, len(asked)))]
    most = min(AT_ONCE, TOGETHER // max(1, len(shares)), os.sysconf("SC_OPEN_MAX") - 200)
    seen: list[dict[str, object] | None] = [None] * len(asked)
    started = [in_process(share, max(50, most)) for share in shares]
    for number, (process, pipe) in enumerate(started):
        with os.fdopen(pipe) as answer:
            said = answer.read()
        _, status = os.waitpid(process, 0)
        error = f"the scan ended with {os.waitstatus_to_exitcode(status)}"
        failed = [{"address": one["address"], "error": error} for one in shares[number]]
        seen[number::ADDRESSES] = failed if status else json.loads(said)
    print(json.dumps(seen))


if __name__ == "__main__":
    main(sys.argv[1])
