"""What a host is asked about Docker's daemon, its containers and images, to the letter."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

import pytest

from tests.unit.fakes import inspect_line
from tests.unit.here import Here
from vllm_hosts.errors import HostError
from vllm_hosts.facts.base import END, HostFact
from vllm_hosts.facts.docker import (
    DAEMON_JSON,
    IMAGE_VERSION,
    AgentsServed,
    Daemon,
    DockerDaemon,
    DockerUnit,
    ImageFound,
    ImageId,
    ImageVersion,
    Served,
)
from vllm_hosts.host.containers import INSPECT
from vllm_hosts.host.paths import RAN, STARTS

ID = f"sha256:{'0a' * 32}"


class Machine:
    """This machine as a host; what programs print is in files, and what they are asked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "bin").mkdir()
        (folder / "starts").mkdir()
        self.here = Here(folder / "bin")
        for name in ("docker", "systemctl"):
            self.here.program(name, f"cd {folder}; echo {name} $* >>asked; . ./{name}.sh")
            self.write(f"{name}.sh", "")

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)

    @property
    def asked(self) -> list[str]:
        return (self.folder / "asked").read_text().splitlines()

    def says(self, fact: HostFact[Any], *given: Any) -> Any:
        script = str(fact.command(*given))
        for path, name in (
            (DAEMON_JSON, "daemon.json"), (RAN, "ran"), (STARTS, "starts"), (IMAGE_VERSION, "note"),
        ):  # fmt: skip
            script = script.replace(path, str(self.folder / name))
        done = self.here.run(script)
        assert (done.rc, done.stderr) == (0, "")
        return fact.process(done.stdout.splitlines())


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


class TestDaemon:
    def test_nothing_of_it(self, machine: Machine) -> None:
        assert machine.says(DockerDaemon(), ["/usr/bin/env"]) == Daemon(False, False, None, ())
        assert machine.asked == [
            "systemctl show -p ActiveState -p MainPID docker.service",
            "systemctl is-enabled docker.service",
        ]

    def test_what_is_odd_is_no_answer(self, machine: Machine) -> None:
        machine.write("systemctl.sh", "[ $1 != show ] || echo Failed to connect to bus")
        with pytest.raises(HostError, match="the Docker daemon could not be understood"):
            machine.says(DockerDaemon(), [])

    def test_its_configuration_and_what_ran(self, machine: Machine) -> None:
        text = '{"a": 1}\n' * 20
        machine.write("daemon.json", text)
        machine.write("ran", "")
        machine.write(
            "systemctl.sh", "case $1 in show) echo ActiveState=active ;; *) echo enabled; esac"
        )
        assert machine.says(DockerDaemon(), []) == Daemon(
            True, True, text.encode(), (str(machine.folder / "ran"),)
        )

    @pytest.mark.parametrize("pid", ["0", "", "999999999"])
    def test_one_that_does_not_run_reads_nothing(self, machine: Machine, pid: str) -> None:
        machine.write("new", "")
        machine.write(
            "systemctl.sh",
            f"[ $1 = show ] || exit; echo MainPID={pid}; echo ActiveState=inactive",
        )
        assert machine.says(DockerDaemon(), [str(machine.folder / "new")]).stale == ()

    def test_what_is_newer_than_it(self, machine: Machine) -> None:
        """Times are whole seconds, of which two are written by hand here."""
        for name in ("new", "same", "old"):
            machine.write(name, "")
        machine.here.program(
            "stat",
            'case "$2 $3" in "%Y /proc/"*) echo 1000 ;; "%Z "*new) echo 1001 ;;'
            ' "%Z "*same) echo 1000 ;; "%Z "*old) echo 999 ;; esac',
        )
        machine.write("systemctl.sh", "echo MainPID=1; echo ActiveState=active")
        script = DockerDaemon().command(
            [str(machine.folder / name) for name in ("gone", "new", "same", "old")]
        )
        script = script.replace(RAN, "/none")
        done = machine.here.run(script.replace("[ $1 = show ]", "true"))
        assert done.stdout.partition("== stale\n")[2].split() == [
            str(machine.folder / "new"), END,
        ]  # fmt: skip

    def test_a_configuration_that_is_no_base64(self) -> None:
        lines = ["== active", "== enabled", "== config", "present", "eA=", "== stale", END]
        with pytest.raises(HostError, match="the Docker daemon could not be understood"):
            DockerDaemon().process(lines)
        lines[4:5] = ["e~A=="]
        with pytest.raises(HostError, match="the Docker daemon could not be understood"):
            DockerDaemon().process(lines)


