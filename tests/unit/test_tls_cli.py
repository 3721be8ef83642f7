"""How long certificates are good: who warns when, and how one is renewed before its time."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from tests.stores import made
from tests.unit.projects import Project
from tests.unit.samples import settings
from tests.unit.test_pki import public_of
from vllm_hosts.host.certificates import Certificate
from vllm_hosts.host.files import File, Kept
from vllm_hosts.host.paths import TLS_CERTIFICATE, TLS_KEY
from vllm_hosts.keys import KeyStore
from vllm_hosts.keys.expiry import left
from vllm_hosts.keys.pki import LocalCa
from vllm_hosts.keys.store_content import Content, renew_certificates
from vllm_hosts.roles.tls.plan import from_local_ca

NOW = datetime(2026, 11, 26, 9, 0, 0, 400, tzinfo=UTC)
PROD = "inventory/prod.py"
FILES = {"mode": "files", "certificate": "chain.pem", "key": "key.pem"}


def judged(days: float, gone: float, **tls: object) -> str:
    """What is said of a certificate of so many days when so many are gone."""

    class OfDays:
        not_valid_before_utc = NOW
        not_valid_after_utc = NOW + timedelta(days=days)

    found = left(OfDays(), settings(tls=tls), NOW + timedelta(days=gone))  # type: ignore[arg-type]
    assert found.short < found.due
    return "short" if found.is_short else "due" if found.is_due else "good"


@pytest.mark.parametrize(
    ("tls", "days", "due_after", "short_after"),
    [
        ({}, 365, 245, 335),
        ({"valid_days": 90, "renew_before_days": 30}, 90, 60, 75),
        ({"valid_days": 365, "renew_before_days": 10}, 365, 355, 360),
        ({"valid_days": 3, "renew_before_days": 1}, 3, 2, 2.5),
        (FILES, 365, 305, 335),
        (FILES, 90, 60, 75),  # ACME's usual
        (FILES, 45, 30, 37.5),
        (FILES, 6, 4, 5),
        (FILES, 3650, 3590, 3620),
    ],
)
def test_a_warning_comes_in_time_before_the_promise_breaks(
    tls: dict[str, object], days: float, due_after: float, short_after: float
) -> None:
    assert judged(days, 0, **tls) == "good"
    assert judged(days, due_after - 0.01, **tls) == "good"
    assert judged(days, due_after + 0.01, **tls) == "due"
    assert judged(days, short_after - 0.01, **tls) == "due"
    assert judged(days, short_after + 0.01, **tls) == "short"
    assert judged(days, days + 1, **tls) == "short"


def test_what_a_deploy_renews_is_what_verify_warns_of() -> None:
    """Never red before a deploy would have done something about it."""
    ca = LocalCa.create("x", NOW)
    chosen = settings(edge={"names": ["192.0.2.11"]})
    issued = ca.issue(["192.0.2.11"], 365, NOW)
    parsed = x509.load_pem_x509_certificate(issued.certificate_pem)
    found = Certificate(issued.certificate_pem, public_of(issued.key_pem.get_secret_value()))
    for day in range(365):
        now = NOW + timedelta(days=day)
        entries = from_local_ca(chosen, ca, found, now)
        renewed = any(isinstance(entry, File) for entry in entries)
        assert left(parsed, chosen, now).is_due == renewed, day


def test_one_that_was_asked_for_is_made_once() -> None:
    ca = LocalCa.create("x", NOW)
    chosen = settings(edge={"names": ["192.0.2.11"]})

    def files(found: Certificate, at: datetime, since: datetime | None) -> Certificate | None:
        entries = from_local_ca(chosen, ca, found, at, since)
        if any(isinstance(entry, Kept) for entry in entries):
            return None
        contents = {entry.path: entry.content for entry in entries if isinstance(entry, File)}
        return Certificate(contents[TLS_CERTIFICATE], public_of(contents[TLS_KEY]))

    first = files(Certificate(None, None), NOW - timedelta(minutes=5), None)
    assert first is not None
    assert files(first, NOW, None) is None
    since = renew_certificates(Content(), ["gpu1"], NOW).renew["gpu1"]
    # In the same second as it was asked for.
    second = files(first, NOW, since)
    assert second is not None
    assert second.certificate_pem != first.certificate_pem
    assert files(second, NOW + timedelta(days=1), since) is None


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = Project(tmp_path)
    project.write(PROD, "gpu_hosts = ['192.0.2.1', '192.0.2.2']\n")
    made(KeyStore(tmp_path / PROD))
    return project


def tls(project: Project, *words: str, code: int = 0) -> str:
    done = project.run("vllm-hosts", "tls", PROD, *words)
    assert done.returncode == code, done.stdout
    return done.stdout


def test_renew_marks_hosts_in_the_store(project: Project) -> None:
    said = tls(project, "renew", "--host", "192.0.2.2")
    assert "192.0.2.2: a new certificate with the next deploy:" in said
    assert "  pyinfra --limit 192.0.2.2 inventory/prod.py deploy.py" in said
    assert set(KeyStore(project.folder / PROD).read().renew) == {"192.0.2.2"}
    assert "  pyinfra inventory/prod.py deploy.py" in tls(project, "renew")
    assert set(KeyStore(project.folder / PROD).read().renew) == {"192.0.2.1", "192.0.2.2"}
    said = tls(project, "renew", "--host", "gpu9", code=2)
    assert "has no host gpu9; it has 192.0.2.1, 192.0.2.2" in said


def own_files(project: Project) -> None:
    ca = LocalCa.create("users", datetime.now(UTC))
    issued = ca.issue(["192.0.2.1", "192.0.2.2"], 300, datetime.now(UTC))
    (project.folder / "chain.pem").write_bytes(issued.certificate_pem)
    (project.folder / "key.pem").write_bytes(issued.key_pem.get_secret_value())


def test_a_user_s_own_certificate_is_renewed_elsewhere(project: Project) -> None:
    own_files(project)
    project.group(tls=FILES)
    said = tls(project, "renew", code=1)
    assert "192.0.2.1: it is your own: put a new one at tls.certificate chain.pem" in said
    assert "pyinfra inventory/prod.py deploy.py --limit 192.0.2.1" in said
    project.group()
    project.write(PROD, f"gpu_hosts = ['192.0.2.1', ('192.0.2.2', {{'tls': {FILES!r}}})]\n")
    said = tls(project, "renew")
    assert "192.0.2.1: a new certificate with the next deploy:" in said
    assert "192.0.2.2 is left out: it is your own" in said


@pytest.fixture
def edge(project: Project) -> Iterator[int]:
    """Something on loopback that speaks TLS with a certificate of the project's own CA."""
    ca = KeyStore(project.folder / PROD).local_ca()
    issued = ca.issue(["127.0.0.1"], 100, datetime.now(UTC))
    (project.folder / "edge.pem").write_bytes(
        issued.certificate_pem + issued.key_pem.get_secret_value()
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(project.folder / "edge.pem")
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                plain, _ = listener.accept()
                with context.wrap_socket(plain, server_side=True) as answered:
                    answered.recv(1)
            except ssl.SSLError:
                continue
            except OSError:
                return

    threading.Thread(target=serve, daemon=True).start()
    yield listener.getsockname()[1]
    listener.close()


def test_status_tells_what_is_to_be_done(project: Project, edge: int) -> None:
    settings_of = {"https_port": edge, "names": ["127.0.0.1"]}
    project.write(PROD, f"gpu_hosts = [('127.0.0.1', {{'edge': {settings_of!r}}})]\n")
    said = tls(project, "status", code=3)
    assert "127.0.0.1: it has 99 days left, until " in said
    assert "signed by CN=vllm-hosts local CA (prod)" in said
    assert "a deploy renews it: pyinfra inventory/prod.py deploy.py --limit 127.0.0.1" in said
    project.group(tls={"renew_before_days": 90})
    assert "a deploy" not in tls(project, "status")
    [row] = json.loads(tls(project, "status", "--json"))
    assert (row["host"], row["days_left"], row["due"], row["error"]) == (
        "127.0.0.1",
        99,
        False,
        None,
    )


def test_a_host_that_does_not_answer_is_not_good(project: Project) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    project.write(PROD, f"gpu_hosts = [('127.0.0.1', {{'edge': {{'https_port': {port}}}}})]\n")
    said = tls(project, "status", code=1)
    assert (
        f"127.0.0.1: its certificate could not be fetched from 127.0.0.1 port {port}: Conn" in said
    )
    assert "vllm-hosts doctor inventory/prod.py --host 127.0.0.1" in said
    [row] = json.loads(tls(project, "status", "--json", code=1))
    assert row["until"] is None
