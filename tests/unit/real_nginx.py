"""A real nginx on this machine's loopback, with the edge's own configuration."""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, Self

from tests.stores import kept_ca
from vllm_hosts.host import paths
from vllm_hosts.host.files import File
from vllm_hosts.host.paths import EDGE_CONF
from vllm_hosts.keys import HostKeys
from vllm_hosts.keys.pki import utc_now
from vllm_hosts.roles.client_keys.plan import key_entries
from vllm_hosts.roles.nginx.plan import NginxVersion, edge_entries, parse_version
from vllm_hosts.settings import HostSettings
from vllm_hosts.settings.cells import CONTAINER_PORT

#: Where `make setup` unpacks what tests run here and nobody needs to install.
UNPACKED = Path(sys.prefix) / "debian"
#: For LD_LIBRARY_PATH: LuaJIT's, where it is unpacked.
LUA_LIBRARIES = ":".join(map(str, UNPACKED.glob("**/lib/*-linux-gnu")))


def program(name: str) -> str:
    """A program that `make setup` unpacked beside Python, or the machine's own."""
    unpacked = [UNPACKED / folder / name for folder in ("usr/sbin", "usr/bin")]
    path = f"{os.environ['PATH']}:/usr/local/sbin:/usr/sbin:/sbin"
    there = [str(one) for one in unpacked if one.exists()]
    found = there[0] if there else shutil.which(name, path=path)
    assert found, f"{name} is missing; run: make setup"
    return found


class StandInAgent(BaseHTTPRequestHandler):
    """Answers as vLLM would, as far as the edge is concerned, and writes down what it was asked."""

    protocol_version = "HTTP/1.1"
    asked: list[tuple[str, str, dict[str, str]]]
    healthy: bool
    speaks: Callable[[str, bytes], tuple[str, Iterable[bytes]]] | None

    def _answer(self) -> None:
        left, digest = int(self.headers.get("Content-Length") or 0), hashlib.sha256()
        speaks, content = self.server.speaks, b""  # type: ignore[attr-defined]
        while piece := self.rfile.read(min(left, 65536)):
            left -= len(piece)
            digest.update(piece)
            content += piece if speaks else b""
        self.server.bodies.append(digest.hexdigest())  # type: ignore[attr-defined]
        self.server.asked.append((self.command, self.path, dict(self.headers)))  # type: ignore[attr-defined]
        healthy = self.server.healthy  # type: ignore[attr-defined]
        if speaks and healthy:
            self._speak(*speaks(self.path, content))
            return
        body = b"" if self.path == "/health" else b'{"answered": "by the agent"}'
        self.send_response(self.server.status if healthy else 503)  # type: ignore[attr-defined]
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Agent", "secret")
        for name, value in self.server.hostile.items():  # type: ignore[attr-defined]
            self.send_header(name, value)
        self.send_header("Access-Control-Allow-Origin", "*")
        self.end_headers()
        self.wfile.write(body)

    def _speak(self, kind: str, pieces: Iterable[bytes]) -> None:
        """In chunks, each sent when it is there."""
        self.send_response(self.server.status)  # type: ignore[attr-defined]
        self.send_header("Content-Type", kind)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        with suppress(OSError):
            for piece in pieces:
                self.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
            self.wfile.write(b"0\r\n\r\n")
            return
        self.close_connection = True

    do_GET = do_POST = do_HEAD = do_OPTIONS = _answer

    def log_message(self, *_: Any) -> None:
        pass


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: str


