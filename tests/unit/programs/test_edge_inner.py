"""The server for gateways on a host behind them, in a real nginx on loopback."""

from __future__ import annotations

import hashlib
import json
import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from pydantic import SecretStr

from tests.unit.real_gateway import RealInner
from tests.unit.samples import behind
from vllm_hosts.keys import ClientKey, HostKeys
from vllm_hosts.keys.pki import LocalCa, utc_now
from vllm_hosts.settings.fleet import inner_name

KEYS = HostKeys(
    internal=SecretStr("INTERNAL-KEY"),
    clients=(ClientKey("controller", SecretStr("KEY-C")),),
    hf_token=None,
)
CHAT = "/v1/chat/completions"
ID = "0123456789abcdef" * 2
SETTINGS = behind(edge={"names": ["gpu1.example.com"], "routes": ["POST /v2/embed"]})


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealInner]:
    with RealInner(tmp_path_factory.mktemp("host"), SETTINGS, KEYS) as running:
        yield running


def asked(host: RealInner, agent: str = "qwen") -> list[Any]:
    server: Any = host.agents[agent]
    return server.asked  # type: ignore[no-any-return]


@pytest.mark.parametrize("agent", ["qwen", "coder"])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", CHAT),
        ("GET", "/v1/models"),
        ("POST", "/v2/embed"),
        ("GET", "/v1/responses/resp-1"),
        ("POST", "/v1/responses/resp-1/cancel"),
    ],
)
def test_a_gateway_reaches_the_agent_that_its_handshake_names(
    host: RealInner, agent: str, method: str, path: str
) -> None:
    body = "{}" if method == "POST" else None
    answer = host.through(
        f"{path}?x=1",
        method,
        body,
        agent=agent,
        X_Request_Id=ID,
        X_Vllm_Hosts_Affinity="alice:1",
        Authorization="Bearer stolen",
        X_Api_Key="stolen",
        Cookie="a=b",
    )
    assert answer.status == 200
    how, there, headers = asked(host, agent)[-1]
    assert (how, there) == (method, path)
    key = KEYS.internal_of(agent).get_secret_value()
    assert headers["Authorization"] == f"Bearer {key}"
    assert headers["X-Request-Id"] == ID
    assert "stolen" not in str(headers) and "x-vllm" not in str(headers).lower()
    assert not {"Cookie", "X-Api-Key"} & set(headers)
    entry = host.entries()[-1]
    assert (entry["gateway"], entry["client"], entry["agent"]) == (
        "gw1.example.com",
        "alice",
        agent,
    )
    assert (entry["request_id"], entry["status"], entry["prompt_tokens"]) == (ID, 200, None)
    assert entry["path"] == path.replace("resp-1", "ID")


def test_the_second_gateway_as_well(host: RealInner) -> None:
    certificate = host.client("gw2.example.com")
    assert host.through("/v1/models", certificate=certificate).status == 200
    assert host.entries()[-1]["gateway"] == "gw2.example.com"


def refused(host: RealInner, status: int, path: str = CHAT, **how: Any) -> dict[str, str]:
    """What such a request gets, of which no agent learns."""
    before = len(asked(host)), len(asked(host, "coder"))
    answer = host.through(path, **({"method": "POST", "body": "{}"} | how))
    assert answer.status == status, answer.body
    assert (len(asked(host)), len(asked(host, "coder"))) == before
    found: dict[str, str] = json.loads(answer.body)["error"]
    return found


@pytest.mark.parametrize("path", [CHAT, "/pulse", "/", "/health", "/v1/models"])
def test_without_a_gateway_s_certificate_nothing_is_reached(host: RealInner, path: str) -> None:
    other = LocalCa.create("other", utc_now())
    public = host.client("gw1.example.com", "server")
    for certificate, status in (
        (Path(), 400),
        (host.client("gw1.example.com", ca=other), 400),
        # A host's own, of the same CA and with a gateway's name: for servers.
        (public, 400),
        # Of the same CA, and for clients, but of no gateway that there is now.
        (host.client("gw3.example.com"), 403),
        (host.client("gw1.example.com.evil.example.com"), 403),
    ):
        error = refused(host, status, path, certificate=certificate)
        assert error["code"] in ("bad_request", "forbidden")
        assert host.entries()[-1]["gateway"] == ""


def test_the_host_s_own_certificates_are_no_gateway_s(host: RealInner, tmp_path: Path) -> None:
    both = tmp_path / "both.pem"
    for certificate, key in (("tls/certificate", "tls/key"), ("gateway/inner", "gateway/inner")):
        suffix = ".key" if key.startswith("gateway") else ".pem"
        both.write_bytes(
            (host.folder / f"{certificate}.pem").read_bytes()
            + (host.folder / f"{key}{suffix}").read_bytes()
        )
        assert refused(host, 400, certificate=both)["code"] == "bad_request"


def test_a_handshake_names_an_agent_of_this_host(host: RealInner) -> None:
    for name in (
        None,
        "gpu1.example.com",
        inner_name("gpu1", "other"),
        inner_name("gpu2", "qwen"),
        f"x.{inner_name('gpu1', 'qwen')}",
    ):
        for path in (CHAT, "/pulse"):
            error = refused(host, 404, path, agent=None, server_name=name, method="GET")
            assert error["code"] == "not_found"


@pytest.mark.parametrize(
    "path",
    [
        "/metrics",
        "/health",
        "/qwen/v1/chat/completions",
        "/v1/%6dodels",
        "//v1/models",
        "/v1/./models",
        "/x/../pulse",
        "/pulse/",
        "/v1/responses/a%0a",
        "/./400",
    ],
)
def test_only_exact_paths(host: RealInner, path: str) -> None:
    assert refused(host, 404, path, method="GET", body=None)["code"] == "not_found"