class TestServed:
    def test_who_is_well(self, machine: Machine) -> None:
        lines = [inspect_line("qwen"), inspect_line("coder", health="starting")]
        machine.write("lines", "".join(f"{line}\n" for line in lines))
        machine.write(
            "docker.sh",
            "case $1 in info) echo true; echo a warning; echo word >&2 ;;"
            " ps) echo id1; echo id2; echo x >&2 ;; inspect) cat lines; echo y >&2; exit 1 ;; esac",
        )
        machine.write("starts/qwen", "61\n")
        (machine.folder / "starts/folder").mkdir()
        machine.write("starts/folder/x", "1\n")
        assert machine.says(AgentsServed()) == Served(True, True, ("qwen",), {"qwen": 61})
        assert machine.asked == [
            "docker info --format {{.LiveRestoreEnabled}}",
            "docker ps -q --no-trunc",
            f"docker inspect --format {INSPECT} id1 id2",
        ]

    def test_without_docker_nobody_is(self, machine: Machine) -> None:
        machine.write("docker.sh", "exit 1")
        (machine.folder / "starts").rmdir()
        assert machine.says(AgentsServed()) == Served(False, False, (), {})
        assert [line.split()[1] for line in machine.asked] == ["info", "ps"]

    def test_what_it_says_of_restarts(self) -> None:
        rest = ["== containers", "== starts", END]
        found = AgentsServed().process(["== live", "false", *rest])
        assert (found.answers, found.live_restore) == (True, False)
        with pytest.raises(HostError) as refused:
            AgentsServed().process(["== live", "<no", "value>", "z" * 300, *rest])
        assert str(refused.value) == (
            "the agents' containers could not be understood:"
            f" ValueError(\"docker info says '<no value> {'z' * 189}'\")"
        )


class TestImages:
    @pytest.mark.parametrize("fact", [ImageId(), ImageVersion()])
    def test_docker_is_asked_once(self, machine: Machine, fact: HostFact[Any]) -> None:
        machine.write("docker.sh", f"echo {ID}; echo words >&2")
        found = machine.says(fact, "it's an image")
        assert found == (ID if isinstance(fact, ImageId) else ImageFound(ID, None))
        assert machine.asked == ["docker image inspect --format {{.Id}} it's an image"]
        machine.write("docker.sh", "exit 1")
        assert machine.says(fact, "x") in ("", ImageFound("", None))

    def test_what_was_noted_of_it(self, machine: Machine) -> None:
        machine.write("docker.sh", f"echo {ID}")
        machine.write("note", f"{ID} 0.33.0\x1b[2J {'x' * 200}\n")
        found = machine.says(ImageVersion(), "x")
        assert found.version == f"0.33.0 {'x' * 93} ..."
        machine.write("note", f"{ID}x 0.33.0\n")
        assert machine.says(ImageVersion(), "x").version is None

    @pytest.mark.parametrize(
        "odd",
        ["sha256:" + "A" * 64, "sha256:" + "a" * 63, f"{ID}0", f"x{ID}", "Error: " + "e" * 300],
    )
    def test_what_is_no_identifier(self, odd: str) -> None:
        for fact, more in ((ImageId(), []), (ImageVersion(), ["== note"])):
            with pytest.raises(HostError) as refused:
                fact.process(["== id", odd, *more, END])
            assert str(refused.value) == (
                f"the container images could not be understood: ValueError({odd[:200]!r})"
            )


def test_folders_of_units_in_systemd_s_order() -> None:
    """What an earlier one has hides what a later one has."""
    script = DockerUnit().command()
    folders = (
        "/etc/systemd/system /run/systemd/system /usr/local/lib/systemd/system"
        " /usr/lib/systemd/system /lib/systemd/system"
    )
    assert set(re.findall(r"for folder in (.*?); do", script)) == {folders}


def test_a_unit_that_says_nothing_odd_is_named_where_it_does() -> None:
    with pytest.raises(HostError, match="docker.service could not be understood"):
        DockerUnit().process(["== unit x", END])


def test_which_answers_stay_true_until_something_is_done() -> None:
    facts = (DockerDaemon, AgentsServed, ImageId, ImageVersion, DockerUnit)
    assert [fact.steady for fact in facts] == [True, False, True, True, True]


def test_a_daemon_json_of_no_line() -> None:
    lines = ["== active", "== enabled", "== config", "present", "== stale", END]
    assert DockerDaemon().process(lines).config == b""
    lines[4:4] = [base64.b64encode(b"x").decode()]
    assert DockerDaemon().process(lines).config == b"x"
