"""Docker and what it publishes."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from testinfra.host import Host

from tests.hosts.promise import promise
from vllm_hosts.settings import HostSettings
from vllm_hosts.sockets import parse


def daemon_json(host: Host) -> dict[str, Any]:
    found = json.loads(host.check_output("cat /etc/docker/daemon.json"))
    assert isinstance(found, dict)
    return found


@promise("DOCKER-01")
def test_docker_runs_now_and_at_boot(host: Host, settings: HostSettings) -> None:
    assert host.service("docker").is_running
    assert host.service("docker").is_enabled


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
    listening = [parse(line) for line in host.check_output("ss -Hltunp").splitlines()]
    # Without docker-proxy, dockerd itself holds agents' ports; containerd has a port for streams.
    agents = {agent.port for agent in settings.agents}
    found = [
        str(one)
        for one in listening
        if ("dockerd" in one.programs and one.port not in agents)
        or ("containerd" in one.programs and not one.loopback)
    ]
    assert found == []
    for path in ("/run/docker.sock", "/var/run/docker.sock"):
        shown = host.check_output("stat -L --format '%%a %%U:%%G' %s", path)
        assert shown in ("660 root:docker", "600 root:root"), path


@promise("DOCKER-09")
def test_no_container_can_control_docker_or_the_host(
    containers: list[dict[str, Any]], settings: HostSettings
) -> None:
    powerful = {
        container["Name"][1:]
        for container in containers
        if container["HostConfig"]["Privileged"]
        or container["HostConfig"]["PidMode"] == "host"
        or any(_dangerous(mount.get("Source", "")) for mount in container["Mounts"])
    }
    assert powerful == set()


def _dangerous(source: str) -> bool:
    return source.endswith("docker.sock") or source in ("/", "/etc", "/root", "/run", "/var/run")


@promise("DOCKER-10")
def test_the_archive_s_key_is_the_pinned_one(host: Host, settings: HostSettings) -> None:
    if settings.docker.source != "docker-ce":
        assert not host.file("/etc/apt/sources.list.d/docker.sources").exists
        return
    source = host.check_output("cat /etc/apt/sources.list.d/docker.sources")
    [key] = [line.split()[1] for line in source.splitlines() if line.startswith("Signed-By:")]
    listing = host.check_output(
        "home=$(mktemp -d); gpg --homedir $home --batch --show-keys --with-colons %s; rm -r $home",
        key,
    )
    prints = [line.split(":")[9] for line in listing.splitlines() if line.startswith("fpr:")]
    assert prints[:1] == [settings.docker.key_fingerprint]
