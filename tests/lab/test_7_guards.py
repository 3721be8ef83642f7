"""Changes that could lock people out, other firewalls, exposure by decision, and drift."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab import hosts as lab_hosts
from lab import layout
from lab.settings import AGENTS
from tests.lab.conftest import Deployed
from tests.lab.deploys import Run, changes, command, deploy
from tests.lab.test_4_verify import ended

pytestmark = pytest.mark.nightly

LIVE = "nft -s -t list table inet vllm_hosts"


def reachable(host: str, port: int, source: str = "neighbour") -> bool:
    """Whether a TCP connection opens, from the neighbour or from here."""
    address = lab_hosts.host(host).ipv4
    probe = (
        f"python3 -c \"import socket; socket.create_connection(('{address}', {port}), timeout=3)\""
    )
    return lab_hosts.run(source, probe, check=False).returncode == 0


def verify(*words: str, settings: dict[str, Any] | None = None) -> Run:
    return command("vllm-hosts", "verify", "inventory/lab.py", *words, settings=settings)


class TestLockout:
    def test_a_firewall_that_locks_us_out_undoes_itself(self, deployed: Deployed) -> None:
        before = lab_hosts.run("gpu2", LIVE).stdout
        file = lab_hosts.run("gpu2", "sha256sum /etc/vllm-hosts/firewall.nft").stdout
        run = deploy(
            "--limit",
            "gpu2",
            settings={"hosts": {"gpu2": {"firewall": {"ssh_from": ["192.0.2.0/24"]}}}},
        )
        assert run.code == 1
        assert "no new connection opened" in run.output
        assert "the host rolled back" in run.output
        assert lab_hosts.run("gpu2", LIVE).stdout == before
        assert lab_hosts.run("gpu2", "sha256sum /etc/vllm-hosts/firewall.nft").stdout == file
        again = deploy("--limit", "gpu2")
        assert (again.code, changes(again)["gpu2"]) == (0, 0), again.output[-4000:]

    def test_it_also_does_when_nobody_waits_for_it(self, deployed: Deployed) -> None:
        """The run is gone right after the change, and no connection is left."""
        before = lab_hosts.run("gpu2", LIVE).stdout
        settings = {"hosts": {"gpu2": {"firewall": {"ssh_from": ["192.0.2.0/24"]}}}}
        with pytest.raises(Exception, match="timed out"):
            command(
                "pyinfra", "-y", "--limit", "gpu2", "inventory/lab.py", "deploy.py",
                settings=settings, timeout=12,
            )  # fmt: skip
        assert lab_hosts.run("gpu2", LIVE).stdout != before
        waited = (
            "i=0; until [ -e /run/vllm-hosts-undo/firewall/undone ]; do sleep 1;"
            " i=$((i+1)); [ $i -lt 75 ] || exit 1; done"
        )
        lab_hosts.run("gpu2", waited, timeout=90)
        assert lab_hosts.run("gpu2", LIVE).stdout == before
        assert deploy("--limit", "gpu2").code == 0


class TestSsh:
    @pytest.fixture(autouse=True)
    def passwords(self, deployed: Deployed) -> Iterator[None]:
        """A host whose own configuration takes passwords."""
        path = "/etc/ssh/sshd_config.d/10-lab.conf"
        lab_hosts.run(
            "gpu2",
            f"printf 'PasswordAuthentication yes\\n' >{path} && mv /etc/ssh/sshd_config.d/lab.conf"
            " /root/ 2>/dev/null; systemctl reload ssh",
            check=False,
        )
        yield
        lab_hosts.run(
            "gpu2",
            f"rm -f {path}; mv /root/lab.conf /etc/ssh/sshd_config.d/ 2>/dev/null;"
            " systemctl reload ssh",
        )
        assert deploy("--limit", "gpu2").code == 0

    def test_passwords_are_refused_and_the_suite_says_so(
        self, deployed: Deployed, tmp_path: Path
    ) -> None:
        hardened = {"ssh_hardening": {"enabled": True}}
        look = ("--host", "gpu2", "--promise", "SSH-01", "--report", str(tmp_path))
        assert verify(*look, settings=hardened).code == 1
        assert ended(tmp_path, "gpu2", "broken") == {"SSH-01"}
        run = deploy("--limit", "gpu2", settings=hardened)
        assert run.code == 0, run.output[-4000:]
        assert changes(deploy("--limit", "gpu2", settings=hardened))["gpu2"] == 0
        assert verify(*look, settings=hardened).code == 0
        stronger = "/etc/ssh/sshd_config.d/00-a.conf"
        lab_hosts.run(
            "gpu2", f"echo 'PasswordAuthentication yes' >{stronger}; systemctl reload ssh"
        )
        try:
            refused = deploy("--limit", "gpu2", settings=hardened)
        finally:
            lab_hosts.run("gpu2", f"rm {stronger}; systemctl reload ssh")
        assert refused.code == 1
        assert "sshd still accepts passwords (passwordauthentication)" in refused.output

    def test_not_without_a_login_by_key(
        self, deployed: Deployed, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A user who only has a password would be locked out."""
        monkeypatch.setenv("SUDO_OF_GPU2", layout.PASSWORD)
        login = {
            "ssh_user": layout.PASSWORD_USER,
            "ssh_password": layout.PASSWORD,
            "ssh_key": None,
            "_sudo": True,
            "secrets": {"sudo_password_env": "SUDO_OF_GPU2"},
        }
        run = deploy(
            "--limit", "gpu2",
            settings={"ssh_hardening": {"enabled": True}, "hosts": {"gpu2": login}},
        )  # fmt: skip
        assert run.code == 1
        assert "not seen to work with a key" in run.output, run.output[-3000:]
        effective = lab_hosts.run("gpu2", "sshd -T | grep ^passwordauthentication").stdout
        assert effective == "passwordauthentication yes\n"


