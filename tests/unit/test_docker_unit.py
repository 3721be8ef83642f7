"""H4: options that units give dockerd beside daemon.json, which `dockerd --validate` accepts."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.unit.fakes import docker
from tests.unit.samples import QWEN, settings
from tests.unit.test_way_out import tells
from vllm_hosts.facts.docker import DockerUnit
from vllm_hosts.host.docker_unit import DockerOptions, unit_problems

FRAGMENT = """[DockerOptions]
Description=Docker Application Container Engine
# ExecStart=/usr/bin/dockerd --live-restore
[Service]
Environment="HTTPS_PROXY=http://user:secret@proxy.example.com:3128"
ExecStart=/usr/bin/dockerd -H fd:// --containerd=/run/containerd/containerd.sock
"""
DEBIAN_S = """[Service]
EnvironmentFile=-{etc}/default-docker
ExecStart=/usr/sbin/dockerd -H fd:// --containerd=/run/containerd/containerd.sock $DOCKER_OPTS
"""


class Etc:
    """Folders of systemd's, the first of which hides what the others have."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("etc", "lib"):
            (folder / name / "docker.service.d").mkdir(parents=True)
        self.write("lib/docker.service", FRAGMENT)

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text.format(etc=self.folder))

    def output(self) -> str:
        command = DockerUnit().command((f"{self.folder}/etc", f"{self.folder}/lib"))
        command = command.replace("/etc/docker/daemon.json", f"{self.folder}/daemon.json")
        done = subprocess.run(
            ["sh", "-c", command],
            env=docker(self.folder, "echo a docker >&2; exit 1"),
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert done.stderr == ""
        return done.stdout

    def unit(self) -> DockerOptions:
        return DockerUnit().process(self.output().splitlines())

    def problems(self, **changes: object) -> list[str]:
        found = list(unit_problems(settings(agents=[QWEN], **changes), self.unit()))
        assert all(map(tells, found)), found
        return [problem.replace(f"{self.folder}/", "") for problem in found]


@pytest.fixture
def etc(tmp_path: Path) -> Etc:
    return Etc(tmp_path)


def test_docker_s_own_unit_is_no_problem(etc: Etc) -> None:
    assert etc.problems() == []
    assert "secret" not in etc.output()
    (etc.folder / "lib/docker.service").unlink()
    assert etc.problems() == []


@pytest.mark.parametrize(
    ("option", "key"),
    [
        ("--live-restore", "live-restore"),
        ("--live-restore=true", "live-restore"),
        ("--log-opt max-size=10m", "log-opts"),
        ("--log-opt=max-size=10m", "log-opts"),
        ("--ip 127.0.0.1", "ip"),
        ('"--default-network-opt=bridge=com.docker.network.driver.mtu=1400"',
         "default-network-opts"),
    ],
)  # fmt: skip
def test_what_a_drop_in_gives_too_is_named_with_its_file(etc: Etc, option: str, key: str) -> None:
    drop_in = f"[Service]\nExecStart=\nExecStart=/usr/bin/dockerd -H fd:// \\\n  {option}\n"
    etc.write("etc/docker.service.d/override.conf", drop_in)
    [problem] = etc.problems()
    name = option.strip('"').partition("=")[0].partition(" ")[0]
    assert problem.startswith(
        f"etc/docker.service.d/override.conf gives dockerd {name}, and a deploy sets {key} in"
        " /etc/docker/daemon.json; dockerd does not start with both: take it out there ("
    )
    assert problem.endswith("), then systemctl daemon-reload")


def test_debian_s_own_variable(etc: Etc) -> None:
    etc.write("lib/docker.service", DEBIAN_S)
    assert etc.problems() == []
    etc.write("default-docker", "# --live-restore\nDOCKER_OPTS='--dns 8.8.8.8 --live-restore'\n")
    [problem] = etc.problems()
    assert problem.startswith("default-docker gives dockerd --live-restore")
    etc.write("default-docker", "OTHER='--live-restore'\nexport HTTP_PROXY=http://u:secret@x\n")
    assert etc.problems() == []
    assert "secret" not in etc.output()
    etc.write("etc/docker.service.d/a.conf", "[Service]\nEnvironment=DOCKER_OPTS=--live-restore\n")
    [problem] = etc.problems()
    assert problem.startswith("etc/docker.service.d/a.conf gives dockerd --live-restore")


def test_as_systemd_reads(etc: Etc) -> None:
    """The first folder hides a drop-in of the same name; an empty ExecStart takes back."""
    odd = "[Service]\nExecStart=\nExecStart=/usr/bin/dockerd --live-restore\n"
    etc.write("lib/docker.service.d/a.conf", odd)
    assert len(etc.problems()) == 1
    etc.write("etc/docker.service.d/a.conf", "[Service]\nRestart=always\n")
    assert etc.problems() == []
    etc.write("lib/docker.service.d/b.conf", odd)
    assert len(etc.problems()) == 1
    etc.write("lib/docker.service.d/c.conf", "[Service]\nExecStart=\nExecStart=dockerd\n")
    assert etc.problems() == []
    etc.write("lib/docker.service.d/d.conf.bak", odd)
    assert etc.problems() == []
    etc.write("etc/docker.service", odd)
    (etc.folder / "lib/docker.service.d/c.conf").unlink()
    (etc.folder / "lib/docker.service.d/b.conf").unlink()
    [problem] = etc.problems()
    assert problem.startswith("etc/docker.service gives")


def test_a_log_driver_of_one_s_own(etc: Etc) -> None:
    """In daemon.json it stays, and options beside it do; by an option it is in the way."""
    etc.write("etc/docker.service.d/a.conf", "[Service]\nExecStart=d --log-driver journald\n")
    [problem] = etc.problems()
    assert "--log-driver journald, which does not go with the log-opts" in problem
    etc.write("etc/docker.service.d/a.conf", "[Service]\nExecStart=d --log-opt tag=x\n")
    assert len(etc.problems()) == 1
    (etc.folder / "daemon.json").write_text('{\n  "log-driver": "journald"\n}\n')
    assert etc.problems() == []


def test_a_configuration_elsewhere(etc: Etc) -> None:
    etc.write("etc/docker.service.d/a.conf", "[Service]\nExecStart=d --config-file /srv/d.json\n")
    [problem] = etc.problems()
    assert "has dockerd read /srv/d.json and not /etc/docker/daemon.json; take" in problem
    text = "[Service]\nExecStart=d --config-file=/etc/docker/daemon.json\n"
    (etc.folder / "etc/docker.service.d/a.conf").write_text(text)
    assert etc.problems() == []


def test_what_dockerd_merges_is_no_conflict(etc: Etc) -> None:
    """As it says to `--validate` with such options: runtimes, and keys that no deploy sets."""
    text = "[Service]\nExecStart=d --add-runtime x=/usr/bin/x --dns 8.8.8.8 --data-root /srv/d\n"
    etc.write("etc/docker.service.d/a.conf", text)
    assert etc.problems() == []


def test_a_swarm() -> None:
    one, swarm = settings(agents=[QWEN]), DockerOptions(swarm=True)
    [problem] = unit_problems(one, swarm)
    assert tells(problem) and problem.endswith(
        "set docker.live_restore = False, or leave the swarm on the host: docker swarm leave"
    )
    apart = settings(agents=[QWEN], docker={"live_restore": False})
    assert list(unit_problems(apart, swarm)) == []
    assert list(unit_problems(one, DockerOptions())) == []
