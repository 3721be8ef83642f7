"""Where Docker's images go, and why a daemon does not start with its configuration."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path
from shlex import quote

import pytest

from tests.unit.samples import CODER, QWEN, settings
from tests.unit.test_preflight import GOOD, GOOD_RELEASE
from vllm_hosts.facts.docker import DAEMON_JSON
from vllm_hosts.host.docker_there import DockerThere
from vllm_hosts.host.image_places import IMAGES, ImagePlaces, image_places
from vllm_hosts.host.paths import RAN
from vllm_hosts.operations.docker import RESTART
from vllm_hosts.roles.preflight.plan import problems

BIG, SMALL = 500 << 30, 1 << 30
NEW = DockerThere({"docker-ce": "5:29.1"}, "Docker version 29.1.0, build x", "", "/usr/bin/dockerd")
OLD = DockerThere({"docker-ce": "5:28.5"}, "Docker version 28.5.1, build x", "", "/usr/bin/dockerd")
NONE = DockerThere()


def program(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def _before(folder: Path) -> dict[str, str]:
    return {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}


def places(kind: str = "", feature: bool | None = None) -> ImagePlaces:
    return ImagePlaces(kind, feature, ("/srv/docker", 1), ("/var/lib/containerd", 2))


@pytest.mark.parametrize(
    ("found", "source", "docker", "folder"),
    [
        (places("docker"), "docker-ce", NEW, "/srv/docker"),
        (places("containerd"), "docker-ce", NEW, "/var/lib/containerd"),
        (places("containerd", False), "docker-ce", NEW, "/var/lib/containerd"),
        (places("", True), "docker-ce", OLD, "/var/lib/containerd"),
        (places("", False), "docker-ce", NEW, "/srv/docker"),
        (places(), "docker-ce", NONE, "/var/lib/containerd"),
        (places(), "docker-ce", NEW, "/var/lib/containerd"),
        (places(), "docker-ce", OLD, "/srv/docker"),
        (places(), "distro", NONE, "/srv/docker"),
    ],
)
def test_the_folder_that_images_go_to(
    found: ImagePlaces, source: str, docker: DockerThere, folder: str
) -> None:
    assert found.goes_to(source, docker)[0] == folder


def test_that_folder_s_disk_is_judged() -> None:
    asked = settings(agents=[QWEN, CODER])
    system = replace(
        GOOD,
        free=GOOD.free | {"/var/lib/docker": SMALL},
        images=ImagePlaces("docker", None, ("/srv/docker", BIG), ("/var/lib/containerd", SMALL)),
    )
    assert problems(asked, GOOD_RELEASE, system) == []
    system = replace(
        GOOD,
        images=ImagePlaces(
            "containerd", None, ("/srv/docker", BIG), ("/var/lib/containerd", SMALL)
        ),
    )
    [problem] = problems(asked, GOOD_RELEASE, system)
    assert problem.startswith("/var/lib/containerd has 1.0 GiB free, and the image needs 40")
    assert problems(asked, GOOD_RELEASE, replace(system, has_image=True)) == []


@pytest.mark.parametrize(
    ("daemon", "containerd", "says", "expected"),
    [
        (None, None, None, ("", None, "/var/lib/docker", "/var/lib/containerd")),
        ('{\n  "data-root": "/srv/d e",\n  "debug": true\n}', None, None,
         ("", None, "/srv/d e", "/var/lib/containerd")),
        ('{"features": {"containerd-snapshotter" : true}}', 'version = 3\nroot = "/srv/c"\n', None,
         ("", True, "/var/lib/docker", "/srv/c")),
        ('{"features":{"containerd-snapshotter":false},"data-root":"/x"}', "root = '/srv/c'", None,
         ("", False, "/x", "/srv/c")),
        ('{"data-root": "/not/this"}', None,
         '/data/docker [["Backing Filesystem","extfs"]]', ("docker", None, "/data/docker", None)),
        (None, None, '/var/lib/docker [["driver-type","io.containerd.snapshotter.v1"]]',
         ("containerd", None, "/var/lib/docker", "/var/lib/docker/containerd/daemon")),
    ],
)  # fmt: skip
def test_what_the_host_says(
    tmp_path: Path,
    daemon: str | None,
    containerd: str | None,
    says: str | None,
    expected: tuple[str, bool | None, str, str | None],
) -> None:
    here = tmp_path
    program(here, "docker", f"echo '{says}'" if says else "exit 1")
    script = IMAGES
    for path, text in (
        ("/etc/docker/daemon.json", daemon),
        ("/etc/containerd/config.toml", containerd),
    ):
        own = tmp_path / path.rpartition("/")[2]
        if text is not None:
            own.write_text(text)
        script = script.replace(path, str(own))
    script = script.replace("/run/containerd/containerd.sock", str(tmp_path / "none"))
    done = subprocess.run(
        ["sh", "-c", script], env=_before(here), capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    found = image_places(done.stdout.splitlines()[1:])
    kind, feature, root, store = expected
    assert (found.kind, found.feature, found.root[0]) == (kind, feature, root)
    assert store is None or found.store[0] == store
    assert found.root[1] > 0
    assert found.store[1] > 0


class TestTheDaemonsOwnWords:
    JOURNAL = (
        'time="2026-11-25T20:00:00Z" level=info msg="Starting up"\n'
        "failed to start daemon: --live-restore daemon configuration is incompatible with"
        " swarm mode\n"
        'time="2026-11-25T20:00:02Z" level=info msg="Starting up"\n'
        "failed to start daemon: --live-restore daemon configuration is incompatible with"
        " swarm mode\n"
    )

    def run(self, folder: Path, restart: str) -> subprocess.CompletedProcess[str]:
        here = folder
        program(
            here, "systemctl", f'echo "$*" >>{folder}/asked; case $1 in restart) {restart};; esac'
        )
        (folder / "journal").write_text(self.JOURNAL)
        program(here, "journalctl", f"case $* in *--sync*) ;; *) cat {folder}/journal;; esac")
        return subprocess.run(
            ["sh", "-c", f"set -eu; ( eval {quote(RESTART)} ) || exit 1"],
            env=_before(here), capture_output=True, text=True, check=False,
        )  # fmt: skip

    def test_why_it_does_not_start_is_said_once(self, tmp_path: Path) -> None:
        done = self.run(tmp_path, "echo 'Job for docker.service failed' >&2; exit 1")
        assert done.returncode == 1
        assert done.stdout == (
            "dockerd says:\nfailed to start daemon: --live-restore daemon configuration is"
            " incompatible with swarm mode\n"
            "so: set docker.live_restore = False, or leave the swarm: docker swarm leave\n"
        )
        asked = (tmp_path / "asked").read_text().splitlines()
        assert asked == ["reset-failed docker.service", "restart docker.service"]

    @pytest.mark.parametrize(
        ("words", "way_out"),
        [
            (
                "unable to configure the Docker daemon with file /etc/docker/daemon.json: the"
                " following directives are specified both as a flag and in the configuration file:"
                " live-restore: (from flag: true, from file: true)",
                "so: take these options out of the files that systemctl cat docker.service shows,"
                " or\nof /etc/default/docker, then systemctl daemon-reload\n",
            ),
            (
                "failed to start daemon: error initializing graphdriver: driver not supported",
                "so: correct what it names, in /etc/docker/daemon.json or in what\n"
                "systemctl cat docker.service shows, and run again\n",
            ),
        ],
    )
    def test_with_the_way_out(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, way_out: str
    ) -> None:
        monkeypatch.setattr(self, "JOURNAL", f"{words}\n{words}\n", raising=False)
        assert self.run(tmp_path, "exit 1").stdout == f"dockerd says:\n{words}\n{way_out}"

    def test_what_ran_runs_again(self, tmp_path: Path) -> None:
        """Once the daemon has taken up live-restore; and again only where it stopped anyway."""
        daemon, note = tmp_path / "daemon.json", tmp_path / "state" / "ran"
        daemon.write_text('{\n  "live-restore": true\n}\n')
        program(tmp_path, "systemctl", f'echo "systemctl $*" >>{tmp_path}/asked')
        program(
            tmp_path, "docker",
            f"""echo "docker $*" >>{tmp_path}/asked
            case "$*" in
            "ps -q --no-trunc") echo one; echo two ;;
            info*) echo true ;;
            inspect*one) echo true ;;
            inspect*two) echo false ;;
            inspect*) exit 1 ;;
            esac""",
        )  # fmt: skip
        note.parent.mkdir()
        note.write_text("removed\n")
        script = RESTART.replace(RAN, str(note)).replace(RAN.rpartition("/")[0], str(note.parent))
        script = script.replace(DAEMON_JSON, str(daemon))
        done = subprocess.run(
            ["sh", "-c", f"set -eu; ( eval {quote(script)} ) || exit 1"],
            env=_before(tmp_path), capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        asked = (tmp_path / "asked").read_text().splitlines()
        hup = asked.index("systemctl kill --signal=HUP --kill-who=main docker.service")
        assert hup < asked.index("systemctl restart docker.service")
        assert [line for line in asked if line.startswith("docker start")] == ["docker start two"]
        assert not note.exists()

    def test_a_daemon_that_does_not_start_leaves_the_note(self, tmp_path: Path) -> None:
        note = tmp_path / "state" / "ran"
        program(tmp_path, "docker", 'case "$*" in ps*) echo one ;; esac')
        program(tmp_path, "systemctl", "case $1 in restart) exit 1 ;; esac")
        program(tmp_path, "journalctl", ":")
        script = RESTART.replace(RAN, str(note)).replace(RAN.rpartition("/")[0], str(note.parent))
        done = subprocess.run(
            ["sh", "-c", f"set -eu; ( eval {quote(script)} ) || exit 1"],
            env=_before(tmp_path), capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 1
        assert note.read_text() == "one\n"

    def test_a_daemon_that_starts_says_nothing(self, tmp_path: Path) -> None:
        done = self.run(tmp_path, "exit 0")
        assert (done.returncode, done.stdout) == (0, "")
