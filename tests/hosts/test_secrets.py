"""Secrets on a host: who can read them, and where they are not. No test reads one itself."""

from __future__ import annotations

from testinfra.host import Host

from tests.hosts.promise import promise
from vllm_hosts.errors import HostError
from vllm_hosts.paths import EDGE_FOLDER, TLS_KEY
from vllm_hosts.settings import HostSettings


@promise("SEC-01")
def test_env_is_for_root_only(host: Host, settings: HostSettings) -> None:
    path = f"{settings.vllm.directory}/.env"
    shown = host.check_output("stat --format '%%F %%a %%u:%%g' %s", path)
    assert shown == "regular file 600 0:0"


@promise("SEC-02")
def test_only_root_can_replace_what_holds_secrets(host: Host, settings: HostSettings) -> None:
    folders = {settings.vllm.directory, EDGE_FOLDER, TLS_KEY.rpartition("/")[0]}
    above = {
        "/".join(parts[:count]) or "/"
        for parts in (folder.split("/") for folder in folders)
        for count in range(1, len(parts) + 1)
    }
    listing = host.check_output(f"stat --format '%n %a %u' {' '.join(sorted(above))}")
    others = {
        name: f"{mode}, user {user}"
        for name, mode, user in (line.split() for line in listing.splitlines())
        if user != "0" or int(mode, 8) & 0o022
    }
    assert others == {}


def places_with_a_secret(host: Host, directory: str, places: str) -> list[str]:
    """Files that hold one of the secrets of .env. They travel between programs on the host only."""
    found = host.run(f"sed -n 's/^[A-Z_]*=//p' {directory}/.env | grep -lsFf - {places}")
    if found.rc not in (0, 1, 2):
        raise HostError(f"the search for keys failed: {found.stderr}")
    return sorted(str(found.stdout).split())


@promise("SEC-04")
def test_no_key_is_in_a_process_s_arguments(host: Host, settings: HostSettings) -> None:
    directory = settings.vllm.directory
    if not places_with_a_secret(host, directory, f"{directory}/.env"):
        raise HostError("the search does not even find the key in .env")
    assert places_with_a_secret(host, directory, "/proc/[0-9]*/cmdline") == []


@promise("SEC-05")
def test_no_key_is_in_a_log(host: Host, settings: HostSettings) -> None:
    directory = settings.vllm.directory
    if not places_with_a_secret(host, directory, f"{directory}/.env"):
        raise HostError("the search does not even find the key in .env")
    logs = (
        "/var/log/nginx/* /var/log/syslog* /var/log/auth.log* /var/log/daemon.log* /var/log/apt/*"
    )
    containers = "/var/lib/docker/containers/*/*-json.log*"
    assert places_with_a_secret(host, directory, f"{logs} {containers}") == []
    journal = host.run(
        f"sed -n 's/^[A-Z_]*=//p' {directory}/.env >/dev/null;"
        " journalctl --no-pager --quiet --output cat --since -7d |"
        f" awk -v file={directory}/.env"
        ' \'BEGIN { while ((getline line < file) > 0) if (sub(/^[A-Z_]+=/, "", line) && line)'
        " keys[line] } { for (key in keys) if (index($0, key)) found++ } END { print found + 0 }'"
    )
    assert journal.stdout.strip() == "0", "a secret of .env is in the journal"
