"""Which Docker of a host is good enough, and which is replaced anyway."""

from __future__ import annotations

import pytest

from tests.unit.driver_hosts import DEBIAN_12, DEBIAN_13, UBUNTU_22
from tests.unit.samples import CODER, QWEN, settings
from tests.unit.test_facts import SYSTEM
from tests.unit.test_preflight import GOOD
from vllm_hosts.facts.base import END
from vllm_hosts.facts.system import SystemState
from vllm_hosts.host.docker_there import DockerThere, docker_problems, version_in
from vllm_hosts.host.release import Release
from vllm_hosts.roles.preflight.plan import problems

OLD = "Docker version 20.10.24+dfsg1, build 297e128"
NEW = "Docker version 28.5.1, build e180ab8"


def there(
    daemon: str, compose: str = "", path: str = "/usr/bin/dockerd", **packages: str
) -> DockerThere:
    names = {name.replace("_", "-").replace("-io", ".io"): at for name, at in packages.items()}
    return DockerThere(names, daemon, compose, path)


@pytest.mark.parametrize(
    ("source", "release", "docker", "words"),
    [
        # Debian 12's own, which its own Compose cannot be had for.
        (
            "distro",
            DEBIAN_12,
            there(OLD, docker_io="20.10.24"),
            "has no Compose v2 of its own; set",
        ),
        ("distro", DEBIAN_12, there(""), "set docker.source = 'docker-ce'"),
        (
            "docker-ce",
            DEBIAN_12,
            there(OLD, docker_ce="5:20.10.24~3-0~debian"),
            "Docker 20.10.24 (package docker-ce) is older than 23.0, which Compose v2 and the check"
            " of its configuration need; upgrade docker-ce on the host, and run again",
        ),
        (
            "docker-ce",
            UBUNTU_22,
            there("Docker version 19.03.15, build 99e3ed8919", docker_ce="5:19.03.15"),
            "Docker 19.3.15 (package docker-ce)",
        ),
        (
            "distro",
            UBUNTU_22,
            there(
                "Docker version 20.10.12, build 20.10.12-0ubuntu4", docker_io="20.10.12-0ubuntu4"
            ),
            "upgrade docker.io on the host",
        ),
        (
            "docker-ce",
            DEBIAN_13,
            there(OLD, path="/usr/local/bin/dockerd"),
            "Docker 20.10.24 (/usr/local/bin/dockerd) is older than 23.0",
        ),
        (
            "docker-ce",
            DEBIAN_12,
            there(NEW, "2.17.3", docker_ce="5:28", docker_compose_plugin="2.17"),
            "Compose 2.17.3 (package docker-compose-plugin) is older than 2.20, which is needed;",
        ),
        (
            "distro",
            UBUNTU_22,
            there(NEW, "v2.18.1", docker_io="28", docker_compose_v2="2.18"),
            "upgrade docker-compose-v2 on the host",
        ),
    ],
)
def test_an_old_docker_is_refused_before_anything_is_changed(
    source: str, release: Release, docker: DockerThere, words: str
) -> None:
    [problem] = docker_problems(source, release, docker)
    assert words in problem


@pytest.mark.parametrize(
    ("source", "release", "docker"),
    [
        # The distribution's is replaced by Docker's own.
        ("docker-ce", DEBIAN_12, there(OLD, docker_io="20.10.24+dfsg1-1")),
        (
            "docker-ce",
            DEBIAN_12,
            there(OLD, "1.29.2", docker_io="20.10.24", docker_compose="1.29.2"),
        ),
        ("docker-ce", DEBIAN_12, DockerThere()),
        (
            "docker-ce",
            DEBIAN_13,
            there(NEW, "2.40.2", docker_ce="5:28", docker_compose_plugin="2.40"),
        ),
        ("docker-ce", DEBIAN_13, there("Docker version 23.0.0, build x", docker_ce="5:23.0.0")),
        ("docker-ce", DEBIAN_13, there("", docker_ce="5:23.0.0")),
        ("docker-ce", DEBIAN_13, there(NEW, path="/snap/bin/dockerd")),
        (
            "distro",
            DEBIAN_13,
            there(
                "Docker version 26.1.5+dfsg1, build a72d7cd",
                "2.26.1-4",
                docker_io="26.1.5+dfsg1-9",
                docker_compose="2.26.1-4",
            ),
        ),
        ("distro", DEBIAN_13, there("unreadable", docker_io="26.1.5")),
    ],
)
def test_one_that_is_good_or_replaced_is_taken(
    source: str, release: Release, docker: DockerThere
) -> None:
    assert list(docker_problems(source, release, docker)) == []


def test_preflight_sees_it() -> None:
    lines = list(SYSTEM)
    at = lines.index("== gpus")
    lines[at:at] = [
        "== docker",
        "path /usr/bin/dockerd",
        f"daemon {OLD}",
        "compose ",
        "package ii |docker-ce|5:20.10.24~3",
        "package un |docker.io|",
        "package rc |docker-compose|1",
    ]
    row = "0, NVIDIA H200, GPU-0, 143771, 590.48.01, 9.0, Disabled, Enabled"
    found = SystemState().process([*lines, row, "exit 0", END]).docker
    assert found == DockerThere({"docker-ce": "5:20.10.24~3"}, OLD, "", "/usr/bin/dockerd")
    asked = settings(agents=[QWEN, CODER])
    system = GOOD.__class__(**{**GOOD.__dict__, "docker": found})
    [problem] = problems(asked, DEBIAN_12, system)
    assert problem.startswith("Docker 20.10.24 (package docker-ce) is older than 23.0")


@pytest.mark.parametrize(
    ("text", "version"),
    [(OLD, "20.10.24"), ("v2.35.0", "2.35.0"), ("2.26.1-4", "2.26.1"), ("", None), ("dev", None)],
)
def test_versions_as_programs_say_them(text: str, version: str | None) -> None:
    found = version_in(text)
    assert (None if found is None else str(found)) == version
