"""The hosts suite passes on good hosts, and every promise that is broken turns it red."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from lab import hosts as lab_hosts
from tests.lab.conftest import HOSTS, Deployed
from tests.lab.deploys import command, deploy


@dataclass(frozen=True)
class Sabotage:
    """A way to break one promise on a host.

    ``red`` is a part of the name of a test that must fail; ``heals``: a deploy repairs it, else
    ``undo`` does.
    """

    name: str
    do: str
    red: str
    undo: str = ""
    deploy_fails: bool = False


#: A listener for tests, with what every lab host has.
_LISTEN = "systemd-socket-activate -l {where} /bin/cat"

SABOTAGE = [
    Sabotage("env-readable", "chmod 644 /opt/vllm/.env", "env"),
    Sabotage("env-owner", "chown 1000 /opt/vllm/.env", "env"),
    Sabotage("firewall-deleted", "nft delete table inet vllm_hosts", "table"),
    Sabotage(
        "firewall-rule-added",
        "nft insert rule inet vllm_hosts input tcp dport 8001 accept",
        "table",
    ),
    Sabotage("firewall-not-at-boot", "systemctl disable vllm-hosts-firewall.service", "boot"),
    Sabotage(
        "agent-published-everywhere",
        "cd /opt/vllm && sed -i 's/127.0.0.1:8001:8000/0.0.0.0:8001:8000/' compose.yaml &&"
        " docker compose up -d --no-deps tiny",
        "publish",
    ),
    Sabotage("toolkit-unheld", "apt-mark unhold nvidia-container-toolkit", "held"),
    Sabotage(
        "log-rotation-lost",
        'sed -i \'/max-size/d; s/"max-file": "3"/"max-file": "9"/\' /etc/docker/daemon.json',
        "daemon",
    ),
    Sabotage(
        "metrics-opened",
        "sed -i '0,/location = /s||location = /metrics { proxy_pass http://127.0.0.1:8001/metrics;"
        " }\\n    location = |' /etc/nginx/conf.d/vllm-hosts.conf && systemctl reload nginx",
        "404",
    ),
    Sabotage(
        "old-tls",
        "sed -i 's/ssl_protocols .*/ssl_protocols TLSv1.1 TLSv1.2 TLSv1.3;/;"
        " s/ssl_ciphers .*/ssl_ciphers DEFAULT@SECLEVEL=0;/' /etc/nginx/conf.d/vllm-hosts.conf"
        " && systemctl reload nginx",
        "tls",
    ),
    Sabotage("certificate-key-readable", "chmod 644 /etc/vllm-hosts/tls/key.pem", "key"),
    Sabotage("agent-stopped", "docker stop -t 1 spare", "agent"),
    Sabotage(
        "stranger-listens",
        f"systemd-run --unit lab-stranger {_LISTEN.format(where='0.0.0.0:9999')}",
        "socket",
        undo="systemctl stop lab-stranger",
        deploy_fails=True,
    ),
    Sabotage(
        "stranger-listens-ipv6",
        f"systemd-run --unit lab-stranger {_LISTEN.format(where='[::]:9998')}",
        "socket",
        undo="systemctl stop lab-stranger",
        deploy_fails=True,
    ),
]


def test_the_suite_passes_on_both_hosts(deployed: Deployed) -> None:
    run = command("vllm-hosts", "verify", "inventory/lab.py")
    assert run.code == 0, run.output[-8000:]
    assert " passed" in run.output
    assert "skipped" not in run.output
    for host in HOSTS:
        assert (
            host
            in command("vllm-hosts", "verify", "inventory/lab.py", "--collect-only", "-q").output
        )


@pytest.mark.parametrize("sabotage", SABOTAGE, ids=lambda sabotage: sabotage.name)
def test_a_broken_promise_is_seen_and_healed(deployed: Deployed, sabotage: Sabotage) -> None:
    lab_hosts.run("gpu1", sabotage.do)
    try:
        run = command("vllm-hosts", "verify", "inventory/lab.py", "-k", "gpu1", "--tb=line")
        failed = [line for line in run.output.splitlines() if line.startswith("FAILED ")]
        assert run.code == 1, run.output[-4000:]
        assert any(sabotage.red in line.split(" - ")[0] for line in failed), failed
        if sabotage.deploy_fails:
            again = deploy("--limit", "gpu1")
            assert again.code == 1
            assert "lab-stranger" in again.output or "999" in again.of_host("gpu1")
    finally:
        if sabotage.undo:
            lab_hosts.run("gpu1", sabotage.undo)
        healed = deploy("--limit", "gpu1")
    assert healed.code == 0, healed.output[-4000:]
    assert command("vllm-hosts", "verify", "inventory/lab.py", "-k", "gpu1").code == 0
