"""A real HAProxy on this machine, with a gateway's own configuration, and replicas on loopback.

Each replica asks for a gateway's certificate and shows its own, as nginx of a host does."""

from __future__ import annotations

import http.client
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Any

from tests.stores import kept_ca
from tests.unit.real_nginx import LUA_LIBRARIES, program
from vllm_hosts.facts.balancer import BalancerState
from vllm_hosts.facts.base import ending
from vllm_hosts.host import balancer, paths
from vllm_hosts.host.files import File
from vllm_hosts.keys.pki import LocalCa, utc_now
from vllm_hosts.operations.balancer import RELOAD
from vllm_hosts.roles.balancer import plan
from vllm_hosts.settings import HostSettings
from vllm_hosts.settings.fleet import AGAIN, Pool, Replica

#: Nobody's host: all of them are this machine.
ADDRESS = "127.0.0.1"
ENVIRONMENT = os.environ | {"LD_LIBRARY_PATH": LUA_LIBRARIES}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: StandIn
    disable_nagle_algorithm = True

    def setup(self) -> None:
        self.request.settimeout(30)
        with suppress(OSError):
            self.request.do_handshake()
        super().setup()

    def do_GET(self) -> None:
        alive = self.server.alive
        if alive is None:
            self.server.go_on.wait(20)
        if self.server.fails_once.is_set():
            self.server.fails_once.clear()
            alive = False
        self._say(200 if alive else 503, b"")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        one = self.server
        with one.lock:
            one.asked.append((dict(self.headers), len(body)))
            one.running += 1
            one.most = max(one.most, one.running)
        try:
            self._answer(one.answers)
        finally:
            with one.lock:
                one.running -= 1

    def _answer(self, how: str) -> None:
        one = self.server
        if how in ("nothing", "waits for nothing"):
            if how != "nothing":
                one.go_on.wait(20)
            self.close_connection = True
        elif how == "busy":
            self._say(503, b"busy")
        elif how == "half":
            self._begin()
            self.wfile.write(b"5\r\nfirst\r\n")
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
        elif how == "stream":
            self._begin()
            self.wfile.write(b"5\r\nfirst\r\n")
            one.go_on.wait(20)
            self.wfile.write(b"4\r\nlast\r\n0\r\n\r\n")
        else:
            if how == "waits":
                one.go_on.wait(20)
            self._say(200, one.name.encode())

    def _begin(self) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def _say(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


class StandIn(ThreadingHTTPServer):
    """A replica. ``answers``: what requests get; ``alive``: what checks get, None: no answer."""

    daemon_threads = True
    request_queue_size = 512

    def __init__(self, name: str, inner_name: str, folder: Path, ca: LocalCa) -> None:
        super().__init__((ADDRESS, 0), _Handler)
        self.name, self.inner_name, self.folder = name, inner_name, folder
        self.answers = "all"
        self.alive: bool | None = True
        self.fails_once = Event()
        self.asked: list[tuple[dict[str, str], int]] = []
        self.names: list[str | None] = []
        self.running = self.most = 0
        self.lock, self.go_on = Lock(), Event()
        self.shows(ca, inner_name)
        Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def shows(self, ca: LocalCa, name: str) -> None:
        """From now on, a certificate of this CA for this name."""
        issued = ca.issue([name], 20, utc_now())
        text = issued.certificate_pem + issued.key_pem.get_secret_value()
        (self.folder / f"{self.name}.pem").write_bytes(text)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.folder / f"{self.name}.pem")
        context.load_verify_locations(self.folder / "ca.pem")
        context.verify_mode = ssl.CERT_REQUIRED
        context.sni_callback = lambda _, asked, __: self.names.append(asked)
        self.context = context

    def get_request(self) -> tuple[Any, Any]:
        plain, address = super().get_request()
        wrapped = self.context.wrap_socket(plain, server_side=True, do_handshake_on_connect=False)
        return wrapped, address

    def handle_error(self, *_: Any) -> None:
        pass

    def ends(self) -> None:
        self.go_on.set()
        self.shutdown()
        self.server_close()


@dataclass
class Answer:
    status: int
    body: str


