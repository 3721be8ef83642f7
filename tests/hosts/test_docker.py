"""Docker and what it publishes."""

from __future__ import annotations

import json
from collections.abc import Callable
from shlex import quote
from typing import Any

import pytest
from testinfra.host import Host

from vllm_hosts.errors import HostError
from vllm_hosts.settings import HostSettings
from vllm_hosts.suite.listening import listeners
from vllm_hosts.suite.powers import own_mounts, powers, protected, sources
from vllm_hosts.suite.promise import BrokenError, promise, unit_runs


def daemon_json(host: Host) -> dict[str, Any]:
    found = json.loads(host.check_output("cat /etc/docker/daemon.json"))
    if not isinstance(found, dict):
        raise BrokenError("/etc/docker/daemon.json is no JSON object")
    return found


@promise("DOCKER-01")
def test_docker_runs_now_and_at_boot(host: Host, settings: HostSettings) -> None:
    unit_runs(host, "docker")


@promise("DOCKER-02")
def test_compose_is_version_2_or_newer(
    host: Host, settings: HostSettings, noted: Callable[[str, str], None]
) -> None:
    version = host.check_output("docker compose version --short").removeprefix("v")
    noted("Compose", version)
    assert int(version.split(".")[0]) >= 2


@promise("DOCKER-03")
def test_containers_logs_are_rotated(host: Host, settings: HostSettings) -> None:
    found = daemon_json(host)
    if found.get("log-driver", "json-file") not in {"json-file", "local"}:
        pytest.skip(f"logs go to the driver {found['log-driver']}, which rotates in its own way")
    assert found["log-opts"]["max-size"] == settings.docker.log_max_size
    assert found["log-opts"]["max-file"] == str(settings.docker.log_max_file)


@promise("DOCKER-04")
def test_new_networks_publish_on_loopback(host: Host, settings: HostSettings) -> None:
    found = daemon_json(host)
    options = found.get("default-network-opts", {}).get("bridge", {})
    binding = options.get("com.docker.network.bridge.host_binding_ipv4")
    assert (found.get("ip"), binding) == ("127.0.0.1", "127.0.0.1")


@promise("DOCKER-05")
def test_containers_outlive_the_daemon(host: Host, settings: HostSettings) -> None:
    said = host.check_output("docker info --format '{{.LiveRestoreEnabled}}'")
    assert said == str(settings.docker.live_restore).lower()


@promise("DOCKER-06")
def test_no_container_is_published_beyond_loopback(
    containers: list[dict[str, Any]], settings: HostSettings
) -> None:
    published = {
        f"{container['Name'][1:]} {port} on {binding['HostIp'] or '*'}:{binding['HostPort']}"
        for container in containers
        for where in (
            container["NetworkSettings"]["Ports"],
            container["HostConfig"]["PortBindings"],
        )
        for port, bindings in (where or {}).items()
        for binding in bindings or []
        if binding["HostIp"] not in {"127.0.0.1", "::1"}
    }
    by_decision = {
        f"{agent.name} 8000/tcp on {address}:{agent.port}"
        for agent in settings.agents
        if agent.expose is not None
        for address in agent.listen_addresses
    }
    assert published - by_decision == set()


@promise("DOCKER-07")
def test_no_container_shares_the_host_s_network(
    containers: list[dict[str, Any]], settings: HostSettings
) -> None:
    modes = {
        container["Name"][1:]: container["HostConfig"]["NetworkMode"] for container in containers
    }
    assert [name for name, mode in modes.items() if mode == "host"] == []


@promise("DOCKER-08")
def test_docker_s_api_is_on_its_own_socket_only(host: Host, settings: HostSettings) -> None:
    # Without docker-proxy, dockerd itself holds agents' ports; containerd has a port for streams.
    agents = {agent.port for agent in settings.agents}
    found = [
        str(one)
        for one in listeners(host)
        if ("dockerd" in one.programs and one.port not in agents)
        or ("containerd" in one.programs and not one.loopback)
    ]
    assert found == []
    for path in ("/run/docker.sock", "/var/run/docker.sock"):
        shown = host.check_output("stat -L --format '%%a %%U:%%G' %s", path)
        if shown not in ("660 root:docker", "600 root:root"):
            raise BrokenError(f"{path} is {shown}, not 660 root:docker")


