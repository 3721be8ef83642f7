"""Secrets on a host: who can read them, and where they are not. No test reads one itself."""

from __future__ import annotations

import pytest
from testinfra.host import Host

from vllm_hosts.paths import TLS_KEY
from vllm_hosts.settings import Agent, HostSettings


def test_env_is_readable_by_root_only(host: Host, settings: HostSettings) -> None:
    env = host.file(f"{settings.vllm.directory}/.env")
    assert env.is_file
    assert not env.is_symlink
    assert (oct(env.mode), env.uid, env.gid) == (oct(0o600), 0, 0)


def test_only_root_could_replace_env(host: Host, settings: HostSettings) -> None:
    folder = host.file(settings.vllm.directory)
    assert (folder.uid, folder.mode & 0o022) == (0, 0)


@pytest.mark.parametrize(
    "path", ["/etc/nginx/vllm-hosts/clients.map", "/etc/nginx/vllm-hosts/internal.map", TLS_KEY]
)
def test_key_files_are_readable_by_root_only(host: Host, settings: HostSettings, path: str) -> None:
    file = host.file(path)
    assert file.is_file
    assert (oct(file.mode), file.uid) == (oct(0o600), 0)


def _places_with_the_key(host: Host, directory: str, places: str) -> str:
    """Files that hold the internal key. It travels between two programs on the host only."""
    found = host.run(f"sed -n 's/^VLLM_API_KEY=//p' {directory}/.env | grep -lsFf - {places}")
    assert found.rc in (0, 1, 2), found.stderr
    return str(found.stdout)


def test_the_key_is_in_no_process_arguments(host: Host, settings: HostSettings) -> None:
    directory = settings.vllm.directory
    assert _places_with_the_key(host, directory, f"{directory}/.env"), "the search finds nothing"
    assert _places_with_the_key(host, directory, "/proc/[0-9]*/cmdline") == ""


def test_the_key_is_in_no_log(host: Host, settings: HostSettings) -> None:
    places = "/var/log/nginx/* /var/log/syslog /var/log/auth.log /var/log/apt/*.log"
    assert _places_with_the_key(host, settings.vllm.directory, places) == ""


def test_the_key_is_not_on_the_agent_command_line(
    host: Host, settings: HostSettings, agent: Agent
) -> None:
    shown = host.run(
        f"docker inspect --format '{{{{json .Config.Cmd}}}} {{{{json .Args}}}}"
        f" {{{{json .Config.Labels}}}}' {agent.name} >/run/vllm-hosts-inspect &&"
        f" sed -n 's/^VLLM_API_KEY=//p' {settings.vllm.directory}/.env |"
        " grep -cFf - /run/vllm-hosts-inspect; rm -f /run/vllm-hosts-inspect"
    )
    assert shown.stdout.strip() == "0"
