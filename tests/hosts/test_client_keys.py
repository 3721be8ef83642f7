"""Clients' keys at the edge. Compared by their digests: no test reads a key from a host."""

from __future__ import annotations

import hashlib

import pytest
from testinfra.host import Host

from roles.client_keys.plan import SCRIPT, TIMER, clients_map, scopes_map
from tests.hosts.conftest import Verified
from vllm_hosts.keys import HostKeys, KeyStore
from vllm_hosts.paths import EDGE_FOLDER
from vllm_hosts.settings import HostSettings


@pytest.fixture(scope="session")
def keys(verified: Verified, settings: HostSettings) -> HostKeys:
    return KeyStore(verified.file).host_keys(settings)


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def test_the_edge_accepts_exactly_the_keys_of_the_store(
    host: Host, settings: HostSettings, keys: HostKeys
) -> None:
    on_host = host.file(f"{EDGE_FOLDER}/clients.map").sha256sum
    assert on_host == digest(clients_map(keys)), "run: pyinfra INVENTORY keys.py"


def test_the_edge_knows_every_client_s_scope(
    host: Host, settings: HostSettings, keys: HostKeys
) -> None:
    on_host = host.file(f"{EDGE_FOLDER}/scopes.map").sha256sum
    assert on_host == digest(scopes_map(settings, keys)), "run: pyinfra INVENTORY keys.py"


def test_keys_that_end_are_taken_out_by_a_timer(host: Host, settings: HostSettings) -> None:
    assert host.service(TIMER).is_enabled
    assert host.service(TIMER).is_running
    script = host.file(SCRIPT)
    assert (script.uid, oct(script.mode)) == (0, oct(0o755))
    # And once before nginx starts, for keys that ended while the host was off.
    assert SCRIPT in host.check_output("systemctl show -p ExecStartPre nginx.service")
