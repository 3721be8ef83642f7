"""What a stranger on the network tries: containers behind the host, and all of its connections."""

from __future__ import annotations

import contextlib
import resource
import shlex
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import hosts as lab_hosts
from lab.layout import BRIDGE, BRIDGE_V4
from tests.lab.asked import asked
from tests.lab.conftest import Deployed
from tests.lab.sabotage.parts import IMAGE
from vllm_hosts.settings import HostSettings

#: Names of bridges that no pattern of Docker's own covers.
_BRIDGES = ("docker_gwbridge", "podman0", "cni0", "virbr0", "lxdbr0")
#: Runs on the neighbour: which of these places accept a connection. All at once, and two seconds.
_KNOCK = """
import socket, sys, threading
def knock(place):
    address, _, port = place.rpartition('/')
    try:
        socket.create_connection((address, int(port)), 2).close()
        print(place, flush=True)
    except OSError:
        pass
for place in sys.argv[1:]:
    threading.Thread(target=knock, args=(place,)).start()
"""


class TestAStranger:
    """Is on the network, and has no key."""

    @pytest.fixture
    def behind(self, deployed: Deployed) -> Iterator[list[str]]:
        """Containers on bridges of such names, and the ways to them that the neighbour has."""
        host = lab_hosts.host("gpu1")
        makes, ways, places = [], [], []
        for at, name in enumerate(_BRIDGES):
            four, six, port = f"172.31.{at}", f"fd12:3456:{at}:", 9091 + at
            # Some are published for everybody, and some for the host alone.
            published = f"{'0.0.0.0' if at % 2 else '127.0.0.1'}:{port}:8000"
            makes += [
                f"docker network create --ipv6 --subnet {six}:/64 --subnet {four}.0/24"
                f" -o com.docker.network.bridge.name={name} lab-{name} >/dev/null",
                f"docker run -d -q --name lab-{name} --network lab-{name} -p {published}"
                f" --entrypoint python3 {IMAGE} -m http.server --bind :: 8000 >/dev/null",
            ]
            ways += [
                f"ip route replace {four}.0/24 via {host.ipv4}",
                f"ip -6 route replace {six}:/64 via {host.ipv6}",
            ]
            places += [f"{four}.2/8000", f"{six}:2/8000", f"{host.ipv4}/{port}"]
        lab_hosts.run("gpu1", " && ".join(makes) + " && sleep 3", timeout=180)
        lab_hosts.run("neighbour", " && ".join(ways))
        yield places
        lab_hosts.run("neighbour", "; ".join(way.replace("replace", "del") for way in ways))
        gone = "".join(
            f"docker rm -f lab-{name} >/dev/null; docker network rm lab-{name} >/dev/null;"
            for name in _BRIDGES
        )
        lab_hosts.run("gpu1", gone, timeout=120)

    def reached(self, places: list[str]) -> set[str]:
        words = f"python3 -c {shlex.quote(_KNOCK)} {' '.join(places)}"
        return set(lab_hosts.run("neighbour", words, timeout=60).stdout.split())

    def test_no_bridge_s_name_opens_a_container(
        self, deployed: Deployed, behind: list[str]
    ) -> None:
        """By its own address, IPv4 and IPv6, and by its published port."""
        edge = f"{lab_hosts.host('gpu1').ipv4}/443"
        assert self.reached([*behind, edge]) == {edge}
        # What the table said before: names of Docker's own kind only.
        rule = "oifname != { docker0, br-*, vllm-* } accept"
        lab_hosts.run("gpu1", f"nft 'insert rule inet vllm_hosts forward {rule}'")
        try:
            found = self.reached([*behind, edge])
        finally:
            lab_hosts.run("gpu1", "systemctl reload vllm-hosts-firewall.service")
        own = {place for place in behind if place.endswith("/8000")}
        assert found >= own | {edge}, own - found

    def test_three_thousand_connections_keep_nobody_out(self, deployed: Deployed) -> None:
        settings = deployed.settings["gpu1"]
        sources = [str(BRIDGE_V4.network[last]) for last in (201, 202, 203, 204)]
        add = " ".join(f"ip addr add {one}/24 dev host0;" for one in sources)
        program = Path(__file__).with_name("flood.py").read_text()
        words = f"{settings.address} {settings.edge.https_port} 3000 40 {' '.join(sources)}"
        said: list[str] = []

        def flood() -> None:
            done = lab_hosts.run(
                "neighbour",
                f"{add} ulimit -n 8192; python3 -c {shlex.quote(program)} {words}",
                timeout=120,
            )
            said.append(done.stdout)

        thread = threading.Thread(target=flood)
        thread.start()
        try:
            slowest = _while_flooded(deployed, settings, thread)
        finally:
            thread.join()
            drop = " ".join(f"ip addr del {one}/24 dev host0;" for one in sources)
            lab_hosts.run("neighbour", drop)
        [line] = [line for line in said[0].splitlines() if line.endswith("open")]
        print(f"hostile connections: {line}; slowest answer {slowest:.3f} s")
        # The flood was one, and the kernel held it to what each source may have.
        limit = settings.edge.connections_per_source * len(sources)
        assert limit * 0.5 < int(line.split()[0]) <= limit
        assert slowest < 1.0

    def test_two_thousand_unfinished_heads_keep_nobody_out(self, deployed: Deployed) -> None:
        """Past the handshake, from four addresses. They end by themselves within seconds."""
        settings = deployed.settings["gpu1"]
        sources = [str(BRIDGE_V4.network[last]) for last in (205, 206, 207, 208)]
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
        for source in sources:
            subprocess.run(["ip", "addr", "add", f"{source}/24", "dev", BRIDGE], check=True)
        held: list[ssl.SSLSocket] = []
        try:
            threads = [
                threading.Thread(target=_hold_heads, args=(settings, source, 500, held))
                for source in sources
            ]
            for thread in threads:
                thread.start()
            time.sleep(1)
            slowest, count = 0.0, 0
            until = time.monotonic() + 12
            while time.monotonic() < until:
                started = time.monotonic()
                assert asked(deployed, "/tiny/v1/models").status_code == 200
                slowest, count = max(slowest, time.monotonic() - started), count + 1
                time.sleep(0.1)
            for thread in threads:
                thread.join()
            print(f"{len(held)} unfinished heads; slowest of {count} answers {slowest:.3f} s")
            assert len(held) > 1000
            time.sleep(15)
            assert sum(_is_open(one) for one in held) == 0
            assert slowest < 1.0
        finally:
            for one in held:
                one.close()
            for source in sources:
                subprocess.run(["ip", "addr", "del", f"{source}/24", "dev", BRIDGE], check=True)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _hold_heads(settings: HostSettings, source: str, count: int, held: list[ssl.SSLSocket]) -> None:
    """Send the beginning of a request over each of many connections. Ten seconds at most."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    until = time.monotonic() + 10
    for _ in range(count):
        if time.monotonic() > until:
            return
        with contextlib.suppress(OSError):
            plain = socket.create_connection(
                (settings.address, settings.edge.https_port), 5, (source, 0)
            )
            one = context.wrap_socket(plain)
            one.sendall(b"GET /v1/models HTTP/1.1\r\nHost: x\r\nX-Slow: ")
            held.append(one)


def _is_open(one: ssl.SSLSocket) -> bool:
    one.settimeout(0.05)
    try:
        while one.recv(4096):
            pass
    except TimeoutError:
        return True
    except OSError:
        pass
    return False


def _while_flooded(deployed: Deployed, settings: HostSettings, flood: threading.Thread) -> float:
    """The slowest of many answers to a client with a key, each over a connection of its own."""
    time.sleep(3)
    slowest, count = 0.0, 0
    end = time.monotonic() + 25
    while time.monotonic() < end and flood.is_alive():
        started = time.monotonic()
        answer = asked(deployed, "/tiny/v1/models")
        assert answer.status_code == 200, answer.text
        slowest = max(slowest, time.monotonic() - started)
        count += 1
        time.sleep(0.1)
    assert count > 50
    return slowest
