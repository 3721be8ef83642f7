"""What is said of a host's Docker and its units, at the edges and to the word."""

from __future__ import annotations

import pytest

from tests.unit.driver_hosts import DEBIAN_13, UBUNTU_22
from tests.unit.samples import settings
from vllm_hosts.host.docker_there import DockerThere, docker_problems
from vllm_hosts.host.docker_unit import DockerOptions, unit_problems

DROP_IN = "/etc/systemd/system/docker.service.d/a.conf"


def said_of(options: str, **unit: str) -> list[str]:
    lines = ["ExecStart=/usr/bin/dockerd " + options]
    return list(unit_problems(settings(), DockerOptions(files=((DROP_IN, lines),), **unit)))  # type: ignore[arg-type]


def test_nothing_is_known_of_a_host_without_docker() -> None:
    assert DockerThere() == DockerThere({}, "", "", "")
    assert DockerOptions() == DockerOptions((), (), "", False)


def test_a_docker_of_no_package_is_to_be_removed() -> None:
    there = DockerThere({}, "Docker version 20.10.24, build 1", "", "/opt/bin/dockerd")
    [problem] = docker_problems("docker-ce", DEBIAN_13, there)
    assert problem.endswith("need; remove /opt/bin/dockerd, and run again")


@pytest.mark.parametrize(
    ("version", "refused"),
    [("1.29.2", False), ("2.0", True), ("2.19.9", True), ("2.20", False)],
)
@pytest.mark.parametrize(
    ("source", "package"),
    [
        ("docker-ce", "docker-compose-plugin"),
        ("distro", "docker-compose-v2"),
        ("distro", "docker-compose"),
    ],
)
def test_which_compose_is_too_old(source: str, package: str, version: str, refused: bool) -> None:
    there = DockerThere({package: "1"}, "", version)
    found = list(docker_problems(source, UBUNTU_22, there))
    assert [f"upgrade {package} on the host" in problem for problem in found] == [True] * refused


@pytest.mark.parametrize(
    ("option", "instead"),
    [
        ("--live-restore", "set docker.live_restore"),
        ("--log-opt a=b", "set docker.log_max_size and docker.log_max_file"),
        ("--ip 10.0.0.1", "which is 127.0.0.1 here"),
        ("--default-network-opt=a", "or add it to that key of daemon.json"),
    ],
)
def test_what_to_do_instead(option: str, instead: str) -> None:
    [problem] = said_of(option)
    assert f"take it out there ({instead}), then systemctl daemon-reload" in problem


def test_an_option_that_is_there_twice_is_said_once() -> None:
    assert len(said_of("--ip 10.0.0.1 --ip 10.0.0.2")) == 1
    assert len(said_of("--ip 10.0.0.1 --live-restore --ip 10.0.0.2")) == 2


@pytest.mark.parametrize("driver", ["json-file", "local"])
def test_log_drivers_that_take_our_options(driver: str) -> None:
    assert said_of(f"--log-driver {driver}") == []
    assert said_of(f"--log-driver {driver}", log_driver="journald") == []
    assert len(said_of("--log-driver journald", log_driver=driver)) == 1
    # A name alone, with another option behind it, or nothing.
    assert said_of("--log-driver --dns 8.8.8.8") == []
    assert said_of("--log-driver") == []


def test_long_words_are_cut() -> None:
    [problem] = said_of(f"--log-driver {'x' * 41}")
    assert f"--log-driver {'x' * 40} ..., which" in problem
    [problem] = said_of(f"--config-file /{'y' * 200}")
    assert f"read /{'y' * 199} ... and not" in problem


def test_a_variable_in_quotes() -> None:
    lines = ["""Environment="OPTS=--ip=10.0.0.1" """, "ExecStart=dockerd $OPTS"]
    assert len(list(unit_problems(settings(), DockerOptions(files=((DROP_IN, lines),))))) == 1
    environment = ((DROP_IN, ["OPTS='--config-file=/srv/d.json'"]),)
    unit = DockerOptions(files=((DROP_IN, ["ExecStart=dockerd ${OPTS}"]),), environment=environment)
    [problem] = unit_problems(settings(), unit)
    assert "has dockerd read /srv/d.json and not" in problem
