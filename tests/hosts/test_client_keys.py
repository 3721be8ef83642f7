"""Clients' keys at the edge. Compared by their digests: no test reads a key from a host."""

from __future__ import annotations

import hashlib
from shlex import quote

import pytest
from testinfra.host import Host

from vllm_hosts.host.paths import EDGE_FOLDER, TLS_KEY
from vllm_hosts.keys import HostKeys

# Only where they lie; what they do is judged here.
from vllm_hosts.roles.client_keys.plan import SCRIPT, TIMER
from vllm_hosts.settings import HostSettings
from vllm_hosts.suite import nginx_forwarded, nginx_maps
from vllm_hosts.suite.conftest import Edge, Verified
from vllm_hosts.suite.promise import BrokenError, promise, unit_runs

#: Keys that are tried at the edge itself; every one of them is a request.
_TRIED = 10


@pytest.fixture(scope="session")
def keys(verified: Verified, settings: HostSettings) -> HostKeys:
    return verified.project.store.host_keys(settings)


@pytest.fixture(scope="session")
def entries(host: Host) -> list[str]:
    """See ``nginx_maps``; empty where the edge knows nobody."""
    return str(host.check_output(f"bash -c {quote(nginx_maps.SCRIPT)}")).splitlines()


@promise("KEY-01")
def test_the_edge_accepts_exactly_the_keys_of_the_store(
    settings: HostSettings, keys: HostKeys, edge: Edge, entries: list[str]
) -> None:
    expected = {
        (hashlib.sha256(f"Bearer {key.value.get_secret_value()}".encode()).hexdigest(), key.client)
        for key in keys.clients
    }
    found = nginx_maps.clients(entries)
    clients = {client for _, client in found}
    missing = sorted(client for digest, client in expected - set(found))
    more = sorted(client for digest, client in set(found) - expected)
    if more:
        raise BrokenError("keys that are not in the store; run: pyinfra INVENTORY keys.py")
    if missing:
        raise BrokenError("keys that the edge lacks; run: pyinfra INVENTORY keys.py")
    if nginx_maps.strange(entries):
        raise BrokenError("nginx also accepts clients from elsewhere")
    assert len(found) == len(expected)
    assert clients == {client for _, client in expected}
    # And so it does. An agent's own 401 is another promise's, and lacks this header.
    refused = [
        key.client
        for key in keys.clients[:_TRIED]
        if "WWW-Authenticate" in edge.ask("/v1/models", key=key.value).headers
    ]
    if refused:
        raise BrokenError("run: pyinfra INVENTORY keys.py")


@promise("KEY-02")
def test_the_edge_knows_every_client_s_scope(
    settings: HostSettings, keys: HostKeys, edge: Edge, entries: list[str]
) -> None:
    expected = {
        (agent.name, key.client)
        for key in keys.clients
        if key.agents is not None
        for agent in edge.settings.agents
        if agent.name not in key.agents
    }
    if nginx_maps.refused(entries) != expected:
        raise BrokenError("run: pyinfra INVENTORY keys.py")
    narrow = [key for key in keys.clients if key.agents is not None][:_TRIED]
    let_in = [
        f"{key.client} may use {agent.name}"
        for key in narrow
        for agent in edge.settings.agents
        if agent.name not in (key.agents or ())
        if edge.ask(f"/{agent.name}/v1/models", key=key.value).status != 403
    ]
    if edge.settings.chooses_by_model:
        let_in += [
            f"{key.client} may use {name} by its name"
            for key in narrow
            for name, agents in edge.settings.model_names.items()
            if not {agent.name for agent in agents} & set(key.agents or ())
            if edge.ask_for(name, key=key.value).status != 403
        ]
    if let_in:
        raise BrokenError(f"{', '.join(let_in)}; run: pyinfra INVENTORY keys.py")


@promise("KEY-03")
def test_keys_that_end_are_taken_out_by_a_timer(host: Host, settings: HostSettings) -> None:
    unit_runs(host, TIMER)
    script = host.file(SCRIPT)
    assert (script.uid, oct(script.mode)) == (0, oct(0o755))
    # And once before nginx starts, for keys that ended while the host was off.
    assert SCRIPT in host.check_output("systemctl show -p ExecStartPre nginx.service")


@promise("KEY-04")
def test_no_client_s_key_is_sent_on(host: Host, settings: HostSettings) -> None:
    said = host.check_output(f"bash -c {quote(nginx_forwarded.SCRIPT)}").splitlines()
    assert nginx_forwarded.places_that_forward_keys(said) == []


@promise("SEC-03")
def test_key_files_are_for_root_only(host: Host, settings: HostSettings) -> None:
    paths = [f"{EDGE_FOLDER}/{name}.map" for name in ("clients", "scopes", "internal", "targets")]
    for path in (*paths, TLS_KEY):
        shown = host.check_output("stat --format '%%F %%a %%u:%%g' %s", path)
        if shown not in ("regular file 600 0:0", "regular empty file 600 0:0"):
            raise BrokenError(f"{path} is {shown}, not 600 0:0")
    folder = host.check_output("stat --format '%%a %%u:%%g' %s", EDGE_FOLDER)
    if folder != "700 0:0":
        raise BrokenError(f"{EDGE_FOLDER} is {folder}, not 700 0:0")