class RealEdge:
    """Starts with ``with``, in a folder of its own."""

    def __init__(
        self,
        folder: Path,
        settings: HostSettings,
        keys: HostKeys,
        *,
        narrow: bool = False,
        all_run: bool = False,
    ) -> None:
        """
        :param narrow: strangers may send a few requests only, and so a few show the limit.
        :param all_run: every agent, and not the first alone.
        """
        self.folder, self.keys, self.narrow = folder, keys, narrow
        self.agents = {
            agent.name: _stand_in() for agent in settings.agents[: None if all_run else 1]
        }
        self.agent = self.agents[settings.agents[0].name]
        ports = dict(zip(("https", "http"), _free_ports(2), strict=True))
        self.port, self.http_port = ports["https"], ports["http"]
        self.settings = settings.model_copy(
            update={
                "edge": settings.edge.model_copy(
                    update={"https_port": self.port, "http_port": self.http_port}
                ),
                "agents": tuple(
                    agent.model_copy(update={"port": self.agents[agent.name].server_port})
                    if agent.name in self.agents
                    else agent
                    for agent in settings.agents
                ),
            }
        )
        self.name = self.settings.edge_names[0]

    def judged(self, names_bucket: int | None = None) -> str:
        """What ``nginx -t`` has against the configuration; empty: nothing.

        :param names_bucket: what somebody else's configuration sets.
        """
        nginx = program("nginx")
        said = subprocess.run([nginx, "-V"], capture_output=True, text=True, check=True).stderr
        more = f"server_names_hash_bucket_size {names_bucket};" if names_bucket else ""
        self._write(replace(parse_version(said), names_bucket=names_bucket), more)
        words = [nginx, "-t", "-q", "-c", str(self.folder / "nginx.conf")]
        return subprocess.run(
            words, capture_output=True, text=True, check=False, env=environment()
        ).stderr

    def __enter__(self) -> Self:
        nginx = program("nginx")
        said = subprocess.run([nginx, "-V"], capture_output=True, text=True, check=True).stderr
        self._write(parse_version(said))
        for agent in self.agents.values():
            Thread(target=agent.serve_forever, args=(0.05,), daemon=True).start()
        words = [nginx, "-c", str(self.folder / "nginx.conf"), "-g", "daemon off;"]
        self.process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=environment())
        until = time.monotonic() + 20
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return self
            if self.process.poll() is not None or time.monotonic() > until:
                self.__exit__()
                raise AssertionError(f"nginx does not start: {self.process.stderr.read()}")  # type: ignore[union-attr]
            time.sleep(0.05)

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(30)
        for agent in self.agents.values():
            agent.shutdown()
            agent.server_close()

    def _write(self, version: NginxVersion, more: str = "") -> None:
        ca = kept_ca(self.folder / "ca", "test", utc_now())
        issued = ca.issue(self.settings.edge_names, 20, utc_now())
        (self.folder / "tls").mkdir()
        (self.folder / "tls/certificate.pem").write_bytes(issued.certificate_pem)
        (self.folder / "tls/key.pem").write_bytes(issued.key_pem.get_secret_value())
        (self.folder / "edge").mkdir()
        (self.folder / "logs").mkdir()
        (self.folder / "edge-lua").mkdir()
        entries = edge_entries(self.settings, self.keys, version)
        names = [agent.name for agent in self.settings.agents]
        for entry in [*entries, *key_entries(names, self.keys.clients)]:
            if isinstance(entry, File):
                where = "edge-lua" if entry.path.endswith(".lua") else "edge"
                path = self.folder / where / entry.path.rpartition("/")[2]
                path.write_text(self._moved(entry.content.decode()))
        main = EDGE_CONF.rpartition("/")[2]
        user = "user root;" if os.geteuid() == 0 else ""
        temporary = "".join(
            f"{kind}_temp_path {self.folder}/{kind};"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        (self.folder / "nginx.conf").write_text(
            f"{modules() if self.settings.edge_runs_lua else ''}"
            f"{user} worker_processes 1; pid {self.folder}/pid;"
            f" error_log {self.folder}/main.log; events {{ worker_connections 512; }}"
            f" http {{ {temporary} {more} access_log off; include {self.folder}/edge/{main}; }}"
        )

    def _moved(self, text: str) -> str:
        """The same with folders of the test's, and on loopback only."""
        text = text.replace(paths.EDGE_FOLDER, f"{self.folder}/edge")
        text = text.replace(paths.EDGE_LOGS, f"{self.folder}/logs")
        text = text.replace(paths.TLS_FOLDER, f"{self.folder}/tls")
        for agent in self.settings.agents:
            address = self.settings.cell(agent.name).address
            text = text.replace(f"{address}:{CONTAINER_PORT}", f"127.0.0.1:{agent.port}")
        if self.narrow:
            text = re.sub(r"rate=(50|5|1000|200)r/s", "rate=1r/m", text)
            text = re.sub(r"(zone=vllm_hosts_(?:refused|health)\w*) burst=\d+", r"\1 burst=4", text)
        text = re.sub(r"listen \[::\].*", "", text)
        return re.sub(r"listen (\d+)", r"listen 127.0.0.1:\1", text)

    @property
    def asked(self) -> list[tuple[str, str, dict[str, str]]]:
        """What reached the agent."""
        found: list[tuple[str, str, dict[str, str]]] = self.agent.asked  # type: ignore[attr-defined]
        return found

    def log(self) -> str:
        """Everything that nginx wrote."""
        time.sleep(0.2)
        return "".join(path.read_text() for path in sorted(self.folder.glob("logs/*")))

    def connection(self, server_name: str | None = None) -> ssl.SSLSocket:
        """A connection to the edge."""
        # A default one reads this machine's certificates first, which takes longer than a request.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=10)
        return context.wrap_socket(plain, server_hostname=server_name or self.name)

    def ask(
        self,
        path: str,
        key: str | None = None,
        method: str = "GET",
        body: str | bytes | None = None,
        server_name: str | None = None,
        **headers: str,
    ) -> Answer:
        """One request on a connection of its own, with the path sent as it is."""
        with self.connection(server_name) as connection:
            sent = {"Host": server_name or self.name, "Connection": "close"}
            sent |= {name.replace("_", "-"): value for name, value in headers.items()}
            if key is not None:
                sent["Authorization"] = f"Bearer {key}"
            data = body.encode() if isinstance(body, str) else body or b""
            if body is not None:
                sent["Content-Length"] = str(len(data))
            head = "".join(f"{name}: {value}\r\n" for name, value in sent.items())
            connection.sendall(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + data)
            return _read(connection, method)

    def raw(self, data: bytes, *, refused: bool = False) -> bytes:
        """What comes back to these bytes until the edge closes the connection.

        :param refused: one refusal is awaited; after some, nginx takes seconds to close.
        """
        with self.connection() as connection:
            found = b""
            with suppress(OSError):
                # The edge may have had enough before all of it was sent.
                connection.sendall(data)
            with suppress(OSError):
                while not (refused and found.endswith(b"}}")) and (piece := connection.recv(65536)):
                    found += piece
            return found


class _Server(ThreadingHTTPServer):
    # On a busy machine it takes connections up late.
    request_queue_size = 128


def _stand_in() -> ThreadingHTTPServer:
    agent = _Server(("127.0.0.1", 0), StandInAgent)
    agent.asked, agent.bodies, agent.healthy = [], [], True  # type: ignore[attr-defined]
    agent.hostile, agent.status = {}, 200  # type: ignore[attr-defined]
    agent.speaks = None  # type: ignore[attr-defined]
    return agent


def modules() -> str:
    """As the packages of Debian load them."""
    return "".join(
        f"load_module {path};"
        for name in ("ndk_http_module", "ngx_http_lua_module")
        for path in UNPACKED.glob(f"usr/lib/nginx/modules/{name}.so")
    )


def environment() -> dict[str, str]:
    lua = UNPACKED / "usr/share/lua/5.1/?.lua"
    return {**os.environ, "LD_LIBRARY_PATH": LUA_LIBRARIES, "LUA_PATH": f"{lua};;"}


def _read(connection: socket.socket, method: str) -> Answer:
    response = http.client.HTTPResponse(connection, method=method)
    response.begin()
    return Answer(response.status, dict(response.headers), response.read().decode())


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [found.getsockname()[1] for found in sockets]
    for found in sockets:
        found.close()
    return ports
