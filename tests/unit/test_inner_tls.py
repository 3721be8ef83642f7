"""Certificates between gateways and hosts: who has which, and when there is a new one."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)

from tests.unit.fleets import fleet
from tests.unit.samples import QWEN, settings
from vllm_hosts.facts.tls import GatewayCertificate
from vllm_hosts.host.certificates import Certificate, left_over
from vllm_hosts.host.files import Entry, File, Folder, Kept
from vllm_hosts.host.paths import (
    GATEWAY_CA,
    GATEWAY_CLIENT,
    GATEWAY_FILES,
    GATEWAY_FOLDER,
    INNER_CERTIFICATE,
    INNER_FILES,
    INNER_KEY,
)
from vllm_hosts.keys.pki import LocalCa
from vllm_hosts.roles.inner_tls.plan import inner, inner_entries, reason
from vllm_hosts.settings import HostSettings
from vllm_hosts.settings.fleet import inner_name

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
NOTHING = Certificate(None, None)
CA = LocalCa.create("prod", NOW)


def entries(
    host: HostSettings, found: Certificate = NOTHING, now: datetime = NOW, ca: LocalCa = CA
) -> list[Entry]:
    [wanted] = inner(host)
    return inner_entries(host, wanted, ca, b"the CAs\n", found, now)


def found(made: list[Entry], certificate: str, key: str) -> Certificate:
    """What the host says once it has these files."""
    contents = {entry.path: entry.content for entry in made if isinstance(entry, File)}
    private = contents[key][contents[key].index(b"-----BEGIN PRIVATE") :]
    public = load_pem_private_key(private, None).public_key()
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return Certificate(contents[certificate], pem)


def why(host: HostSettings, seen: Certificate, now: datetime = NOW, ca: LocalCa = CA) -> str | None:
    [wanted] = inner(host)
    return reason(host, wanted, ca, seen, now)


@pytest.mark.parametrize(
    ("name", "files", "certificate", "key"),
    [
        ("gw1", GATEWAY_FILES, GATEWAY_CLIENT, GATEWAY_CLIENT),
        ("gpu1", INNER_FILES, INNER_CERTIFICATE, INNER_KEY),
    ],
)
class TestEach:
    def test_files(self, name: str, files: tuple[str, ...], certificate: str, key: str) -> None:
        made = entries(fleet()[name])
        assert {entry.path for entry in made if isinstance(entry, File)} == set(files)
        assert Folder(GATEWAY_FOLDER, 0o700) in made
        assert File(GATEWAY_CA, b"the CAs\n") in made
        [private] = [e for e in made if isinstance(e, File) and b"PRIVATE" in e.content]
        assert (private.path, private.mode, private.secret) == (key, 0o600, True)

    def test_a_good_one_is_kept(
        self, name: str, files: tuple[str, ...], certificate: str, key: str
    ) -> None:
        host = fleet()[name]
        seen = found(entries(host), certificate, key)
        kept = [entry for entry in entries(host, seen) if isinstance(entry, Kept)]
        assert {entry.path for entry in kept} == {certificate, key}
        assert Kept(key, 0o600) in kept

    def test_it_is_renewed_for_the_edge_s_reasons(
        self, name: str, files: tuple[str, ...], certificate: str, key: str
    ) -> None:
        host = fleet()[name]
        seen = found(entries(host), certificate, key)
        assert why(host, NOTHING) == "there is none"
        assert why(host, seen) is None
        assert why(host, seen, NOW + timedelta(days=246)) == "it has 118 days left"
        other = LocalCa.create("prod", NOW)
        assert why(host, seen, ca=other) == "another CA signed it"
        asked = NOW + timedelta(seconds=1)
        [wanted] = inner(host)
        assert reason(host, wanted, CA, seen, NOW, asked) == (
            "a new one was requested on 2026-11-24 12:00 UTC"
        )


def test_without_gateways_there_is_none() -> None:
    assert inner(settings()) == ()


def test_a_host_is_its_own_agents_and_no_others() -> None:
    one, two = fleet()["gpu1"], fleet()["gpu2"]
    assert [found.names for found in inner(one)] == [
        (inner_name("gpu1", "qwen"), inner_name("gpu1", "coder"))
    ]
    assert [found.names for found in inner(two)] == [(inner_name("gpu2", "qwen"),)]
    seen = found(entries(one), INNER_CERTIFICATE, INNER_KEY)
    assert why(two, seen) == "it is for other names"
    more = fleet(agents=[QWEN])["gpu1"]
    assert why(more, seen) == "it is for other names"


def test_a_gateway_of_another_name_needs_another() -> None:
    seen = found(entries(fleet()["gw1"]), GATEWAY_CLIENT, GATEWAY_CLIENT)
    assert why(fleet()["gw2"], seen) == "it is for other names"


def accepted(folder: Path, purpose: str, certificate: bytes) -> bool:
    (folder / "ca.pem").write_bytes(CA.certificate_pem)
    (folder / "one.pem").write_bytes(certificate)
    words = ["openssl", "verify", "-CAfile", str(folder / "ca.pem"), "-purpose", purpose]
    words += ["-attime", str(int(NOW.timestamp())), str(folder / "one.pem")]
    done = subprocess.run(words, capture_output=True, check=False)
    return done.returncode == 0


def test_openssl_takes_each_for_its_end_only(tmp_path: Path) -> None:
    """Nor can the edge's own, which a host that was taken over has, be a gateway's."""
    client = found(entries(fleet()["gw1"]), GATEWAY_CLIENT, GATEWAY_CLIENT).certificate_pem
    server = found(entries(fleet()["gpu1"]), INNER_CERTIFICATE, INNER_KEY).certificate_pem
    edge = CA.issue(["gw1"], 365, NOW).certificate_pem
    assert client is not None
    assert server is not None
    assert accepted(tmp_path, "sslclient", client)
    assert not accepted(tmp_path, "sslserver", client)
    for one in (server, edge):
        assert accepted(tmp_path, "sslserver", one)
        assert not accepted(tmp_path, "sslclient", one)


def test_the_key_in_the_certificate_s_file_stays_on_the_host(tmp_path: Path) -> None:
    [both] = [e for e in entries(fleet()["gw1"]) if isinstance(e, File) and e.secret]
    file = tmp_path / "client.pem"
    file.write_bytes(both.content)
    script = GatewayCertificate().command(str(file), str(file))
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    assert "PRIVATE" not in done.stdout + done.stderr
    seen = GatewayCertificate().process(done.stdout.splitlines())
    assert why(fleet()["gw1"], seen) is None
    file.write_text("")
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    assert GatewayCertificate().process(done.stdout.splitlines()) == NOTHING


def test_what_a_host_was_before_is_left_over() -> None:
    def paths(host: HostSettings) -> set[str]:
        return {entry.path for entry in left_over(host)}

    assert paths(fleet()["gw1"]) == {INNER_CERTIFICATE, INNER_KEY}
    assert paths(fleet()["gpu1"]) == {GATEWAY_CLIENT}
    assert paths(settings()) == {INNER_CERTIFICATE, INNER_KEY, GATEWAY_CLIENT, GATEWAY_CA}