def test_ufw_stays_and_is_named(deployed: Deployed) -> None:
    lab_hosts.run("gpu2", "apt-get -qq update && apt-get -qq -y install ufw", timeout=200)
    lab_hosts.run("gpu2", "ufw allow 22/tcp && ufw --force enable")
    try:
        run = deploy("--limit", "gpu2")
        assert run.code == 1
        assert "ufw is active too and stays as it is: it has to allow 443/tcp" in run.output
        lab_hosts.run("gpu2", "ufw allow 443/tcp && ufw allow 80/tcp")
        rules = lab_hosts.run("gpu2", "ufw status numbered").stdout
        run = deploy("--limit", "gpu2")
        assert (run.code, changes(run)["gpu2"]) == (0, 0), run.output[-4000:]
        found = verify("--host", "gpu2")
        assert found.code == 0, found.output[-3000:]
        assert lab_hosts.run("gpu2", "ufw status numbered").stdout == rules
    finally:
        lab_hosts.run("gpu2", "ufw --force disable; apt-get -qq -y purge ufw", timeout=120)


def test_an_exposed_agent_is_open_to_exactly_the_named_networks(
    deployed: Deployed, tmp_path: Path
) -> None:
    expose = {"networks": [f"{layout.NEIGHBOUR.ipv4}/32"], "unguarded_routes": "accepted"}
    settings = {"hosts": {"gpu2": {"agents": [AGENTS[0] | {"expose": expose}]}}}
    run = deploy("--limit", "gpu2", settings=settings)
    try:
        assert run.code == 0, run.output[-4000:]
        assert (
            f"agent 'tiny' is exposed: port 8001 is open to {layout.NEIGHBOUR.ipv4}/32"
            in run.output
        )
        assert reachable("gpu2", 8001)
        assert not reachable("gpu2", 8001, source="gpu1")
        found = verify("--host", "gpu2", "--report", str(tmp_path), settings=settings)
        assert found.code == 0, found.output[-4000:]
        assert "agent 'tiny' is exposed" in found.output
        assert (
            f"exposed</b> to {layout.NEIGHBOUR.ipv4}/32" in (tmp_path / "report.html").read_text()
        )
        # Without the decision, the same host is open where it should not be.
        assert verify("--host", "gpu2", "--report", str(tmp_path)).code == 1
        assert {"NET-02", "DOCKER-06", "NET-04"} <= ended(tmp_path, "gpu2", "broken")
    finally:
        back = deploy("--limit", "gpu2")
    assert back.code == 0
    assert not reachable("gpu2", 8001)


class TestDrift:
    def drift(self, *words: str) -> tuple[int, dict[str, Any]]:
        run = command("vllm-hosts", "drift", "inventory/lab.py", "--json", *words)
        return run.code, json.loads(run.output[run.output.index("{") :])

    def test_nothing_differs_after_a_deploy(self, deployed: Deployed) -> None:
        assert deploy().code == 0
        code, found = self.drift()
        assert (code, found) == (
            0,
            {name: {"drifted": [], "unknown": []} for name in ("gpu1", "gpu2")},
        )

    def test_what_differs_is_named_and_nothing_is_written(self, deployed: Deployed) -> None:
        lab_hosts.run(
            "gpu1",
            "chmod 644 /opt/vllm/.env; nft insert rule inet vllm_hosts input tcp dport 1 accept;"
            " apt-mark -q unhold nvidia-container-toolkit; rm /etc/nginx/vllm-hosts/scopes.map;"
            " touch /run/lab-mark",
        )
        try:
            code, found = self.drift("--host", "gpu1")
            written = lab_hosts.run(
                "gpu1", "find /etc /opt /var/lib/vllm-hosts /root -newer /run/lab-mark"
            ).stdout
            live = lab_hosts.run("gpu1", LIVE).stdout
        finally:
            deploy("--limit", "gpu1")
        assert code == 3
        assert {(item["role"], item["what"], item["how"]) for item in found["gpu1"]["drifted"]} == {
            ("Secrets", "/opt/vllm/.env", "has mode 0644, not 0600"),
            ("Firewall", "table inet vllm_hosts", "is not the one that its file describes"),
            ("NVIDIA Container Toolkit", "package nvidia-container-toolkit", "is not held"),
            ("Client keys", "/etc/nginx/vllm-hosts/scopes.map", "is missing"),
        }
        assert written == ""
        assert "dport 1 accept" in live

    def test_what_cannot_be_told_is_no_good_news(self, deployed: Deployed) -> None:
        lab_hosts.run("gpu2", "systemctl stop ssh.service ssh.socket")
        try:
            code, found = self.drift()
        finally:
            lab_hosts.run("gpu2", "systemctl start ssh.service")
        assert code == 1
        assert "cannot be reached" in found["gpu2"]["unknown"][0]
        assert found["gpu1"] == {"drifted": [], "unknown": []}
