"""HAProxy of a gateway is restarted, or dies, and what that costs; behind a real nginx as well."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from itertools import count
from pathlib import Path
from threading import Event

import pytest

from tests.unit.programs.test_edge_gateway import ALICE, CHAT, EDGE, KEYS
from tests.unit.real_gateway import RealGateway
from tests.unit.real_haproxy import RealBalancer
from tests.unit.samples import QWEN, settings
from vllm_hosts.host.balancer import ServerState
from vllm_hosts.roles.balancer.plan import hand_over_script
from vllm_hosts.settings import HostSettings

#: As the pool calls it.
MODEL = "Qwen/Qwen3-8B"


class Front(RealGateway):
    """nginx before HAProxy's own sockets."""

    def __init__(self, folder: Path, settings: HostSettings, run: Path) -> None:
        super().__init__(folder, settings, KEYS)
        for stand_in in self.agents.values():
            stand_in.server_close()
        self.agents, self.sockets = {}, run

    def chat(self, text: str) -> int:
        body = {"model": MODEL, "messages": [{"role": "user", "content": text}]}
        return self.ask(CHAT, ALICE, "POST", json.dumps(body)).status


class Way:
    """nginx and HAProxy of a gateway, and replicas."""

    def __init__(self, stack: ExitStack, folder: Path, *, hurried: bool = False) -> None:
        own = settings(name="gw1", agents=[QWEN | {"served_model_name": MODEL}], edge=EDGE)
        for name in ("haproxy", "front"):
            (folder / name).mkdir()
        self.balancer = stack.enter_context(RealBalancer(folder / "haproxy", own, hurried=hurried))
        own = self.balancer.settings
        self.front = stack.enter_context(Front(folder / "front", own, self.balancer.run))


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[RealBalancer]:
    with RealBalancer(tmp_path, settings()) as one:
        yield one


@pytest.fixture
def way(tmp_path: Path) -> Iterator[Way]:
    with ExitStack() as stack:
        yield Way(stack, tmp_path)


def test_streams_go_on_and_are_counted(gateway: RealBalancer) -> None:
    """Until they end, over several restarts."""
    home = gateway.home("a")
    home.answers = "stream"
    with gateway.asking("a") as answer:
        assert answer.read(5) == b"first"
        for _ in range(2):
            gateway.restart()
            assert sum(one.running for one in gateway.servers()) == 1
        old, other = gateway.ending
        assert old.poll() is None
        assert other.wait(10) is not None
        home.go_on.set()
        assert answer.read() == b"last"
    old.wait(10)
    assert not any(one.running for one in gateway.servers())
    assert gateway.ask("a").status == 200


def test_what_is_drained_stays_so(gateway: RealBalancer) -> None:
    """The one that still runs does not undo what the next one is told."""
    home = gateway.home("a")
    home.answers = "stream"
    with gateway.asking("a") as answer:
        gateway.tell(home, ServerState.DRAIN)
        gateway.restart()
        assert [one.drained for one in gateway.servers()] == [
            one is home for one in gateway.replicas
        ]
        gateway.tell(home, ServerState.READY)
        home.go_on.set()
        assert answer.read() == b"firstlast"
    gateway.ending[0].wait(10)
    gateway.restart()
    assert not any(one.drained for one in gateway.servers())


def test_while_it_is_stopped_nobody_is_served(gateway: RealBalancer) -> None:
    gateway.stop()
    for name in ("in.qwen.sock", "in.qwen.again.sock", "admin.sock"):
        with pytest.raises(OSError):
            gateway.say("", name.removesuffix(".sock"))
    gateway.ending[0].wait(10)
    gateway.start()
    assert gateway.ask("a").status == 200


def test_under_load_restarts_lose_nothing(way: Way) -> None:
    done, numbers = Event(), count()

    def ask() -> Counter[int]:
        found: Counter[int] = Counter()
        while not done.is_set():
            found[way.front.chat(f"c{next(numbers)}")] += 1
        return found

    with ThreadPoolExecutor(12) as pool:
        running = [pool.submit(ask) for _ in range(12)]
        for _ in range(5):
            way.balancer.restart()
            time.sleep(0.3)
        done.set()
        total = sum((one.result() for one in running), Counter())
    assert set(total) == {200}, way.front.log()[-2000:]
    assert total[200] > 50


def test_a_death_costs_no_more_than_what_it_had(way: Way) -> None:
    """What was without an answer is asked of another agent once there is a HAProxy again, unless
    its second try met the dying one, too; what comes meanwhile waits."""
    for one in way.balancer.replicas:
        one.answers = "waits"
    with ThreadPoolExecutor(12) as pool:
        had = [pool.submit(way.front.chat, f"c{number}") for number in range(6)]
        way.balancer.until(
            lambda: sum(one.running for one in way.balancer.replicas) == 6, "not all run"
        )
        worker = int(way.balancer.pid())
        way.balancer.process.kill()
        os.kill(worker, signal.SIGKILL)
        way.balancer.process.wait(10)
        for one in way.balancer.replicas:
            one.answers = "all"
        later = [pool.submit(way.front.chat, f"d{number}") for number in range(6)]
        time.sleep(0.5)
        way.balancer.start()
        assert {one.result() for one in later} == {200}
        assert {one.result() for one in had} <= {200, 503}
    # Nobody was asked a third time.
    assert sum(len(one.asked) for one in way.balancer.replicas) <= 18


class TestStrays:
    """What a start that was broken off has left ends before the next one; who still has requests
    does not."""

    @pytest.fixture
    def orphan(self, tmp_path: Path) -> Iterator[int]:
        """A process of that name, which belongs to nobody."""
        shutil.copy("/bin/sleep", tmp_path / "haproxy")
        words = ["sh", "-c", f"{tmp_path}/haproxy 60 >/dev/null 2>&1 & echo $!"]
        pid = int(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
        yield pid
        subprocess.run(["kill", "-KILL", str(pid)], check=False, capture_output=True)

    @staticmethod
    def program(pid: int) -> str:
        with suppress(OSError):
            return str(Path("/proc", str(pid), "exe").readlink())
        return ""

    def before_start(self, folder: Path, *pids: int) -> None:
        run = folder / "run"
        (folder / "procs").write_text("".join(f"{pid}\n" for pid in pids))
        text = hand_over_script().replace("cd /run/vllm-hosts-balancer", f"cd {run}")
        begin, _, _ = text.partition('done <"/sys/fs/cgroup')
        end = text.partition('cgroup.procs"')[2]
        script = f"{begin}done <{folder}/procs{end}"
        subprocess.run(["sh", "-c", script], check=True, timeout=20)

    def test_they_end(self, tmp_path: Path, orphan: int) -> None:
        (tmp_path / "run").mkdir()
        self.before_start(tmp_path, os.getpid(), orphan, 999_999_999)
        end = time.monotonic() + 10
        # A zombie has no program any more.
        while self.program(orphan):
            assert time.monotonic() < end
            time.sleep(0.05)

    def test_but_not_one_that_was_told_to(
        self, tmp_path: Path, orphan: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run = tmp_path / "run"
        run.mkdir()
        with socket.socket(socket.AF_UNIX) as one, socket.socket(socket.AF_UNIX) as gone:
            # A path of more letters than a socket's may have.
            monkeypatch.chdir(run)
            one.bind(f"master.{orphan}.sock")
            gone.bind("master.999999999.sock")
        self.before_start(tmp_path, orphan)
        assert self.program(orphan)
        assert [path.name for path in run.iterdir()] == [f"master.{orphan}.sock"]
