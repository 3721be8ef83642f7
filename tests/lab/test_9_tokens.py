"""What counting tokens costs at the edge. Needs no host; ``-s`` shows the figures."""

from __future__ import annotations

import http.client
import os
import statistics
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.unit.programs.test_edge_tokens import ALICE, CHAT, EDGE, KEYS, MB, asked
from tests.unit.real_nginx import RealEdge
from tests.unit.samples import CODER, QWEN, settings
from tests.unit.vllm_words import Talk

pytestmark = pytest.mark.nightly
#: A request and an answer of the usual size, without what the stand-in would need to make them.
TALK = Talk(prompt=200, choices=(("word ",) * 200,))


@pytest.fixture(params=[True, False], ids=["counted", "not counted"])
def edge(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RealEdge]:
    """A new one for each, since the peak of a worker's memory is that of its life."""
    host = settings(agents=[QWEN, CODER], edge=EDGE | {"count_tokens": request.param})
    with RealEdge(tmp_path, host, KEYS, all_run=True) as running:
        yield running


def worker(edge: RealEdge) -> int:
    children = Path(f"/proc/{edge.process.pid}/task/{edge.process.pid}/children")
    return int(children.read_text().split()[0])


def seconds(process: int) -> float:
    """Of processor time."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def kilobytes(process: int, which: str) -> int:
    return int(Path(f"/proc/{process}/status").read_text().partition(f"{which}:")[2].split()[0])


class Asking:
    """One connection for many requests."""

    def __init__(self, edge: RealEdge) -> None:
        self._connection = http.client.HTTPConnection(edge.name)
        self._connection.sock = edge.connection()
        self._connection.sock.settimeout(120)

    def post(self, body: str, path: str = CHAT) -> http.client.HTTPResponse:
        headers = {"Authorization": f"Bearer {ALICE}", "Content-Type": "application/json"}
        self._connection.request("POST", path, body, headers)
        return self._connection.getresponse()


def speak(edge: RealEdge, kind: str, pieces: Iterable[bytes]) -> None:
    for server in edge.agents.values():
        server.speaks = lambda *_: (kind, pieces)  # type: ignore[attr-defined]


def test_a_request_and_an_answer_of_a_kilobyte(edge: RealEdge) -> None:
    whole = [*TALK.answer(CHAT, b"{}")[1]]
    speak(edge, "application/json", whole)
    body, process = asked(prompt="x" * 900), worker(edge)
    for number in range(5):
        # nginx closes a connection after 1000 requests.
        asking = Asking(edge)
        for _ in range(500):
            asking.post(body).read()
        if number == 0:  # after a warm-up
            before = seconds(process)
    print(f"\n{(seconds(process) - before) / 2000 * 1e6:.0f} microseconds a request")


def test_events_of_a_stream(edge: RealEdge) -> None:
    """As the agent writes them to the edge, and 100,000 of them on one connection."""
    chunks = [*Talk(200, (("word ",) * 100_000,)).answer(CHAT, asked_each().encode())[1]]
    speak(edge, "text/event-stream", chunks)
    process, asking = worker(edge), Asking(edge)
    # The first one makes what all others use.
    asking.post(asked(stream=True)).read()
    before, memory = seconds(process), kilobytes(process, "VmRSS")
    received = asking.post(asked(stream=True)).read()
    each = (seconds(process) - before) / 100_000 * 1e6
    more = kilobytes(process, "VmHWM") - memory
    print(f"\n{each:.1f} microseconds an event, {more} kB for all of them")
    assert more < 4096
    assert received.endswith(b"data: [DONE]\n\n")


def asked_each() -> str:
    wanted = {"include_usage": True, "continuous_usage_stats": True}
    return asked(stream=True, stream_options=wanted)


def test_a_token_is_there_as_soon_as_without(edge: RealEdge) -> None:
    """From the moment the agent writes an event until the client has it."""
    sent: list[float] = []

    def paced() -> Iterator[bytes]:
        for chunk in TALK.answer(CHAT, asked_each().encode())[1]:
            time.sleep(0.005)
            sent.append(time.monotonic())
            yield chunk

    speak(edge, "text/event-stream", paced())
    answer = Asking(edge).post(asked(stream=True))
    got = []
    while line := answer.readline():
        if line.startswith(b"data: {"):
            got.append(time.monotonic())
    waits = [there - here for here, there in zip(sent, got, strict=False)]
    print(f"\n{statistics.median(waits) * 1e6:.0f} microseconds, the median of {len(waits)} events")
    assert statistics.median(waits) < 0.02


def test_ten_bodies_of_thirty_megabytes(edge: RealEdge) -> None:
    speak(edge, "text/event-stream", [b"data: [DONE]\n\n"])
    body, process = asked(stream=True, prompt="x" * (30 * MB)), worker(edge)
    Asking(edge).post(asked(stream=True)).read()
    before = kilobytes(process, "VmRSS")
    with ThreadPoolExecutor(10) as pool:
        answers = [*pool.map(lambda _: Asking(edge).post(body), range(10))]
    assert [answer.status for answer in answers] == [200] * 10
    more = kilobytes(process, "VmHWM") - before
    print(f"\n{more} kB more for ten bodies of 30 MB")
    assert more < 32 * 1024
