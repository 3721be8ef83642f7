"""Clients' keys at the edge as files, and what takes a key out when it ends."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import SecretStr

from vllm_hosts.host.files import File, Folder
from vllm_hosts.host.paths import EDGE_CONF
from vllm_hosts.keys import ClientKey
from vllm_hosts.roles import client_keys
from vllm_hosts.roles.client_keys.plan import clients_map, expiry_entries, key_entries, scopes_map

ALICE = ClientKey("alice", SecretStr("KEY-A"), datetime(2026, 12, 1, tzinfo=UTC), ("qwen",))
AGAIN = ClientKey("alice", SecretStr("KEY-B"), agents=("qwen",))
BOB = ClientKey("bob", SecretStr("KEY-C"))
NOBODY = ClientKey("carol", SecretStr("KEY-D"), agents=())


def lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if not line.startswith("#")]


def test_the_maps_are_for_root_and_the_keys_are_never_shown() -> None:
    folder, clients, scopes = key_entries(["qwen", "coder"], [ALICE])
    assert folder == Folder("/etc/nginx/vllm-hosts", 0o700)
    assert isinstance(clients, File) and isinstance(scopes, File)
    for file, name in ((clients, "clients"), (scopes, "scopes")):
        assert file.path == f"/etc/nginx/vllm-hosts/{name}.map"
        assert (file.mode, file.owner, file.group) == (0o600, "root", "root")
    assert clients.secret and not scopes.secret
    assert lines(clients.content.decode()) == lines(clients_map([ALICE]))
    assert lines(scopes.content.decode()) == lines(scopes_map(["qwen", "coder"], [ALICE]))


def test_a_key_says_when_it_ends_and_only_then() -> None:
    assert lines(clients_map([ALICE, BOB])) == [
        '"Bearer KEY-A" "alice Bearer KEY-A"; # until 1796083200',
        '"Bearer KEY-C" "bob Bearer KEY-C";',
    ]


def test_a_client_with_a_scope_is_refused_everywhere_else_once() -> None:
    agents = ["tiny", "qwen", "coder"]
    assert lines(scopes_map(agents, [AGAIN, BOB, ALICE])) == [
        '"coder alice" 1;',
        '"tiny alice" 1;',
    ]
    assert lines(scopes_map(["qwen"], [NOBODY, ALICE])) == ['"qwen carol" 1;']
    assert lines(scopes_map(agents, [BOB])) == []


def test_only_root_can_change_what_root_runs() -> None:
    entries = expiry_entries()
    units = "/etc/systemd/system"
    assert [(one.path, one.mode, one.owner, one.group) for one in entries] == [  # type: ignore[union-attr]
        (path, mode, "root", "root")
        for path, mode in (
            ("/usr/local/lib/vllm-hosts", 0o755),
            ("/usr/local/lib/vllm-hosts/expire-client-keys", 0o755),
            (f"{units}/vllm-hosts-keys.service", 0o644),
            (f"{units}/nginx.service.d", 0o755),
            (f"{units}/nginx.service.d/vllm-hosts.conf", 0o644),
            (f"{units}/vllm-hosts-keys.timer", 0o644),
        )
    ]


@pytest.mark.parametrize(
    ("conf", "nginx", "code", "said"),
    [
        (True, "exit 0", 0, ""),
        (True, "echo emerg; exit 1", 1, "emerg"),
        (True, None, 1, "this host has no edge yet; run deploy.py"),
        (False, "exit 0", 1, "this host has no edge yet; run deploy.py"),
    ],
)
def test_keys_go_to_an_edge_of_ours_alone(
    tmp_path: Path, conf: bool, nginx: str | None, code: int, said: str
) -> None:
    if conf:
        (tmp_path / "conf").touch()
    if nginx is not None:
        (tmp_path / "nginx").write_text(f'#!/bin/sh\n[ "$*" = "-t -q" ] || exit 9\n{nginx}\n')
        (tmp_path / "nginx").chmod(0o755)
    script = client_keys._CHECK.replace(EDGE_CONF, str(tmp_path / "conf"))
    done = subprocess.run(
        ["/bin/sh", "-c", script],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout.strip(), done.stderr) == (code, said, "")