#: Where each of some paths really is, and which of some other paths are the same file or folder,
#: as a bind mount on the host itself makes them. One line for each path.
_SAME = """
set -- %s; for path in %s; do
    printf '%%s' "$(readlink -m -- "$path")"
    at=$(stat -L -c %%d:%%i -- "$path" 2>/dev/null) && for other in "$@"; do
        [ "$at" != "$(stat -L -c %%d:%%i -- "$other" 2>/dev/null)" ] || printf '\\t%%s' "$other"
    done; echo
done
"""


def also_known_as(host: Host, paths: list[str], forbidden: set[str]) -> dict[str, list[str]]:
    """By path: what it is on the host when links are resolved, and folders that it is as well."""
    if not paths:
        return {}
    words = (" ".join(map(quote, some)) for some in (sorted(forbidden | {"/"}), paths))
    lines = host.check_output(_SAME % tuple(words)).split("\n")
    if len(lines) != len(paths):
        raise HostError(f"a mount's path cannot be read: {len(paths)} paths, {len(lines)} answers")
    return {path: line.split("\t") for path, line in zip(paths, lines, strict=True)}


@promise("DOCKER-09")
def test_no_container_can_control_docker_or_the_host(
    host: Host, containers: list[dict[str, Any]], settings: HostSettings
) -> None:
    names = sorted(
        {
            mount["Name"]
            for one in containers
            for mount in one["Mounts"]
            if mount["Type"] == "volume"
        }
    )
    listed = host.check_output(f"docker volume inspect {' '.join(names)}") if names else "[]"
    volumes = {volume["Name"]: volume for volume in json.loads(listed)}
    accounts = [line.split(":") for line in host.check_output("getent passwd").splitlines()]
    homes = {home for *_, home, shell in accounts if not shell.endswith(("/nologin", "/false"))}
    root = host.check_output("docker info --format '{{.DockerRootDir}}'")
    forbidden = protected(settings, root, homes)
    paths = sorted({path for one in containers for path in sources(one, volumes)})
    same = also_known_as(host, paths, forbidden)
    own = {f"/{agent.name}": own_mounts(settings, agent) for agent in settings.agents}
    assert [
        power
        for one in containers
        for power in powers(
            *(one, volumes, forbidden, same, own.get(one["Name"], set())),
            settings.docker.container_folders,
        )
    ] == []


@promise("DOCKER-10")
def test_the_archive_s_key_is_the_pinned_one(host: Host, settings: HostSettings) -> None:
    if settings.docker.source != "docker-ce":
        if host.file("/etc/apt/sources.list.d/docker.sources").exists:
            raise BrokenError(
                "/etc/apt/sources.list.d/docker.sources exists, and docker.source is 'distro'"
            )
        return
    source = host.check_output("cat /etc/apt/sources.list.d/docker.sources")
    fields = [line.partition(":") for line in source.splitlines()]
    trusted = [name for name, _, _ in fields if name.lower() in ("trusted", "allow-insecure")]
    if trusted:
        raise BrokenError("apt accepts this archive without a valid signature")
    rings = [value.split() for name, _, value in fields if name.lower() == "signed-by"]
    stanzas = [name for name, _, _ in fields if name.lower() == "uris"]
    if (len(stanzas), [len(ring) for ring in rings]) != (1, [1]):
        raise BrokenError("apt has not exactly one entry for the archive, with one file of keys")
    listing = host.check_output(
        "gpg --homedir /nonexistent --no-options --no-keyring --trust-model always --batch"
        " --show-keys --with-colons %s",
        rings[0][0],
    )
    assert primary_keys(listing) == [settings.docker.key_fingerprint]


def primary_keys(listing: str) -> list[str]:
    """Fingerprints of all primary keys that gpg lists with colons; those of subkeys left out."""
    found, primary = [], False
    for fields in (line.split(":") for line in listing.splitlines()):
        if fields[0] in ("pub", "sub"):
            primary = fields[0] == "pub"
        elif fields[0] == "fpr" and primary:
            found.append(fields[9])
    return found
