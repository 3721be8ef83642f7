"""Docker and what it publishes."""

from __future__ import annotations

import json

import pytest
from testinfra.host import Host

from vllm_hosts.settings import HostSettings


def test_docker_runs_now_and_at_boot(host: Host, settings: HostSettings) -> None:
    assert host.service("docker").is_running
    assert host.service("docker").is_enabled


def test_compose_is_version_2_or_newer(host: Host, settings: HostSettings) -> None:
    version = host.check_output("docker compose version --short").removeprefix("v")
    assert int(version.split(".")[0]) >= 2


def test_daemon_json_rotates_logs(host: Host, settings: HostSettings) -> None:
    found = json.loads(host.file("/etc/docker/daemon.json").content_string)
    if found.get("log-driver", "json-file") not in {"json-file", "local"}:
        pytest.skip(f"logs go to the driver {found['log-driver']}, which rotates in its own way")
    assert found["log-opts"]["max-size"] == settings.docker.log_max_size
    assert found["log-opts"]["max-file"] == str(settings.docker.log_max_file)


def test_daemon_binds_new_networks_to_loopback(host: Host, settings: HostSettings) -> None:
    found = json.loads(host.file("/etc/docker/daemon.json").content_string)
    binding = found["default-network-opts"]["bridge"]["com.docker.network.bridge.host_binding_ipv4"]
    assert (found["ip"], binding) == ("127.0.0.1", "127.0.0.1")


def test_the_running_daemon_restores_containers(host: Host, settings: HostSettings) -> None:
    said = host.check_output("docker info --format '{{.LiveRestoreEnabled}}'")
    assert said == str(settings.docker.live_restore).lower()


def test_no_container_is_published_outside(host: Host, settings: HostSettings) -> None:
    listing = host.check_output(
        "docker ps -q | xargs -r docker inspect"
        " --format '{{.Name}} {{json .NetworkSettings.Ports}}'"
    )
    published = {
        f"{name} {port} on {binding['HostIp']}"
        for name, _, ports in (line.partition(" ") for line in listing.splitlines())
        for port, bindings in json.loads(ports).items()
        for binding in bindings or []
        if binding["HostIp"] not in {"127.0.0.1", "::1"}
    }
    assert published == set()


def test_the_archive_key_is_the_pinned_one(host: Host, settings: HostSettings) -> None:
    if settings.docker.source != "docker-ce":
        assert not host.file("/etc/apt/sources.list.d/docker.sources").exists
        return
    source = host.file("/etc/apt/sources.list.d/docker.sources").content_string
    [key] = [line.split()[1] for line in source.splitlines() if line.startswith("Signed-By:")]
    listing = host.check_output(
        "home=$(mktemp -d); gpg --homedir $home --batch --show-keys --with-colons %s; rm -r $home",
        key,
    )
    prints = [line.split(":")[9] for line in listing.splitlines() if line.startswith("fpr:")]
    assert prints[0] == settings.docker.key_fingerprint
