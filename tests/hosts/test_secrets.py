"""Secrets on a host: who can read them, and where they are not. No test reads one itself."""

from __future__ import annotations

from shlex import quote
from typing import Any

from testinfra.host import Host

from vllm_hosts.host.paths import EDGE_FOLDER, GATEWAY_FOLDER, TLS_KEY
from vllm_hosts.settings import HostSettings
from vllm_hosts.suite.promise import BrokenError, promise
from vllm_hosts.suite.secret_search import kept, with_a_secret

#: All of them: the journal is searched by its own program, and lastlog is a table with holes, as
#: long as the largest user id.
_LOGS = "find /var/log -type f ! -path '/var/log/journal/*' ! -name lastlog"


@promise("SEC-01")
def test_env_is_for_root_only(host: Host, settings: HostSettings) -> None:
    path = f"{settings.vllm.directory}/.env"
    shown = host.check_output("stat --format '%%F %%a %%u:%%g' %s", path)
    assert shown == "regular file 600 0:0"


@promise("SEC-02")
def test_only_root_can_replace_what_holds_secrets(host: Host, settings: HostSettings) -> None:
    folders = {EDGE_FOLDER, TLS_KEY.rpartition("/")[0]}
    if settings.in_fleet:
        folders.add(GATEWAY_FOLDER)
    if settings.runs_agents:
        folders.add(settings.vllm.directory)
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


@promise("SEC-04")
def test_no_key_is_in_a_process_s_arguments(host: Host, settings: HostSettings) -> None:
    # Without a program for each of them: they come and go meanwhile.
    arguments = "for p in /proc/[0-9]*/cmdline; do tr '\\0' ' ' <$p; echo; done 2>/dev/null; :"
    found = with_a_secret(host, kept(settings), {"arguments": arguments})
    if found:
        raise BrokenError("ps shows a key")


@promise("SEC-05")
def test_no_key_is_in_a_log(
    host: Host, containers: list[dict[str, Any]], settings: HostSettings
) -> None:
    # What was rotated may be compressed.
    places = {path: f"zcat -f -- {quote(path)}" for path in host.check_output(_LOGS).splitlines()}
    # A field of its own for each entry: some hold what a program printed, some how it was started.
    places["the journal"] = "journalctl --no-pager --quiet --output cat --since -7d"
    for container in containers:
        if container["HostConfig"]["LogConfig"]["Type"] != "none":
            # Whichever driver keeps it, and however.
            name = f"the log of {container['Name'][1:]}"
            places[name] = f"docker logs {container['Id']} 2>&1"
    assert with_a_secret(host, kept(settings), places) == []
