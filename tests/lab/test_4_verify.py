"""The hosts suite passes on good hosts, and every promise that is broken turns it red."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from lab import hosts as lab_hosts
from tests.lab.conftest import HOSTS, Deployed
from tests.lab.deploys import Run, command, deploy


@dataclass(frozen=True)
class Sabotage:
    """A way to break one promise on a host.

    ``red`` is a part of the names of the tests that look at it, one of which must fail.
    A deploy repairs it; where it cannot, it must fail and say ``refused``, and ``undo`` repairs.
    """

    name: str
    do: str
    red: str
    undo: str = ""
    refused: str = ""
    #: Restarts an agent, which takes a minute.
    slow: bool = False


def listen(where: str) -> str:
    """A listener of a stranger, with what every lab host has."""
    return f"systemd-run --unit lab-stranger systemd-socket-activate -l {where} /bin/cat"


_CONF = "/etc/nginx/conf.d/vllm-hosts.conf"
_RELOAD = "nginx -t -q && systemctl reload nginx && sleep 0.5"
_STRANGER = {"red": "sockets", "undo": "systemctl stop lab-stranger"}

SABOTAGE = [
    Sabotage("env-readable", "chmod 644 /opt/vllm/.env", "env"),
    Sabotage("env-owner", "chown 1000 /opt/vllm/.env", "env"),
    Sabotage("env-replaceable", "chmod 777 /opt/vllm", "env"),
    Sabotage("firewall-deleted", "nft delete table inet vllm_hosts", "table"),
    Sabotage(
        "firewall-rule-added",
        "nft insert rule inet vllm_hosts input tcp dport 8001 accept",
        "table",
    ),
    Sabotage(
        "firewall-file-changed",
        "sed -i 's/policy drop/policy accept/' /etc/vllm-hosts/firewall.nft",
        "table",
    ),
    Sabotage("firewall-not-at-boot", "systemctl disable vllm-hosts-firewall.service", "boot"),
    Sabotage("toolkit-unheld", "apt-mark unhold nvidia-container-toolkit", "held"),
    Sabotage(
        "metrics-opened",
        "sed -i '0,/    location = /s||    location = /metrics"
        " { proxy_pass http://127.0.0.1:8001/metrics; }\\n    location = |'"
        f" {_CONF} && {_RELOAD}",
        "404",
    ),
    Sabotage("edge-without-keys", f"sed -i 's/return 401;/set $x 1;/' {_CONF} && {_RELOAD}", "401"),
    Sabotage(
        "old-tls",
        "sed -i 's/ssl_protocols .*/ssl_protocols TLSv1.1 TLSv1.2 TLSv1.3;/;"
        " s/ssl_ciphers .*/ssl_ciphers DEFAULT@SECLEVEL=0;/' /etc/nginx/vllm-hosts/tls.conf"
        f" && {_RELOAD}",
        "old_tls",
    ),
    Sabotage("certificate-key-readable", "chmod 644 /etc/vllm-hosts/tls/key.pem", "key_files"),
    Sabotage(
        "keys-of-clients-readable", "chmod 644 /etc/nginx/vllm-hosts/clients.map", "key_files"
    ),
    Sabotage(
        "key-added-by-hand",
        'echo \'"Bearer x" "x Bearer x";\' >>/etc/nginx/vllm-hosts/clients.map'
        " && systemctl reload nginx",
        "client_keys",
    ),
    Sabotage(
        "scope-widened", "sed -i '/1;$/d; $d' /etc/nginx/vllm-hosts/scopes.map", "client_keys"
    ),
    Sabotage("expiry-stopped", "systemctl disable --now vllm-hosts-keys.timer", "timer"),
    Sabotage("nginx-not-at-boot", "systemctl disable nginx", "nginx"),
    Sabotage("nginx-stopped", "systemctl stop nginx", "nginx"),
    Sabotage("port-listens", listen("0.0.0.0:9999"), **_STRANGER, refused="0.0.0.0:9999"),
    Sabotage("port-listens-on-ipv6", listen("[::]:9998"), **_STRANGER, refused="9998"),
    Sabotage(
        "another-site-answers",
        "printf 'server { listen 443 ssl; server_name 10.87.0.11;"
        " include /etc/nginx/vllm-hosts/tls.conf; location / { return 200; } }'"
        f" >/etc/nginx/conf.d/aaa.conf && {_RELOAD}",
        "401",
        undo=f"rm /etc/nginx/conf.d/aaa.conf && {_RELOAD}",
        refused="without a key with 200, not 401",
    ),
    Sabotage(
        "agent-port-redirected",
        "nft 'add table ip lab_evil; add chain ip lab_evil pre { type nat hook prerouting priority"
        " -150; }; add rule ip lab_evil pre tcp dport 8001 redirect to :80'",
        "outside",
        undo="nft delete table ip lab_evil",
        refused="port 8001 of 10.87.0.11 opens from the controller",
    ),
    Sabotage(
        "log-rotation-lost",
        'sed -i \'s/"max-file": "3"/"max-file": "9"/\' /etc/docker/daemon.json',
        "rotates_logs",
    ),
    Sabotage(
        "agent-published-everywhere",
        "cd /opt/vllm && sed -i 's/127.0.0.1:8002:8000/0.0.0.0:8002:8000/' compose.yaml &&"
        " docker compose --progress quiet up -d --no-deps spare",
        "publish",
        slow=True,
    ),
    Sabotage("agent-stopped", "docker stop -t 1 spare", "healthy", slow=True),
    Sabotage(
        "agent-privileged",
        "cd /opt/vllm && sed -i 's/cap_drop: .*/privileged: true/' compose.yaml &&"
        " docker compose --progress quiet up -d --no-deps spare",
        "privileges",
        slow=True,
    ),
    Sabotage(
        "agent-without-its-key",
        "cd /opt/vllm && sed -i 's/VLLM_API_KEY: .*/NO_KEY: no/' compose.yaml &&"
        " docker compose --progress quiet up -d --no-deps spare && i=0;"
        " until docker inspect spare --format '{{.State.Health.Status}}' | grep -q ^healthy;"
        " do sleep 2; i=$((i+1)); [ $i -lt 120 ]; done",
        "internal_key",
        slow=True,
    ),
]


def verify(*words: str) -> Run:
    return command("vllm-hosts", "verify", "inventory/lab.py", *words, "--tb=line")


def test_the_suite_passes_on_both_hosts(deployed: Deployed) -> None:
    run = verify("-v")
    assert run.code == 0, run.output[-8000:]
    assert " passed" in run.output
    assert "SKIPPED" not in run.output
    for host in HOSTS:
        assert f"test_env_is_readable_by_root_only[{host}]" in run.output
    assert deployed.leaks(run.output) == []


@pytest.mark.parametrize(
    "sabotage",
    [
        pytest.param(item, id=item.name, marks=[pytest.mark.nightly] if item.slow else [])
        for item in SABOTAGE
    ],
)
def test_a_broken_promise_is_seen_and_healed(deployed: Deployed, sabotage: Sabotage) -> None:
    chosen = ("-k", f"gpu1 and {sabotage.red}")
    lab_hosts.run("gpu1", sabotage.do, timeout=300)
    try:
        run = verify(*chosen)
        failed = [line for line in run.output.splitlines() if line.startswith("FAILED ")]
        assert run.code == 1, run.output[-4000:]
        assert failed, run.output[-4000:]
        assert deployed.leaks(run.output) == []
        if sabotage.refused:
            again = deploy("--limit", "gpu1")
            assert again.code == 1
            assert sabotage.refused in again.output, again.output[-4000:]
    finally:
        if sabotage.undo:
            lab_hosts.run("gpu1", sabotage.undo)
        healed = deploy("--limit", "gpu1")
    assert healed.code == 0, healed.output[-4000:]
    after = verify(*chosen)
    assert after.code == 0, after.output[-4000:]


class TestTheSuiteItself:
    """It never reports good news about hosts that it has not looked at."""

    def test_a_host_that_cannot_be_reached_is_an_error(self, deployed: Deployed) -> None:
        lab_hosts.run("gpu2", "systemctl stop ssh.service ssh.socket")
        try:
            run = verify("-k", "gpu2 and env")
        finally:
            lab_hosts.run("gpu2", "systemctl start ssh.service")
        assert run.code == 1
        assert "gpu2 cannot be reached" in run.output
        assert " passed" not in run.output

    def test_no_tests_is_no_success(self, deployed: Deployed) -> None:
        assert verify("-k", "no_such_test").code == 1

    def test_a_broken_inventory_is_no_success(self, tmp_path: Any) -> None:
        (tmp_path / "empty.py").write_text("gpu_hosts = []\n")
        assert command("vllm-hosts", "verify", str(tmp_path / "empty.py")).code == 1
