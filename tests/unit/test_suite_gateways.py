"""What the hosts suite makes of gateways and of the hosts behind them."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.stores import kept_ca
from tests.unit.fleets import fleet
from tests.unit.here import Here
from tests.unit.real_nginx import free_ports, program
from tests.unit.samples import QWEN, settings
from vllm_hosts.errors import HostError
from vllm_hosts.keys.pki import utc_now
from vllm_hosts.settings import HostSettings
from vllm_hosts.settings.fleet import inner_name
from vllm_hosts.suite import gateway_callers
from vllm_hosts.suite.gateway_callers import callers
from vllm_hosts.suite.test_firewall import exposed_to
from vllm_hosts.verify.promises import promises

REFUSED = {400, 403}


def behind(**values: Any) -> HostSettings:
    return fleet(**{"agents": [QWEN]} | values)["gpu1"]


def gateway() -> HostSettings:
    return fleet()["gw1"]


@pytest.mark.parametrize(
    ("promise", "alone", "on_gateway", "behind_one"),
    [
        ("DOCKER-01", True, False, True),
        ("AGENT-12", True, False, True),
        ("EDGE-04", True, True, True),
        ("NET-03", True, True, True),
        ("GW-01", False, False, True),
        ("GW-03", False, True, False),
        ("GW-04", False, True, True),
    ],
)
def test_of_whom_a_promise_is(
    promise: str, alone: bool, on_gateway: bool, behind_one: bool
) -> None:
    found = promises()[promise]
    for host, promised in ((settings(), alone), (gateway(), on_gateway), (behind(), behind_one)):
        assert (found.exempt(host) is None) == promised, host.name


def test_a_gateway_is_promised_all_but_what_is_about_agents() -> None:
    groups = ("EDGE", "TLS", "KEY", "LOG", "SSH", "OWN")
    for name, promise in promises().items():
        if name.partition("-")[0] in groups:
            assert promise.exempt(gateway()) is None, name
        if name.partition("-")[0] in ("DOCKER", "GPU", "AGENT", "MODEL"):
            assert promise.exempt(gateway()) == "a gateway runs no agents", name


def test_only_gateways_may_see_their_port() -> None:
    assert exposed_to(behind(), "192.0.2.2") == {8443}
    assert exposed_to(behind(), "192.0.2.3") == set()
    assert exposed_to(settings(), "192.0.2.2") == set()


NAMED = 'if ($ssl_client_s_dn != "CN=gw1") { return 403; }'
CONF = """
daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 64; }}
http {{
    access_log off; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p;
    fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
    server {{
        listen 127.0.0.1:{port} ssl;
        server_name _;
        ssl_certificate {folder}/inner.pem;
        ssl_certificate_key {folder}/inner.key;
        ssl_client_certificate {folder}/ca.pem;
        ssl_verify_client on;
        {named}
        if ($http_x_vllm_hosts_client = "") {{ return 400; }}
        return 200 "answered";
    }}
}}
"""


class _Authority:
    def __init__(self, ca: Any) -> None:
        self.ca = ca

    def found(self) -> Any:
        return self.ca


@pytest.fixture
def tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Tries the callers at a real nginx that is set up like a host's, with one text replaced."""
    [port] = free_ports(1)
    host = behind(gateway={"port": port})
    ca = kept_ca(tmp_path / "ca", "test", utc_now())
    issued = ca.issue([inner_name("gpu1", "qwen")], 20, utc_now())
    (tmp_path / "inner.pem").write_bytes(issued.certificate_pem)
    (tmp_path / "inner.key").write_bytes(issued.key_pem.get_secret_value())
    (tmp_path / "ca.pem").write_bytes(ca.certificate_pem)
    for name in ("INNER_CERTIFICATE", "TLS_CERTIFICATE"):
        monkeypatch.setattr(gateway_callers, name, str(tmp_path / "inner.pem"))
    for name in ("INNER_KEY", "TLS_KEY"):
        monkeypatch.setattr(gateway_callers, name, str(tmp_path / "inner.key"))
    (tmp_path / "programs").mkdir()
    here: Any = Here(tmp_path / "programs")
    authority: Any = _Authority(ca)

    def at(old: str = "", new: str = "") -> dict[str, int]:
        text = CONF.format(folder=tmp_path, port=port, named=NAMED)
        assert old in text
        (tmp_path / "nginx.conf").write_text(text.replace(old, new) if old else text)
        process = subprocess.Popen([program("nginx"), "-c", str(tmp_path / "nginx.conf")])
        try:
            time.sleep(0.5)
            return callers(here, host, authority)
        finally:
            process.terminate()
            process.wait(20)

    at.nobody = lambda: callers(here, host, authority)  # type: ignore[attr-defined]
    return at


def test_callers_that_are_no_gateway_are_refused(tried: Any) -> None:
    found = tried()
    assert len(found) == 6
    assert set(found.values()) <= REFUSED, found
    assert list(Path("/run").glob("vllm-hosts-verify.*")) == []


@pytest.mark.parametrize(
    ("old", "new", "who"),
    [
        (f"ssl_verify_client on;\n        {NAMED}", "", "a caller without a certificate"),
        ("ssl_verify_client on;", "ssl_verify_client optional_no_ca;", "nobody signed"),
        (NAMED, "", "does not have"),
    ],
)
def test_a_caller_that_is_answered_is_seen(tried: Any, old: str, new: str, who: str) -> None:
    answered = [name for name, status in tried(old, new).items() if status not in REFUSED]
    assert any(who in name for name in answered), answered


def test_a_port_where_nobody_listens_proves_nothing(tried: Any) -> None:
    with pytest.raises(HostError, match="nobody answers on port"):
        tried.nobody()
