"""The edge's limits, its certificates and its log, on running hosts."""

from __future__ import annotations

import json
import socket
import ssl
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
from cryptography import x509

from lab import hosts as lab_hosts
from lab import layout
from tests.lab.conftest import Deployed
from tests.lab.deploys import changes, deploy
from tests.stores import kept_ca
from vllm_hosts.host.paths import TLS_CERTIFICATE, TLS_KEY


def chat(deployed: Deployed, **changes: Any) -> requests.Response:
    """One small completion from gpu1's first agent."""
    body = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
    return requests.post(
        f"https://{deployed.settings['gpu1'].address}/v1/chat/completions",
        headers={"Authorization": f"Bearer {deployed.client_key.get_secret_value()}"},
        json=body | changes,
        verify=str(deployed.ca_file),
        timeout=60,
    )


def deployed_to(host: str, **settings: Any) -> None:
    run = deploy("--limit", host, settings={"hosts": {host: settings}})
    assert run.code == 0, run.output[-4000:]


class TestLimits:
    @pytest.fixture(scope="class", autouse=True)
    def narrow(self, deployed: Deployed) -> Iterator[None]:
        limits = {"requests_per_second": 1, "burst": 3, "connections": 2, "max_body_size": "4k"}
        deployed_to("gpu1", edge=limits)
        yield
        deployed_to("gpu1")

    def test_too_many_requests_are_429(self, deployed: Deployed) -> None:
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: chat(deployed), range(12)))
        counts = Counter(answer.status_code for answer in answers)
        assert set(counts) == {200, 429}, counts
        refused = next(answer for answer in answers if answer.status_code == 429)
        assert refused.json()["error"]["code"] == "rate_limit_exceeded"
        assert refused.headers["Retry-After"] == "1"

    def test_a_large_request_is_413(self, deployed: Deployed) -> None:
        answer = chat(deployed, user="x" * 8000)
        assert answer.status_code == 413
        assert answer.json()["error"]["code"] == "request_too_large"


def test_only_allowed_networks_may_ask(deployed: Deployed) -> None:
    """The neighbour may, the controller may not: neither by the firewall nor by nginx."""
    neighbour = f"{layout.NEIGHBOUR.ipv4}/32"
    address = deployed.settings["gpu1"].address
    try:
        run = deploy(
            "--limit", "gpu1", settings={"hosts": {"gpu1": {"edge": {"allow_from": [neighbour]}}}}
        )
        # The run itself asks the edge, which it may not any more.
        assert run.code == 1
        assert "is the controller's network in edge.allow_from?" in run.output
        with pytest.raises(OSError):
            socket.create_connection((address, 443), timeout=2)
        ask = f"curl -sk -o /dev/null -w '%{{http_code}}' https://{address}/v1/models"
        assert lab_hosts.run("neighbour", ask).stdout == "401"
        lab_hosts.run("gpu1", "nft delete table inet vllm_hosts")
        answer = requests.get(
            f"https://{address}/v1/models", verify=str(deployed.ca_file), timeout=5
        )
        assert answer.status_code == 403
        assert answer.json()["error"]["code"] == "forbidden"
    finally:
        deployed_to("gpu1")


def served(deployed: Deployed, host: str) -> x509.Certificate:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with (
        socket.create_connection((deployed.settings[host].address, 443), timeout=5) as plain,
        context.wrap_socket(plain) as tls,
    ):
        return x509.load_der_x509_certificate(tls.getpeercert(binary_form=True) or b"")


class TestCertificates:
    def test_one_that_ends_soon_is_renewed_and_taken_up(self, deployed: Deployed) -> None:
        now = datetime.now(UTC)
        ca = kept_ca(deployed.ca_file.parent, "lab", now)
        old = ca.issue(deployed.settings["gpu2"].edge_names, 20, now)
        root = Path(layout.STATE / "hosts/gpu2/root")
        (root / TLS_CERTIFICATE[1:]).write_bytes(old.certificate_pem)
        (root / TLS_KEY[1:]).write_bytes(old.key_pem.get_secret_value())
        lab_hosts.run("gpu2", "systemctl reload nginx")
        before = lab_hosts.run("gpu2", "systemctl show -p MainPID nginx").stdout
        run = deploy("--limit", "gpu2")
        assert run.code == 0, run.output[-4000:]
        assert changes(run) == {"gpu2": 2}, "the certificate, and nginx taking it up"
        assert served(deployed, "gpu2").not_valid_after_utc > now + timedelta(days=300)
        assert lab_hosts.run("gpu2", "systemctl show -p MainPID nginx").stdout == before

    def test_files_of_the_user(self, deployed: Deployed, tmp_path: Path) -> None:
        now = datetime.now(UTC)
        ca = kept_ca(tmp_path / "ca", "users", now)
        issued = ca.issue(deployed.settings["gpu2"].edge_names, 200, now)
        chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
        chain.write_bytes(issued.certificate_pem + ca.certificate_pem)
        key.write_bytes(issued.key_pem.get_secret_value())
        (tmp_path / "ca.pem").write_bytes(ca.certificate_pem)
        tls = {"mode": "files", "certificate": str(chain), "key": str(key)}
        try:
            deployed_to("gpu2", tls=tls | {"ca_file": str(tmp_path / "ca.pem")})
            wanted = x509.load_pem_x509_certificate(issued.certificate_pem)
            assert served(deployed, "gpu2") == wanted
            # Without the CA, this machine trusts that certificate as little as any client does.
            run = deploy("--limit", "gpu2", settings={"hosts": {"gpu2": {"tls": tls}}})
            assert run.code == 1
            assert "CERTIFICATE_VERIFY_FAILED" in run.output
        finally:
            deployed_to("gpu2")


def test_the_log_has_names_and_no_secrets(deployed: Deployed) -> None:
    word = "a-prompt-that-nobody-should-log"
    answer = chat(deployed, messages=[{"role": "user", "content": word}])
    assert answer.status_code == 200
    log = lab_hosts.run("gpu1", "cat /var/log/vllm-hosts/access.log").stdout
    entry = json.loads(log.splitlines()[-1])
    assert entry["client"] == "default"
    assert entry["agent"] == "tiny"
    assert (entry["path"], entry["status"]) == ("/v1/chat/completions", 200)
    everything = lab_hosts.run(
        "gpu1", "cat /var/log/vllm-hosts/* /var/log/nginx/*; journalctl -b --no-pager"
    ).stdout
    assert word not in everything
    assert deployed.leaks(everything) == []
