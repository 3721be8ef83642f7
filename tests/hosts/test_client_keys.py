"""Clients' keys at the edge. Compared by their digests: no test reads a key from a host."""

from __future__ import annotations

import hashlib

import pytest
from testinfra.host import Host

from roles.client_keys.plan import SCRIPT, TIMER, clients_map, scopes_map
from tests.hosts.conftest import Verified
from tests.hosts.promise import promise
from vllm_hosts.keys import HostKeys, KeyStore
from vllm_hosts.paths import EDGE_FOLDER, TLS_KEY
from vllm_hosts.settings import HostSettings


@pytest.fixture(scope="session")
def keys(verified: Verified, settings: HostSettings) -> HostKeys:
    return KeyStore(verified.file).host_keys(settings)


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def on_host(host: Host, name: str) -> str:
    return host.check_output(f"sha256sum {EDGE_FOLDER}/{name}").split()[0]


@promise("KEY-01")
def test_the_edge_accepts_exactly_the_keys_of_the_store(
    host: Host, settings: HostSettings, keys: HostKeys
) -> None:
    assert on_host(host, "clients.map") == digest(clients_map(keys)), (
        "run: pyinfra INVENTORY keys.py"
    )
    maps = host.check_output(f"ls {EDGE_FOLDER}").split()
    more = {
        name for name in maps if name.startswith(("clients", "scopes")) and name.endswith(".map")
    }
    assert more <= {"clients.map", "scopes.map"}, "nginx includes a map that is not ours"


@promise("KEY-02")
def test_the_edge_knows_every_client_s_scope(
    host: Host, settings: HostSettings, keys: HostKeys
) -> None:
    expected = digest(scopes_map(settings, keys))
    assert on_host(host, "scopes.map") == expected, "run: pyinfra INVENTORY keys.py"


@promise("KEY-03")
def test_keys_that_end_are_taken_out_by_a_timer(host: Host, settings: HostSettings) -> None:
    assert host.service(TIMER).is_enabled
    assert host.service(TIMER).is_running
    script = host.file(SCRIPT)
    assert (script.uid, oct(script.mode)) == (0, oct(0o755))
    # And once before nginx starts, for keys that ended while the host was off.
    assert SCRIPT in host.check_output("systemctl show -p ExecStartPre nginx.service")


@promise("SEC-03")
def test_key_files_are_for_root_only(host: Host, settings: HostSettings) -> None:
    paths = [f"{EDGE_FOLDER}/{name}.map" for name in ("clients", "scopes", "internal", "targets")]
    for path in (*paths, TLS_KEY):
        shown = host.check_output("stat --format '%%F %%a %%u:%%g' %s", path)
        assert shown in ("regular file 600 0:0", "regular empty file 600 0:0"), path
    folder = host.check_output("stat --format '%%a %%u:%%g' %s", EDGE_FOLDER)
    assert folder == "700 0:0", EDGE_FOLDER
