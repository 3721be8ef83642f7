"""Which Docker of a host is good enough, and which is replaced anyway."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.unit.driver_hosts import DEBIAN_12, DEBIAN_13, UBUNTU_22
from tests.unit.fakes import docker
from tests.unit.samples import CODER, QWEN, settings
from tests.unit.test_preflight import GOOD
from vllm_hosts.facts.base import END
from vllm_hosts.facts.docker_state import DockerState
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
    lines = [
        *["== images", "feature -", "root /var/lib/docker", "free root 1"],
        *["store /var/lib/containerd", "free store 1"],
        "== docker",
        "path /usr/bin/dockerd",
        f"daemon {OLD}",
        "package ii |docker-ce|5:20.10.24~3",
        "package un |docker.io|",
        "package rc |docker-compose|1",
        "== compose",
    ]
    found = DockerState().process([*lines, END]).there
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


#: What docker's own program says of its daemon.
SAYS = 'echo \'/data [["a","b|c"]]|v2.40.2|{swarm}|{context}|26.1.5+dfsg1\''


@pytest.mark.parametrize(
    ("runs", "docker_says", "daemon", "swarm"),
    [
        # The running daemon is this very program, and has said its version.
        (True, SAYS.format(swarm="inactive", context="default"), "26.1.5+dfsg1", False),
        (True, SAYS.format(swarm="active", context="default"), "26.1.5+dfsg1", True),
        # Another program runs, as after an upgrade; or docker speaks to another host's daemon.
        (False, SAYS.format(swarm="inactive", context="default"), "28.0.0", False),
        (True, SAYS.format(swarm="inactive", context="far"), "28.0.0", False),
        # As it answers where no daemon runs, and as something else may that is called docker.
        (True, "echo ' null|v2.40.2||default|'; exit 1", "28.0.0", False),
        (True, "echo /data", "28.0.0", False),
        (True, "exit 1", "28.0.0", False),
    ],
)
def test_a_daemon_that_runs_has_said_its_version(
    tmp_path: Path, runs: bool, docker_says: str, daemon: str, swarm: bool
) -> None:
    """As true as asking the program, which takes longer than most looks together."""
    environment = docker(tmp_path, f"[ $1 = info ] || exit 1\n{docker_says}")
    program = tmp_path / "bin/dockerd"
    shutil.copy(shutil.which("sleep") or "", program)
    # Both are one program here; "sleep --version" says another version than dockerd would.
    running = subprocess.Popen([program if runs else "sleep", "60"])
    (tmp_path / "pid").write_text(str(running.pid))
    script = DockerState().command()
    script = script.replace("/run/docker.pid", f"{tmp_path}/pid")
    script = script.replace("$(dockerd --version 2>/dev/null)", "Docker version 28.0.0")
    try:
        done = subprocess.run(
            ["sh", "-c", script], capture_output=True, text=True, check=True,
            env={**environment, "DOCKER_HOST": ""},
        )  # fmt: skip
    finally:
        running.kill()
        running.wait()
    found = DockerState().process(done.stdout.splitlines())
    assert (found.there.path, str(version_in(found.there.daemon)), found.swarm) == (
        str(program), daemon.partition("+")[0], swarm,
    )  # fmt: skip
    # Compose is asked where docker did not say its version.
    assert found.compose == ("2.40.2" if "v2.40.2" in docker_says else None)
    assert found.images is not None
    assert found.images.root[0] == ("/data" if "/data" in docker_says else "/var/lib/docker")


def test_compose_says_its_version_where_docker_does_not(tmp_path: Path) -> None:
    asked = (
        'case $* in "compose version --short") echo v2.26.1-4 ;; *) echo "/data []|||x|" ;; esac'
    )
    done = subprocess.run(
        ["sh", "-c", DockerState().command()], capture_output=True, text=True, check=True,
        env=docker(tmp_path, asked),
    )  # fmt: skip
    assert DockerState().process(done.stdout.splitlines()).compose == "2.26.1-4"