def test_only_their_methods(host: RealInner) -> None:
    for path, method in ((CHAT, "GET"), ("/v1/models", "POST"), ("/pulse", "POST")):
        assert refused(host, 405, path, method=method)["code"] == "method_not_allowed"


@pytest.mark.parametrize("name", [None, "", "Alice", "a" * 65, "alice,bob", "a b", 'a"b', "a:b"])
def test_a_request_has_a_client(host: RealInner, name: str | None) -> None:
    assert refused(host, 400, client=name)["code"] == "bad_request"


def test_strangers_are_logged_boundedly(tmp_path: Path) -> None:
    with RealInner(tmp_path, SETTINGS, KEYS) as host:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with ExitStack() as open_ones:
            asking = []
            for _ in range(300):
                plain = socket.create_connection(("127.0.0.1", host.inner_port), timeout=10)
                asking.append(open_ones.enter_context(context.wrap_socket(plain)))
            # All at once: what one machine shakes hands with in a second may be below the limit.
            for connection in asking:
                connection.sendall(b"GET /" + b"x" * 4000 + b" HTTP/1.1\r\nHost: x\r\n\r\n")
            said = [connection.recv(65536)[:13] for connection in asking]
        assert {*said} == {b"HTTP/1.1 400 ", b"HTTP/1.1 429 "}
        lines = host.log().splitlines()
        assert 0 < len(lines) < 300 and max(map(len, lines)) < 700


def test_plain_http_and_rubbish_get_our_format(host: RealInner) -> None:
    for request in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"GET /pulse HTTP/1.0\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", host.inner_port), timeout=10) as plain:
            plain.sendall(request)
            said = b"".join(iter(lambda: plain.recv(65536), b""))
        assert b"application/json" in said and b"<html" not in said, said


def test_what_is_older_than_tls_1_3_is_not_spoken(host: RealInner) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with (
        socket.create_connection(("127.0.0.1", host.inner_port), timeout=10) as plain,
        pytest.raises(OSError),
    ):
        context.wrap_socket(plain, server_hostname="x")


def test_a_connection_is_used_again(host: RealInner) -> None:
    with host.gateway() as connection:
        for _ in range(3):
            connection.request("GET", "/v1/models", headers={"X-Vllm-Hosts-Client": "alice"})
            answer = connection.getresponse()
            assert (answer.status, answer.read() != b"") == (200, True)
            assert answer.headers["Connection"] == "keep-alive"


def test_an_agent_steers_neither_nginx_nor_gateways(host: RealInner) -> None:
    server: Any = host.agents["qwen"]
    for name, value in (
        ("X-Accel-Redirect", "/pulse"),
        ("Location", "https://evil.example.com/"),
        ("Set-Cookie", "a=b"),
        ("Alt-Svc", 'h2="evil.example.com:443"'),
    ):
        server.hostile = {name: value}
        try:
            answer = host.through(CHAT, "POST", "{}")
        finally:
            server.hostile = {}
        assert (answer.status, answer.body) == (200, '{"answered": "by the agent"}')
        assert name not in answer.headers


def test_an_agent_that_is_gone_is_503_in_our_format(tmp_path: Path) -> None:
    with RealInner(tmp_path, SETTINGS, KEYS) as host:
        host.agents["qwen"].shutdown()
        host.agents["qwen"].server_close()
        answer = host.through(CHAT, "POST", "{}")
        assert (answer.status, answer.headers["Retry-After"]) == (503, "10")
        assert json.loads(answer.body)["error"]["code"] == "model_not_ready"


def test_a_stream_passes_as_it_comes(host: RealInner) -> None:
    server: Any = host.agents["qwen"]
    read = Event()

    def speaks(_path: str, _content: bytes) -> tuple[str, Iterator[bytes]]:
        def pieces() -> Iterator[bytes]:
            yield b"data: 1\n\n"
            assert read.wait(10)
            yield b"data: 2\n\n"

        return "text/event-stream", pieces()

    server.speaks = speaks
    try:
        with host.gateway() as connection:
            connection.request("POST", CHAT, b"{}", {"X-Vllm-Hosts-Client": "alice"})
            answer = connection.getresponse()
            assert answer.read(9) == b"data: 1\n\n"
            read.set()
            assert answer.read() == b"data: 2\n\n"
    finally:
        server.speaks = None


def test_large_bodies_pass_as_they_are(host: RealInner) -> None:
    body = b"x" * (40 << 20)
    assert host.through(CHAT, "POST", body).status == 200
    server: Any = host.agents["qwen"]
    assert server.bodies[-1] == hashlib.sha256(body).hexdigest()


def test_clients_cannot_use_what_gateways_use(host: RealInner) -> None:
    """The host's own edge: no header of theirs means anything, and none gets to an agent."""
    answer = host.ask(
        "/qwen/v1/models",
        "KEY-C",
        X_Vllm_Hosts_Client="alice",
        X_Vllm_Hosts_Affinity="alice:1",
    )
    assert answer.status == 200
    assert "x-vllm" not in str(asked(host)[-1]).lower()
    assert host.entries()[-1]["client"] == "controller"
    assert "gateway" not in host.entries()[-1]
    assert host.ask("/pulse", "KEY-C").status == 404
    assert host.ask("/pulse").status == 401
    assert host.ask("/v1/models", X_Vllm_Hosts_Client="alice").status == 401