@dataclass
class RealBalancer:
    """Starts with ``with``, in a folder of its own.

    :param hurried: replicas are checked more often than they really are.
    """

    folder: Path
    settings: HostSettings
    count: int = 3
    weights: tuple[int, ...] = ()
    hurried: bool = False
    run: Path = field(init=False)
    process: subprocess.Popen[str] = field(init=False)
    replicas: list[StandIn] = field(init=False, default_factory=list)
    ending: list[subprocess.Popen[str]] = field(init=False, default_factory=list)

    def __enter__(self) -> RealBalancer:
        self.folders()
        ca = kept_ca(self.folder / "ca", "test", utc_now())
        self.ca = ca
        (self.folder / "ca.pem").write_bytes(ca.certificate_pem)
        self.becomes("gw1", ca)
        known = []
        for number in range(self.count):
            replica = Replica(f"gpu{number + 1}", "qwen", ADDRESS, 1)
            one = StandIn(replica.server, replica.inner_name, self.folder, ca)
            self.replicas.append(one)
            weight = self.weights[number] if self.weights else 1
            known.append(Replica(replica.host, replica.agent, ADDRESS, one.server_port, weight))
        pool = Pool("qwen", "Qwen/Qwen3-8B", tuple(known))
        self.settings = self.settings.model_copy(update={"pools": (pool,)})
        self.write()
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        for process in (self.process, *self.ending):
            process.terminate()
            process.wait(20)
        for one in self.replicas:
            one.ends()
        shutil.rmtree(self.run)

    def folders(self) -> None:
        (self.folder / "state").mkdir()
        # A socket's whole path has 97 characters at most.
        self.run = Path(tempfile.mkdtemp(prefix="gw", dir="/tmp"))

    def becomes(self, name: str, ca: LocalCa) -> None:
        """The gateway shows another certificate."""
        issued = ca.issue([name], 20, utc_now(), "client")
        text = issued.certificate_pem + issued.key_pem.get_secret_value()
        (self.folder / "client.pem").write_bytes(text)

    def write(self) -> None:
        (self.folder / "haproxy.cfg").write_text(self._moved(plan.configuration(self.settings)))
        (self.folder / "save").write_text(self._moved(plan.save_script()))
        (self.folder / "hand-over").write_text(self._moved(plan.hand_over_script()))

    def _moved(self, text: str) -> str:
        """The same with folders of the test's, as its user, and with less time between checks."""
        text = text.replace(paths.BALANCER_CONF, f"{self.folder}/haproxy.cfg")
        text = text.replace(paths.BALANCER_RUN, str(self.run))
        text = text.replace(paths.BALANCER_STATE, f"{self.folder}/state")
        text = text.replace(paths.GATEWAY_CLIENT, f"{self.folder}/client.pem")
        text = text.replace(paths.GATEWAY_CA, f"{self.folder}/ca.pem")
        text = text.replace(" socat ", f" {program('socat')} ")
        for of, us in {
            "    user haproxy\n    group haproxy\n": "    user nobody\n    group nogroup\n",
            "user www-data group root ": "user nobody group root ",
        }.items():
            text = text.replace(of, us if os.geteuid() == 0 else "")
        if not self.hurried:
            return text
        text = text.replace("timeout check 3s", "timeout check 500ms")
        return text.replace("inter 1200ms fastinter 400ms", "inter 200ms fastinter 50ms")

    def start(self) -> None:
        if not (self.folder / "state/servers").exists():
            (self.folder / "state/servers").write_text("1\n")
        words = ["-Ws", "-f", str(self.folder / "haproxy.cfg")]
        words += ["-S", f"{self.run}/master.sock,mode,600"]
        self.log = (self.folder / "log").open("a")
        self.process = subprocess.Popen(
            [*self._rights(), program("haproxy"), *words],
            stderr=self.log,
            text=True,
            env=ENVIRONMENT,
        )
        self.until(lambda: self.known(), "HAProxy does not start")

    def _rights(self) -> list[str]:
        """What the unit leaves to root."""
        [unit] = [
            one for one in plan.balancer_entries(self.settings) if one.path.endswith(".service")
        ]
        assert isinstance(unit, File)
        [line] = re.findall(r"^CapabilityBoundingSet=(.*)$", unit.content.decode(), re.MULTILINE)
        kept = [f"+{name.removeprefix('CAP_').lower()}" for name in line.split()]
        words = ["setpriv", "--no-new-privs", "--bounding-set", ",".join(["-all", *kept])]
        return words if os.geteuid() == 0 else []

    def known(self) -> bool:
        with suppress(OSError):
            return "Pid:" in self.say("show info")
        return False

    def until(self, condition: Any, why: str, seconds: float = 15) -> None:
        end = time.monotonic() + seconds
        while not condition():
            said = (self.folder / "log").read_text()
            assert time.monotonic() < end and self.process.poll() is None, f"{why}: {said}"
            time.sleep(0.02)

    def say(self, command: str, where: str = "admin") -> str:
        """To the runtime socket."""
        with socket.socket(socket.AF_UNIX) as one:
            one.settimeout(10)
            one.connect(f"{self.run}/{where}.sock")
            one.sendall(f"{command}\n".encode())
            one.shutdown(socket.SHUT_WR)
            found = b""
            while piece := one.recv(65536):
                found += piece
        return found.decode()

    def pid(self) -> str:
        [found] = re.findall(r"^Pid: (\d+)$", self.say("show info"), re.MULTILINE)
        return str(found)

    def reload(self) -> None:
        """As the unit does it, until the new process serves."""
        before = self.pid()
        self.save()
        self.process.send_signal(signal.SIGUSR2)
        self.until(lambda: self.known() and self.pid() != before, "HAProxy does not reload")

    def stop(self) -> None:
        """As the unit does it: systemd goes on at once, whatever is still running."""
        self.save()
        words = ["sh", f"{self.folder}/hand-over", str(self.process.pid)]
        subprocess.run(words, check=True, timeout=20)
        self.ending.append(self.process)

    def restart(self) -> None:
        self.stop()
        self.start()

    def load(self) -> subprocess.CompletedProcess[str]:
        """As deploys do it, with a systemctl that does what the unit says."""
        folder = self.folder / "bin"
        folder.mkdir(exist_ok=True)
        haproxy, conf = program("haproxy"), self.folder / "haproxy.cfg"
        (folder / "systemctl").write_text(
            f"#!/bin/sh\n[ $1 = reload ] || exit 0\nsh {self.folder}/save\n"
            f"{haproxy} -c -f {conf} || exit 1\nkill -USR2 {self.process.pid}\n"
        )
        (folder / "systemctl").chmod(0o755)
        script = self._moved(RELOAD).replace("+ 60", "+ 3")
        path = {"PATH": f"{folder}:{os.environ['PATH']}"}
        return subprocess.run(
            ["sh", "-c", script],
            env=ENVIRONMENT | path,
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )

    def save(self) -> None:
        subprocess.run(["sh", self.folder / "save"], check=True, env=ENVIRONMENT, timeout=20)

    @contextmanager
    def asking(
        self,
        affinity: str | None = "a",
        body: bytes = b"{}",
        pool: str = "qwen",
        path: str = "/v1/chat/completions",
        **headers: str,
    ) -> Iterator[http.client.HTTPResponse]:
        connection = http.client.HTTPConnection("gateway", timeout=30)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(30)
        connection.sock.connect(f"{self.run}/in.{pool}.sock")
        try:
            sent = {"Connection": "close", **headers}
            if affinity is not None:
                sent["X-Vllm-Hosts-Affinity"] = affinity
            connection.request("POST", path, body, sent)
            yield connection.getresponse()
        finally:
            connection.close()

    @property
    def version(self) -> tuple[int, ...]:
        [found] = re.findall(r"^Version: (\d+)\.(\d+)", self.say("show info"), re.MULTILINE)
        return tuple(map(int, found))

    def ask(
        self, affinity: str | None = "a", body: bytes = b"{}", pool: str = "qwen", **more: str
    ) -> Answer:
        try:
            with self.asking(affinity, body, pool, **more) as answer:
                return Answer(answer.status, answer.read().decode())
        except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
            # Newer ones say nothing after a connection that had served before, and all of them may
            # refuse a request before they have read it. nginx makes 502 of it.
            return Answer(502, "")

    def insist(self, affinity: str = "a", body: bytes = b"{}") -> Answer:
        """Once more where it is refused, as nginx does."""
        name = {"X-Request-Id": os.urandom(16).hex()}
        answer = self.ask(affinity, body, **name)
        if answer.status in (502, 503):
            answer = self.ask(affinity, body, pool=f"qwen{AGAIN}", **name)
        return answer

    def servers(self) -> list[balancer.Server]:
        """As the fact reads them."""
        script = f"echo '== user'; id -u\n{balancer.query(str(self.run))}"
        said = subprocess.run(
            ["sh", "-c", ending(self._moved(script))],
            capture_output=True,
            text=True,
            check=True,
            env=ENVIRONMENT,
        )
        found = BalancerState().process(said.stdout.splitlines())
        return [found["qwen", one.name] for one in self.replicas]

    def tell(self, one: StandIn, state: balancer.ServerState) -> None:
        """Drain a replica, or let it serve again, as operators' commands do."""
        script = balancer.told("qwen", one.name, state, str(self.run))
        script = script.replace(balancer.SAVE_SCRIPT, f"sh {self.folder}/save")
        words = ["sh", "-ec", self._moved(script)]
        subprocess.run(words, check=True, env=ENVIRONMENT, timeout=20, capture_output=True)

    def quiet(self) -> None:
        """Wait until HAProxy knows that everything is answered: what runs counts for shares."""
        self.until(lambda: not any(one.running for one in self._now()), "something runs")

    def _now(self) -> list[balancer.Server]:
        """The same of this process alone, without starting another one to ask it."""
        asked = {"admin": "show servers state", "now": "show stat -1 4 -1"}
        parts = {name: self.say(command).splitlines() for name, command in asked.items()}
        return list(balancer.servers(parts).values())

    def home(self, affinity: str) -> StandIn:
        """Who answers requests with this affinity, where nothing else runs."""
        self.quiet()
        found = self.of(self.ask(affinity).body)
        # While that one counts as running, the next one would go elsewhere.
        self.quiet()
        return found

    def alive(self, one: StandIn) -> bool:
        return next(found.alive for found in self._now() if found.name == one.name)

    def swap(self, one: StandIn, other: StandIn) -> None:
        """In the settings they have each other's port."""
        [pool] = self.settings.pools
        port = {one.name: other.server_port, other.name: one.server_port}
        replicas = tuple(
            replace(known, port=port.get(known.server, known.port)) for known in pool.replicas
        )
        pools = (replace(pool, replicas=replicas),)
        self.settings = self.settings.model_copy(update={"pools": pools})

    def of(self, name: str) -> StandIn:
        [found] = [one for one in self.replicas if one.name == name]
        return found
