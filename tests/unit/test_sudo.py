"""H31: sudo's password goes over standard input, only where sudo asks, and into nothing else."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gevent
import pytest
from pydantic import SecretStr
from pyinfra.api.command import StringCommand
from pyinfra.context import ctx_host

from tests.unit.projects import AGENT, Project, own_lock
from tests.unit.ssh_server import SshServer, ssh_server
from vllm_hosts.connect import sudo
from vllm_hosts.connect.connections import Connections
from vllm_hosts.connect.testinfra import Hosts
from vllm_hosts.errors import HostError, SettingsError
from vllm_hosts.keys import sources
from vllm_hosts.project.inventory import load, validate

#: Characters that people have in passwords, and that shells read for something else.
PASSWORD = r""" -pa'ss w"ör$(id)d\ """
#: sudo as its manual has it, for who may do everything and has to say this password. It asks nobody
#: where "free" lies beside it, and notes each password that it was given.
_SUDO = r"""#!/bin/sh
here=$(dirname "$0"); quiet= asks=
while :; do
    case $1 in
        -n) quiet=1 ;; -S) asks=1 ;; -H|-k|-E|-i) ;; -p|-u) shift ;; *) break ;;
    esac
    shift
done
[ ! -e "$here/free" ] || exec "$@"
[ -z "$quiet" ] || { echo 'sudo: a password is required' >&2; exit 1; }
[ -n "$asks" ] || { echo 'sudo: a terminal is required to read the password' >&2; exit 1; }
IFS= read -r given
printf '%s\n' "$given" >>"$here/given"
[ "$given" = "$(cat "$here/password")" ] || {
    printf 'Sorry, try again.\nsudo: no password was provided\n' >&2
    echo 'sudo: 1 incorrect password attempt' >&2; exit 1; }
exec "$@"
"""


