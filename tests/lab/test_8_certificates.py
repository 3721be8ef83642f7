"""Certificates and CAs that change under clients that ask all the time."""

from __future__ import annotations

import shutil
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509

from lab import hosts as lab_hosts
from lab import layout
from tests.lab.conftest import HOSTS, INVENTORY, Deployed
from tests.lab.deploys import Run, changes, command, deploy
from tests.lab.traffic import Traffic, began
from vllm_hosts.host import probe
from vllm_hosts.host.paths import TLS_CERTIFICATE, TLS_KEY
from vllm_hosts.keys import KeyStore

pytestmark = pytest.mark.nightly
LAB = "inventory/lab.py"


def well(run: Run) -> Run:
    assert run.code == 0, run.output[-4000:]
    return run


def served(deployed: Deployed, host: str) -> x509.Certificate:
    address = deployed.settings[host].address
    return x509.load_der_x509_certificate(probe.certificate(address, 443, address))


def verified(*further: str) -> Run:
    names = ("TLS-03", "TLS-04", "TLS-05", *further)
    return command("vllm-hosts", "verify", LAB, *(f"--promise={name}" for name in names))


def traffic(deployed: Deployed, ca_file: Path, client: str) -> Traffic:
    address = deployed.settings["gpu1"].address
    # Both together stay below the edge's usual limits.
    return Traffic(
        f"https://{address}/tiny/v1", "tiny", ca_file, [(client, deployed.client_key)], pause=0.3
    )


def test_a_new_ca_with_clients_that_took_its_file_and_some_that_did_not(
    deployed: Deployed, tmp_path: Path
) -> None:
    old, both = tmp_path / "old.pem", tmp_path / "both.pem"
    shutil.copy(deployed.ca_file, old)
    before = {host: served(deployed, host).serial_number for host in HOSTS}
    try:
        well(command("vllm-hosts", "keys", "new-ca", LAB, "--yes", "--overlap", "1d"))
        shutil.copy(deployed.ca_file, both)
        assert len(x509.load_pem_x509_certificates(both.read_bytes())) == 2
        with (
            traffic(deployed, old, "did not") as without,
            traffic(deployed, both, "took it") as took,
        ):
            took.wait_for(20)
            assert changes(well(deploy())) == {"gpu1": 0, "gpu2": 0}, "nothing until the date"
            well(verified())
            well(command("vllm-hosts", "keys", "new-ca", LAB, "--yes", "--finish"))
            announced = time.monotonic()
            # The certificate, and nginx taking it up.
            assert changes(well(deploy())) == {"gpu1": 2, "gpu2": 2}
            changed = time.monotonic()
            asked = len(took.asked)
            took.wait_for(asked + 20)
            without.wait_for(len(without.asked) + 5)
        assert [item for item in took.asked if item.status != 200] == []
        early = [item for item in without.asked if item.ended < announced]
        assert early
        assert {item.status for item in early} == {200}
        late = [item for item in without.asked if began(item) > changed + 2]
        assert late
        assert {item.status for item in late} == {0}
        assert "CERTIFICATE_VERIFY_FAILED" in late[0].why
        now = {host: served(deployed, host).serial_number for host in HOSTS}
        assert not set(now.values()) & set(before.values())
        well(verified("TLS-07"))
        well(command("vllm-hosts", "keys", "new-ca", LAB, "--yes", "--finish"))
        assert len(x509.load_pem_x509_certificates(deployed.ca_file.read_bytes())) == 1
        well(verified("TLS-07"))
        assert changes(well(deploy())) == {"gpu1": 0, "gpu2": 0}
    finally:
        # Wherever it stopped: hosts have what the file says.
        command("vllm-hosts", "keys", "new-ca", LAB, "--yes", "--finish")
        command("vllm-hosts", "keys", "new-ca", LAB, "--yes", "--finish")
        well(deploy())


def test_renewing_changes_the_serial_and_fails_no_request(deployed: Deployed) -> None:
    before = served(deployed, "gpu1").serial_number
    others = served(deployed, "gpu2").serial_number
    with traffic(deployed, deployed.ca_file, "client") as clients:
        clients.wait_for(10)
        run = well(command("vllm-hosts", "tls", LAB, "renew", "--host", "gpu1"))
        assert f"pyinfra --limit gpu1 {LAB} deploy.py" in run.output
        run = well(deploy())
        assert "a new one was asked for on" in run.of_host("gpu1")
        assert changes(run) == {"gpu1": 2, "gpu2": 0}
        clients.wait_for(len(clients.asked) + 20)
    assert [item for item in clients.asked if item.status != 200] == []
    assert served(deployed, "gpu1").serial_number != before
    assert served(deployed, "gpu2").serial_number == others
    assert changes(well(deploy())) == {"gpu1": 0, "gpu2": 0}


def test_a_host_that_nobody_deploys_to_turns_up_in_time(deployed: Deployed) -> None:
    """100 days left: a deploy would renew it, and no promise is broken yet."""
    now = datetime.now(UTC)
    issued = KeyStore(INVENTORY).local_ca().issue(deployed.settings["gpu2"].edge_names, 100, now)
    root = Path(layout.STATE / "hosts/gpu2/root")
    (root / TLS_CERTIFICATE[1:]).write_bytes(issued.certificate_pem)
    (root / TLS_KEY[1:]).write_bytes(issued.key_pem.get_secret_value())
    lab_hosts.run("gpu2", "systemctl reload nginx")
    run = well(verified())
    assert "! gpu2: its certificate ends: it has 99 days left" in run.output
    assert f"pyinfra {LAB} deploy.py --limit gpu2" in run.output
    assert "! gpu1" not in run.output
    status = command("vllm-hosts", "tls", LAB, "status")
    assert status.code == 2
    assert "gpu2: it has 99 days left" in status.output
    drift = command("vllm-hosts", "drift", LAB, "--host", "gpu2")
    assert (drift.code, "certificate.pem has another content" in drift.output) == (2, True)
    well(deploy("--limit", "gpu2"))
    assert "! gpu2" not in well(verified()).output
    assert command("vllm-hosts", "tls", LAB, "status").code == 0
