"""Single TCP SYN packets to addresses that no route leads to, through a host on the same network.

python3 syn_packets.py '{"via": "192.0.2.7", "targets": [["172.18.0.2", 8000], ["10.0.0.9", 80]]}'

As anybody on a host's LAN can: the packet goes to the host's Ethernet address, whatever its IP
address says. Needs root and Linux. Plain Python, so that any neighbour can run it from stdin.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
import time

_IPV4 = 0x0800
_SYN, _ACK = 0x02, 0x10
PATIENCE = 2.0
#: SYNs per target: one may be lost.
_TRIES = 2


def checksum(data: bytes) -> int:
    """The internet checksum (RFC 1071)."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def syn(source: str, target: str, source_port: int, port: int) -> bytes:
    """An IPv4 packet with one TCP SYN (RFC 791, RFC 9293)."""
    ends = socket.inet_aton(source) + socket.inet_aton(target)
    sequence = int.from_bytes(os.urandom(4), "big")

    def tcp(check: int) -> bytes:
        numbers = (source_port, port, sequence, 0, 5 << 4, _SYN, 64240, check, 0)
        return struct.pack("!HHIIBBHHH", *numbers)

    segment = tcp(checksum(ends + struct.pack("!BBH", 0, 6, 20) + tcp(0)))

    def ip(check: int) -> bytes:
        return struct.pack("!BBHHHBBH", 0x45, 0, 40, 1, 0x4000, 64, 6, check) + ends

    return ip(checksum(ip(0))) + segment


def accepted(frame: bytes) -> tuple[str, int, int] | None:
    """Source address, source port and own port of a SYN-ACK, if an Ethernet frame holds one."""
    packet = frame[14:]
    if len(packet) < 40 or packet[0] >> 4 != 4 or packet[9] != 6:
        return None
    start = (packet[0] & 0x0F) * 4
    source_port, own_port = struct.unpack_from("!HH", packet, start)
    if packet[start + 13] & (_SYN | _ACK) != _SYN | _ACK:
        return None
    return socket.inet_ntoa(packet[12:16]), source_port, own_port


def way(via: str) -> tuple[str, str, bytes]:
    """Interface, own address and the host's Ethernet address.

    :raises OSError: the host is not on a network of this machine.
    """
    [route] = json.loads(subprocess.check_output(["ip", "-j", "route", "get", via], text=True))
    if "gateway" in route or route["dev"] == "lo":
        raise OSError(f"{via} is not on a network of this machine, so it is not a neighbour")
    deadline = time.monotonic() + 3
    while time.monotonic() < deadline:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as wake:
            wake.sendto(b"", (via, 9))
        shown = subprocess.check_output(
            ["ip", "-j", "neigh", "show", via, "dev", route["dev"]], text=True
        )
        for entry in json.loads(shown or "[]"):
            if "lladdr" in entry:
                ethernet = bytes.fromhex(entry["lladdr"].replace(":", ""))
                return route["dev"], route["prefsrc"], ethernet
        time.sleep(0.1)
    raise OSError(f"{via} does not reveal its Ethernet address")


def answering(via: str, targets: list[tuple[str, int]]) -> list[tuple[str, int]]:
    """Those of the targets, addresses with ports, that accept a connection through the host.

    :raises OSError: the host is no neighbour, or this is not root.
    """
    interface, own, ethernet = way(via)
    found = set()
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_IPV4)) as wire:
        wire.bind((interface, _IPV4))
        wire.settimeout(0.1)
        head = ethernet + wire.getsockname()[4] + struct.pack("!H", _IPV4)
        # One port of ours for each target, so that an answer tells whose it is.
        start = 20000 + int.from_bytes(os.urandom(2), "big") % 30000
        by_port = dict(enumerate(targets, start))
        for _ in range(_TRIES):
            for own_port, (address, port) in by_port.items():
                wire.send(head + syn(own, address, own_port, port))
            deadline = time.monotonic() + PATIENCE / _TRIES
            while time.monotonic() < deadline:
                try:
                    answer = accepted(wire.recv(2048))
                except TimeoutError:
                    continue
                # From whichever address: a rewritten destination may answer with its own.
                if answer and answer[2] in by_port and answer[1] == by_port[answer[2]][1]:
                    found.add(by_port[answer[2]])
    return sorted(found)


def main(request: str) -> None:
    """Look as asked, in JSON, and print what was seen, in JSON."""
    asked = json.loads(request)
    try:
        targets = [(address, port) for address, port in asked["targets"]]
        print(json.dumps({"answering": answering(asked["via"], targets)}))
    except (OSError, subprocess.CalledProcessError, KeyError) as error:
        print(json.dumps({"error": str(error) or repr(error)}))


if __name__ == "__main__":
    main(sys.argv[1])
