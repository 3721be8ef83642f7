"""A gateway's nginx, and one of a host behind gateways, for real on this machine's loopback.

What stands between them, HAProxy, is the tests' own: a server on a unix socket, or a client with a
gateway's certificate.
"""

from __future__ import annotations

import http.client
import json
import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer
from typing import Any

from tests.unit.real_nginx import Answer, RealEdge, StandInAgent, _free_ports
from vllm_hosts.host import paths
from vllm_hosts.host.paths import GATEWAY_FOLDER
from vllm_hosts.keys import HostKeys
from vllm_hosts.keys.pki import LocalCa, Role, utc_now
from vllm_hosts.roles.nginx.plan import NginxVersion
from vllm_hosts.settings import HostSettings
from vllm_hosts.settings.fleet import inner_name


class _UnixServer(ThreadingMixIn, UnixStreamServer):
    daemon_threads = True
    request_queue_size = 128


def stand_in_balancer(path: Path) -> Any:
    """In HAProxy's place: answers as an agent would, and writes down what it was asked."""
    server: Any = _UnixServer(str(path), StandInAgent)
    server.asked, server.bodies, server.healthy = [], [], True
    server.hostile, server.status, server.speaks = {}, 200, None
    return server


class RealGateway(RealEdge):
    """Each pool's socket is served by a stand-in, in ``agents`` by the pool's name."""

    def __init__(self, folder: Path, settings: HostSettings, keys: HostKeys) -> None:
        super().__init__(folder, settings, keys)
        for agent in self.agents.values():
            agent.server_close()
        self.settings = self.settings.model_copy(update={"agents": settings.agents})
        self.sockets = folder / "s"
        self.sockets.mkdir()
        self.agents = {
            pool.name: stand_in_balancer(self.sockets / f"in.{pool.name}.sock")
            for pool in settings.pools
        }
        self.agent = self.agents[settings.pools[0].name]

    def _moved(self, text: str) -> str:
        return super()._moved(text).replace(paths.BALANCER_RUN, str(self.sockets))


class RealInner(RealEdge):
    """A host behind gateways. ``ca`` is the inventory's, which signs for both sides."""

    def __init__(self, folder: Path, settings: HostSettings, keys: HostKeys) -> None:
        super().__init__(folder, settings, keys, all_run=True)
        [port] = _free_ports(1)
        self.inner_port = port
        section = self.settings.gateway.model_copy(update={"port": port})
        self.settings = self.settings.model_copy(update={"gateway": section})
        self.ca = LocalCa.create("test", utc_now())

    def _write(self, version: NginxVersion, more: str = "") -> None:
        folder = self.folder / "gateway"
        folder.mkdir()
        names = [inner_name(self.settings.name, agent.name) for agent in self.settings.agents]
        issued = self.ca.issue(names, 20, utc_now())
        (folder / "inner.pem").write_bytes(issued.certificate_pem)
        (folder / "inner.key").write_bytes(issued.key_pem.get_secret_value())
        (folder / "ca.pem").write_bytes(self.ca.certificate_pem)
        for gateway in self.settings.gateways:
            self.client(gateway.name)
        super()._write(version, more)

    def _moved(self, text: str) -> str:
        for agent in self.settings.agents:
            address = self.settings.cell(agent.name).address
            there = rf'"{re.escape(str(address))}", port = \d+'
            text = re.sub(there, f'"127.0.0.1", port = {agent.port}', text)
        return super()._moved(text).replace(GATEWAY_FOLDER, f"{self.folder}/gateway")

    def client(self, name: str, role: Role = "client", ca: LocalCa | None = None) -> Path:
        """A certificate with its key, of a gateway unless said otherwise."""
        path = self.folder / f"gateway/{name}-{role}-{'own' if ca is None else 'other'}.pem"
        if not path.exists():
            issued = (ca or self.ca).issue([name], 20, utc_now(), role)
            path.write_bytes(issued.certificate_pem + issued.key_pem.get_secret_value())
        return path

    @contextmanager
    def gateway(
        self,
        agent: str | None = "qwen",
        certificate: Path | None = None,
        server_name: str | None = None,
    ) -> Iterator[http.client.HTTPConnection]:
        """A connection as a gateway's HAProxy opens it, which may be used again."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = agent is not None
        context.load_verify_locations(cadata=self.ca.certificate_pem.decode())
        if certificate is None:
            certificate = self.client(self.settings.gateways[0].name)
        if certificate != Path():
            context.load_cert_chain(certificate)
        name = inner_name(self.settings.name, agent) if agent else server_name
        connection = _Connection(self.inner_port, context, name)
        try:
            yield connection
        finally:
            connection.close()

    def through(
        self,
        path: str,
        method: str = "GET",
        body: str | bytes | None = None,
        *,
        agent: str | None = "qwen",
        certificate: Path | None = None,
        server_name: str | None = None,
        client: str | None = "alice",
        **headers: str,
    ) -> Answer:
        """One request of a gateway, by default in the name of a client."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if client is not None:
            sent["X-Vllm-Hosts-Client"] = client
        with self.gateway(agent, certificate, server_name) as connection:
            connection.request(method, path, body, sent)
            found = connection.getresponse()
            return Answer(found.status, dict(found.headers), found.read().decode())

    def entries(self) -> list[dict[str, Any]]:
        """The access log."""
        return [json.loads(line) for line in self.log().splitlines()]


class _Connection(http.client.HTTPConnection):
    """Over TLS, with a name of its own in the handshake."""

    def __init__(self, port: int, context: ssl.SSLContext, name: str | None) -> None:
        super().__init__("127.0.0.1", port, timeout=20)
        self._tls, self._name = context, name

    def connect(self) -> None:
        super().connect()
        self.sock = self._tls.wrap_socket(self.sock, server_hostname=self._name)
