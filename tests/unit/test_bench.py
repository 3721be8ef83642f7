"""What measures runs: the relay, tables and plots, and a fleet of recorded hosts."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench.figures import Measured, plot, table

ROOT = Path(__file__).resolve().parents[2]
#: In a process of its own: here gevent has replaced what asyncio needs.
RELAYED = """
import json, socket, sys, time
from threading import Thread
from bench.relay import Relay, Target

def answer(server):
    while True:
        one, _ = server.accept()
        def serve(one=one):
            while data := one.recv(65536):
                one.sendall(data)
            one.sendall(b"bye")
            one.close()
        Thread(target=serve, daemon=True).start()

server = socket.create_server(("127.0.0.1", 0))
Thread(target=answer, args=(server,), daemon=True).start()
relay, took = Relay(), {}
with relay.running(Target("127.0.0.1", server.getsockname()[1]), Target("127.0.0.1", 1)) as ports:
    for delay in (0.0, 0.2):
        relay.round_trip = delay
        with socket.create_connection(("127.0.0.1", ports[0])) as one:
            times, begun = [], time.monotonic()
            for _ in range(2):
                one.sendall(b"x")
                assert one.recv(9) == b"x"
                times.append(time.monotonic() - begun)
            # On a long line, what is sent at once arrives at once.
            begun = time.monotonic()
            for _ in range(20):
                one.sendall(b"y" * 1000)
                time.sleep(0.001)
            got = b""
            while len(got) < 20000:
                got += one.recv(65536)
            times.append(time.monotonic() - begun)
            one.shutdown(socket.SHUT_WR)
            assert one.recv(9) == b"bye" and one.recv(9) == b""
        took[delay] = times
    relay.round_trip = 0.0
    with socket.create_connection(("127.0.0.1", ports[1])) as one:
        assert one.recv(9) == b""
print(json.dumps([took, relay.connections, relay.carried]))
"""


def test_the_relay_makes_a_host_far_away() -> None:
    done = subprocess.run(
        [sys.executable, "-c", RELAYED], cwd=ROOT, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stderr
    took, connections, carried = json.loads(done.stdout)
    near, far = took["0.0"], took["0.2"]
    assert connections == 3
    assert carried == 2 * 2 * (2 + 20000) + 2 * len("bye")
    # The first answer takes the handshake's round trip as well.
    assert far[0] - near[0] > 0.35
    assert far[1] - far[0] > 0.19
    assert 0.19 < far[2] < 10 * 0.2


def test_ratios_are_of_pairs() -> None:
    # Both were slow in the second pair, when the machine was.
    ours, theirs = Measured((1.0, 5.0, 1.0)), Measured((2.0, 10.0, 4.0))
    assert theirs.over(ours) == 2.0
    assert ours.middle == 1.0
    assert str(theirs) == "4.00 (2.00 to 10.00)"
    assert str(Measured((1.0,))) == "1.00"
    with pytest.raises(ValueError, match="shorter"):
        ours.over(Measured((1.0,)))


def test_a_table() -> None:
    assert table(["a", "b"], [[1, Measured((2.0,))]]) == "| a | b |\n| --- | --- |\n| 1 | 2.00 |\n"


def test_a_plot_is_svg_with_all_that_was_measured() -> None:
    drawn = plot(
        "Runs & ways", "s", {"0 ms": {"ours": Measured((1.0, 3.0)), "<x>": Measured((4.0,))}}
    )
    root = ElementTree.fromstring(drawn)
    texts = [one.text for one in root.iter() if one.tag.endswith("text")]
    assert texts == ["Runs & ways", "0 ms", "ours", "2.00 s", "<x>", "4.00 s"]
    widths = [float(one.get("width", 0)) for one in root.iter() if one.tag.endswith("rect")][1:]
    assert widths[1] == 2 * widths[0]


def test_a_fleet_of_recorded_hosts_has_nothing_to_change(tmp_path: Path) -> None:
    """And pyinfra's own command sees that in a few executions of each host."""
    begun = time.monotonic()
    made = "from pathlib import Path; from bench import scale; import sys; fleet = scale.made("
    made += "Path(sys.argv[1]), 3); found = scale.run(fleet, 0.0); print(scale.json.dumps(found))"
    done = subprocess.run(
        [sys.executable, "-c", f"import pyinfra_cli; {made}", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    kinds = {kind: times / 3 for kind, times in found["count"].items()}
    assert {kind: kinds[kind] for kind in ("connect", "lock", "looks ahead", "fact")} == {
        "connect": 1,
        "lock": 1,
        "looks ahead": 1,
        "fact": 2,
    }
    assert kinds["edge"] == 1
    assert 0 < found["cpu"] < time.monotonic() - begun