def install_sudo(folder: Path) -> None:
    (folder / "sudo").write_text(_SUDO)
    (folder / "sudo").chmod(0o755)
    (folder / "password").write_text(PASSWORD)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of programs that this machine, the host, finds first; sudo among them."""
    programs = tmp_path / "programs"
    programs.mkdir()
    install_sudo(programs)
    (programs / "id").write_text("#!/bin/sh\necho 0\n")
    (programs / "id").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setattr(sudo, "_typed", None)
    monkeypatch.setattr(sudo, "_has_terminal", lambda: False)
    monkeypatch.setattr(sources, "_taken", {})
    return programs


Connect = Callable[..., Connections]


@pytest.fixture
def connect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Connect:
    monkeypatch.chdir(tmp_path)
    project = Project(tmp_path)

    def made(**secrets: str) -> Connections:
        data = {"ssh_hostname": "192.0.2.1", "_sudo": True, "secrets": secrets}
        project.write("inventory/prod.py", f"gpu_hosts = [('@local', {data!r})]\n")
        return Connections(load(tmp_path / "inventory/prod.py"))

    return made


def output(connections: Connections, command: str, **arguments: Any) -> list[str]:
    """What a command prints that runs where and as a deploy would run it."""

    def run() -> list[str]:
        host = ctx_host.get()
        _, printed = host.run_shell_command(
            StringCommand(command), _sudo=True, _shell_executable="sh", **arguments
        )
        return list(printed.output_lines)

    return connections.at("@local", run)


class TestGiven:
    @pytest.fixture
    def connections(
        self, machine: Path, connect: Connect, monkeypatch: pytest.MonkeyPatch
    ) -> Connections:
        monkeypatch.setenv("SUDO_OF_GPU1", PASSWORD)
        return connect(sudo_password_env="SUDO_OF_GPU1")

    @pytest.mark.parametrize("given", [["one", "two\n", " \\three"], "one", io.StringIO("a\nb\n")])
    def test_a_command_gets_its_own_standard_input(
        self, connections: Connections, machine: Path, given: Any
    ) -> None:
        expected = list(given) if not isinstance(given, str) else [given]
        if isinstance(given, io.StringIO):
            given.seek(0)
        assert output(connections, "cat", _stdin=given) == [line.rstrip("\n") for line in expected]
        assert set((machine / "given").read_text().splitlines()) == {PASSWORD}

    def test_a_command_without_any_finds_its_end(self, connections: Connections) -> None:
        assert output(connections, "wc -c") == ["0"]

    def test_a_sudo_that_stops_asking_gives_it_to_no_command(
        self, connections: Connections, machine: Path
    ) -> None:
        output(connections, "true")
        (machine / "free").touch()
        assert output(connections, "cat", _stdin=["one"]) == ["one"]

    def test_arguments_and_environments_have_nothing(self, connections: Connections) -> None:
        """Of the command, and of all that it stems from."""
        seen = output(
            connections,
            "env; p=$$; while [ $p -gt 1 ] && [ $p != $ME ]; do"
            " tr '\\0' '\\n' </proc/$p/cmdline; p=$(cut -d' ' -f4 /proc/$p/stat); done",
            _env={"ME": str(os.getpid())},
        )
        assert "SUDO_OF_GPU1" not in "\n".join(seen)
        assert not any(PASSWORD.strip() in line for line in seen)
        assert len(seen) > 8

    def test_the_suite_runs_so_too(
        self, connections: Connections, machine: Path, tmp_path: Path
    ) -> None:
        host = Hosts(load(tmp_path / "inventory/prod.py")).get("@local")
        assert host.check_output("cat; echo %s", "done") == "done"
        assert (machine / "given").exists()


def test_nothing_is_sent_or_run_where_sudo_does_not_ask(
    machine: Path, connect: Connect, tmp_path: Path
) -> None:
    (machine / "free").touch()
    connections = connect(sudo_password_command=f"touch {tmp_path / 'ran'}; echo secret")
    assert output(connections, "cat", _stdin=["one"]) == ["one"]
    assert not (tmp_path / "ran").exists()
    assert not (machine / "given").exists()


def test_a_command_prints_it(machine: Path, connect: Connect) -> None:
    connections = connect(sudo_password_command=f"cat {machine / 'password'}")
    assert output(connections, "echo root") == ["root"]


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("false", "false ended with 1"),
        ("echo", "echo printed no password in its first line"),
        ("printf 'a\\tb'", "printf printed no password"),
    ],
)
def test_a_command_that_prints_none(
    machine: Path, connect: Connect, command: str, words: str
) -> None:
    with pytest.raises(HostError, match=words):
        output(connect(sudo_password_command=command), "true")
    assert not (machine / "given").exists()


def test_a_wrong_one_is_tried_once(
    machine: Path, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUDO_OF_GPU1", "not this")
    connections = connect(sudo_password_env="SUDO_OF_GPU1")
    for _ in range(3):
        with pytest.raises(HostError) as found:
            output(connections, "true")
        said = str(found.value)
        assert said.startswith("commands do not run as root: sudo refuses the password of ")
        assert "from secrets.sudo_password_env, SUDO_OF_GPU1" in said
        assert "not this" not in said
    assert (machine / "given").read_text() == "not this\n"


def test_somebody_is_asked_once(
    machine: Path, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def getpass(prompt: str) -> str:
        asked.append(prompt)
        return PASSWORD

    monkeypatch.setattr(sudo, "_has_terminal", lambda: True)
    monkeypatch.setattr(sudo, "getpass", getpass)
    for connections in (connect(), connect()):
        assert output(connections, "echo root") == ["root"]
    [prompt] = asked
    assert "@local" in prompt


def test_somebody_who_types_slowly_is_waited_for(
    machine: Path, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def slowly(prompt: str) -> str:
        asked.append(prompt)
        if len(asked) == 1:
            # What comes when time was up while this thread stood still.
            raise gevent.Timeout(1)
        return PASSWORD

    monkeypatch.setattr(sudo, "_has_terminal", lambda: True)
    monkeypatch.setattr(sudo, "getpass", slowly)
    connections = connect()
    assert connections.where_somebody_types(["@local"]) == ["@local"]
    assert connections.at("@local", lambda: "done", limit=60) == "done"
    assert connections.where_somebody_types(["@local"]) == []


def test_a_sudo_that_says_what_it_was_given_is_not_quoted(
    machine: Path, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    asks = "case $* in *-n*) echo 'sudo: a password is required' >&2; exit 1 ;; esac"
    (machine / "sudo").write_text(f'#!/bin/sh\n{asks}\nread -r x; echo "no: $x" >&2; exit 1\n')
    monkeypatch.setenv("SUDO_OF_GPU1", PASSWORD)
    with pytest.raises(HostError) as found:
        output(connect(sudo_password_env="SUDO_OF_GPU1"), "true")
    assert PASSWORD.strip() not in str(found.value)
    assert "do not run as root: no: *MASKED*; give" in str(found.value)


def test_nobody_who_types_is_said(machine: Path, connect: Connect) -> None:
    with pytest.raises(HostError, match='set secrets = {"sudo_password_env": "VARIABLE"}'):
        output(connect(), "true")


def test_a_command_shows_no_password() -> None:
    command, arguments = sudo.asked(
        StringCommand("cat"), {"_sudo": True, "_sudo_user": "root"}, SecretStr(PASSWORD)
    )
    for shown in (repr(command), str(command), command.get_raw_value()):
        assert PASSWORD not in shown
        assert shown.count("sudo -H -S -k -p ''") == 1
    assert arguments["_stdin"][0] == PASSWORD


def test_a_deploy_shows_none_and_others_go_on(tmp_path: Path) -> None:
    with ssh_server(tmp_path / "ssh") as server:
        done = _deploy(tmp_path, server, "-y", "-vvv", "--debug", "--diff")
    assert PASSWORD.strip() not in done
    assert "wrong-password" not in done
    assert done.count("sudo refuses the password of admin") == 1
    assert "[wrong] commands do not run as root: sudo refuses" in done
    assert "Traceback" not in done
    assert "[right] Connected" in done
    given = (tmp_path / "ssh/programs/given").read_text().splitlines()
    assert given.count("wrong-password") == 1
    # Facts were read with it: this is no machine that could be deployed to.
    assert given.count(PASSWORD) > 1


def _deploy(folder: Path, server: SshServer, *words: str) -> str:
    install_sudo(folder / "ssh/programs")
    project = Project(folder)
    project.environment = {"RIGHT": PASSWORD, "WRONG": "wrong-password"}
    hosts = [
        (
            name,
            server.data(
                number,
                ssh_user="admin",
                _sudo=True,
                secrets={"sudo_password_env": name.upper()},
                edge={"names": ["llm.example.com"]},
            ),
        )
        for number, name in ((1, "right"), (2, "wrong"))
    ]
    project.write("inventory/prod.py", f"{own_lock(folder)}gpu_hosts = {hosts!r}\n")
    return project.run("pyinfra", *words, "inventory/prod.py", "deploy.py").stdout


class TestSettings:
    def problems(self, folder: Path, monkeypatch: pytest.MonkeyPatch, **data: object) -> list[str]:
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sources, "_taken", {})
        project = Project(folder)
        project.group(agents=[AGENT], **data)
        with pytest.raises(SettingsError) as found:
            validate(load(folder / "inventory/prod.py"))
        return found.value.problems

    @pytest.mark.parametrize("name", ["_sudo_password", "_use_sudo_password", "_su_password"])
    def test_pyinfra_s_own_are_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        [problem] = self.problems(tmp_path, monkeypatch, **{name: "secret-word"})
        assert problem.startswith(f"group_data/gpu_hosts.py: {name} would stand in process")
        assert "secret-word" not in problem
        assert "leave it out" in problem or "log in as root" in problem

    def test_a_variable_that_is_not_set(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("NOT_SET", raising=False)
        [problem] = self.problems(tmp_path, monkeypatch, secrets={"sudo_password_env": "NOT_SET"})
        assert "secrets.sudo_password_env names the environment variable NOT_SET" in problem

    @pytest.mark.parametrize("value", ["two\nlines", "x" * 256])
    def test_what_sudo_would_not_read_whole(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str
    ) -> None:
        monkeypatch.setenv("ODD", value)
        [problem] = self.problems(tmp_path, monkeypatch, secrets={"sudo_password_env": "ODD"})
        assert value not in problem
        assert "that a password cannot have" in problem

    def test_not_both(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        both = {"sudo_password_env": "HOME", "sudo_password_command": "pass show gpu1"}
        [problem] = self.problems(tmp_path, monkeypatch, secrets=both)
        assert "exclude each other" in problem


def test_typed_for_pyinfra_it_is_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sudo, "_typed", None)
    sudo.take("typed")
    sudo.take(None)
    assert sudo._typed == SecretStr("typed")
    assert "typed" not in repr(sudo._typed)
