"""When sudo gets a password, which one, and what is said where it refuses us, to the letter."""

from __future__ import annotations

import io
import os
import secrets
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from weakref import WeakKeyDictionary

import gevent
import pytest
from pydantic import SecretStr
from pyinfra.api.command import QuoteString, StringCommand
from pyinfra.connectors import ssh as pyinfra_ssh
from pyinfra.connectors.local import LocalConnector
from pyinfra.connectors.ssh import SSHConnector
from pyinfra.connectors.util import CommandOutput, OutputLine

from vllm_hosts.connect import sudo
from vllm_hosts.errors import HostError, SettingsError

Answer = tuple[bool, list[str], list[str]]
PASSWORD = SecretStr("pa'ss $w")
ASKS: Answer = (False, [], ["sudo: a password is required"])
CHECK = "LC_ALL=C sudo -H -k -n sh -c true"
TRIED = "LC_ALL=C sudo -H -k -S -p '' sh -c 'echo mark'"
STATE: Any = SimpleNamespace()
RIGHT = "give ada the right to use sudo for everything there, or log in as root"


class Connector(LocalConnector):
    """Answers what a test has for it, in turn."""

    def __init__(self, *answers: Answer | BaseException) -> None:
        self.answers = list(answers)
        self.ran: list[tuple[str, dict[str, Any]]] = []

    def run_shell_command(self, command: Any, *given: Any, **arguments: Any) -> Any:
        self.ran.append((command.get_raw_value(), arguments))
        answer = self.answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        done, out, err = answer
        lines = [OutputLine("stdout", line) for line in out]
        return done, CommandOutput(lines + [OutputLine("stderr", line) for line in err])


class Host:
    """One that is connected to, with the settings that a test gives it."""

    name = "gpu1"

    def __init__(self, connector: object, **data: Any) -> None:
        self.connector, self.data, self.groups = connector, data, ["gpu_hosts", "eu"]
        self.secrets: dict[str, dict[str, Any]] = {}

        def of(place: str) -> dict[str, Any]:
            return {"secrets": self.secrets.get(place)}

        self.inventory = SimpleNamespace(
            get_data=lambda: of("all"),
            get_group_data=of,
            get_host_data=of,
            get_override_data=lambda: of("override"),
        )


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_settled", "_passwords"):
        monkeypatch.setattr(sudo, name, WeakKeyDictionary())
    monkeypatch.setattr(sudo, "_typed", None)
    monkeypatch.setattr(sudo, "_may_ask", True)
    monkeypatch.setattr(sudo, "questions", 0)
    monkeypatch.setattr(sudo, "_has_terminal", lambda: False)
    monkeypatch.setattr(sudo, "getuser", lambda: "ada")
    monkeypatch.setattr(sudo, "sudo_password", lambda found: (PASSWORD, "from a test"))
    monkeypatch.setattr(secrets, "token_hex", lambda size: "mark" if size == 8 else "odd")
    given = {"_sudo": True}
    monkeypatch.setattr(
        sudo, "pop_global_arguments", lambda state, host, _: ({**given, **host.data}, [])
    )


def settled(host: Any) -> SecretStr | None:
    sudo.settle(STATE, host)
    return sudo._passwords.get(host)


def refused(host: Any) -> str:
    with pytest.raises(sudo.NotRootError) as found:
        sudo.settle(STATE, host)
    return str(found.value)


class TestSettled:
    def test_where_it_does_not_ask_it_gets_none(self) -> None:
        answers: list[Answer] = [(True, [], []), (False, [], ["sudo: command not found"])]
        for answer in answers:
            connector = Connector(answer)
            assert settled(Host(connector)) is None
            [(command, arguments)] = connector.ran
            assert command == CHECK
            assert arguments == {
                "print_output": False,
                "print_input": False,
                "_stdin": [],
                "_shell_executable": "sh",
            }

    def test_without_sudo_nothing_is_run(self) -> None:
        connector = Connector()
        assert settled(Host(connector, _sudo=False)) is None
        assert settled(Host(object())) is None
        assert connector.ran == []

    @pytest.mark.parametrize(
        "words", ["sudo: a password is required", "sudo: interactive authentication is required"]
    )
    def test_a_password_that_it_takes_is_kept_for_this_host(self, words: str) -> None:
        connector = Connector((False, [], [words]), (True, ["mark"], []))
        host: Any = Host(connector)
        assert settled(host) == PASSWORD
        assert [command for command, _ in connector.ran] == [CHECK, TRIED]
        assert [given["_stdin"] for _, given in connector.ran] == [
            [],
            [PASSWORD.get_secret_value()],
        ]
        # Once in a run.
        assert settled(host) == PASSWORD

    def test_its_options_are_those_of_the_host(self) -> None:
        connector = Connector((True, [], []))
        settled(Host(connector, _use_sudo_login=True, _preserve_sudo_env=True, _sudo_user="a b"))
        assert connector.ran[0][0] == "LC_ALL=C sudo -H -k -n -i -E -u 'a b' sh -c true"

    @pytest.mark.parametrize(
        "words",
        [
            "Sorry, try again.",
            "sudo: 1 incorrect password attempt",
            "sudo: no password was provided",
        ],
    )
    def test_a_wrong_one_is_tried_once(self, words: str) -> None:
        host = Host(Connector(ASKS, (False, [], ["", words, " "])))
        for _ in range(2):
            assert refused(host) == (
                "commands do not run as root: sudo refuses the password of ada (from a test), which"
                " was tried once; correct it, or give another to this host alone with"
                ' secrets = {"sudo_password_env": "VARIABLE"}'
            )
        assert sudo._passwords.get(host) is None  # type: ignore[call-overload]

    @pytest.mark.parametrize(
        ("answer", "words"),
        [
            ((False, [], ["first", "ada is not in the sudoers file.", ""]),
             "ada is not in the sudoers file."),
            ((False, [], []), "sudo gave no answer"),
            ((True, ["another"], []), "sudo gave no answer"),
            ((False, ["mark"], []), "sudo gave no answer"),
            ((False, [], [f"no: {PASSWORD.get_secret_value()}!"]), "no: *MASKED*!"),
        ],
    )  # fmt: skip
    def test_whatever_else_it_says_is_said(self, answer: Any, words: str) -> None:
        said = refused(Host(Connector(ASKS, answer)))
        assert said == f"commands do not run as root: {words}; {RIGHT}"

    def test_a_password_of_spaces_is_masked_too(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sudo, "sudo_password", lambda found: (SecretStr("  "), "x"))
        said = refused(Host(Connector(ASKS, (False, [], ["a  b"]))))
        assert "root: a*MASKED*b;" in said

    def test_what_ends_the_run_settles_nothing(self) -> None:
        connector = Connector(gevent.Timeout(1), (True, [], []))
        host: Any = Host(connector)
        with pytest.raises(gevent.Timeout):
            sudo.settle(STATE, host)
        assert settled(host) is None
        assert len(connector.ran) == 2

    @pytest.mark.parametrize("name", ["_sudo_password", "_use_sudo_password", "_su_password"])
    def test_pyinfra_s_own_ways_are_refused(self, name: str) -> None:
        connector = Connector()
        said = refused(Host(connector, **{name: "sesame"}))
        assert said == sudo.refusal(name)
        assert connector.ran == []

    def test_what_to_do_instead(self) -> None:
        assert sudo.refusal("_su_password") == (
            "_su_password would stand in process arguments on the host; log in as root, or with"
            " _sudo"
        )
        assert sudo.refusal("_sudo_password") == (
            "_sudo_password would stand in process arguments on the host; set secrets ="
            ' {"sudo_password_env": "VARIABLE"} or {"sudo_password_command": "COMMAND"} instead, or'
            " leave it out to be prompted"
        )


class TestWhose:
    def user(self, connector: object) -> str:
        host: Any = Host(connector)
        return sudo._user(host)

    def test_who_logs_in(self) -> None:
        def client(transport: object) -> object:
            return SimpleNamespace(client=SimpleNamespace(get_transport=lambda: transport))

        def named(name: str) -> object:
            return SimpleNamespace(get_username=lambda: name)

        assert self.user(client(named("admin"))) == "admin"
        assert self.user(client(named(""))) == "the login"
        assert self.user(client(None)) == self.user(object()) == "ada"

    def test_the_nearest_settings_count(self) -> None:
        host: Any = Host(None)
        places = ["all", "gpu_hosts", "eu", "gpu1", "override"]
        assert sudo._secrets(host).sudo_password_env is None
        for place in places:
            host.secrets[place] = {"sudo_password_env": place.upper()}
            assert sudo._secrets(host).sudo_password_env == place.upper()
        host.secrets = {"all": {"hf_token_env": "A"}, "gpu1": {"sudo_password_env": "B"}}
        found = sudo._secrets(host)
        assert (found.hf_token_env, found.sudo_password_env) == ("A", "B")

    def test_settings_that_are_wrong_are_named_without_their_value(self) -> None:
        host: Any = Host(None)
        host.secrets = {"all": {"sudo_password_env": ["sesame"]}}
        with pytest.raises(SettingsError) as found:
            sudo._secrets(host)
        assert found.value.problems == ["secrets of gpu1: Input should be a valid string"]

    def test_a_source_that_gives_nothing_is_the_host_s_reason(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def none(found: object) -> None:
            raise SettingsError(["one", "two"])

        monkeypatch.setattr(sudo, "sudo_password", none)
        assert refused(Host(Connector(ASKS))) == "one; two"


class TestTyped:
    @pytest.fixture(autouse=True)
    def no_source(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sudo, "sudo_password", lambda found: None)

    @pytest.fixture
    def prompts(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        asked: list[str] = []

        def getpass(prompt: str) -> str:
            asked.append(prompt)
            return "typed"

        monkeypatch.setattr(sudo, "_has_terminal", lambda: True)
        monkeypatch.setattr(sudo, "getpass", getpass)
        return asked

    def host(self) -> Any:
        return Host(Connector(ASKS, (True, ["mark"], [])))

    def test_somebody_is_asked_once_for_all_hosts(self, prompts: list[str]) -> None:
        for _ in range(2):
            assert settled(self.host()) == SecretStr("typed")
        assert prompts == ["sudo password of ada at gpu1, and at all hosts that ask for one: "]
        assert sudo.questions == 1

    def test_its_refusal_says_where_it_is_from(self, prompts: list[str]) -> None:
        said = refused(Host(Connector(ASKS, (False, [], ["Sorry, try again."]))))
        assert "the password of ada (as it was typed)" in said

    def nobody(self) -> None:
        assert refused(self.host()) == (
            "commands do not run as root: sudo asks for a password, and there is no terminal to"
            ' type it on; set secrets = {"sudo_password_env": "VARIABLE"}, or'
            ' {"sudo_password_command": "COMMAND"}, for this host, or allow ada to use sudo without'
            " a password there"
        )

    def test_nobody_to_ask(self) -> None:
        self.nobody()
        assert sudo.questions == 0

    def test_a_process_beside_another_asks_nobody(self, prompts: list[str]) -> None:
        sudo.ask_nobody()
        self.nobody()
        assert prompts == []

    @pytest.mark.parametrize("error", [EOFError, OSError])
    def test_nothing_is_typed(
        self, prompts: list[str], monkeypatch: pytest.MonkeyPatch, error: type[Exception]
    ) -> None:
        def ended(prompt: str) -> str:
            raise error

        monkeypatch.setattr(sudo, "getpass", ended)
        self.nobody()
        monkeypatch.setattr(sudo, "getpass", lambda prompt: "")
        self.nobody()

    def test_who_may_have_to_type(self) -> None:
        host: Any = self.host()
        assert sudo.may_ask(STATE, host) is True
        no_sudo: Any = Host(None, _sudo=None)
        assert sudo.may_ask(STATE, no_sudo) is False
        sudo.take("typed")
        assert sudo.may_ask(STATE, host) is False
        sudo._typed = None
        settled_one: Any = Host(Connector((True, [], [])))
        settled(settled_one)
        assert sudo.may_ask(STATE, settled_one) is False
        sudo.ask_nobody()
        assert sudo.may_ask(STATE, host) is False

    def test_a_terminal(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.undo()
        opened: list[object] = []

        def open_(*given: object) -> int:
            opened.append(given)
            return 7

        monkeypatch.setattr(os, "open", open_)
        monkeypatch.setattr(os, "close", opened.append)
        assert sudo._has_terminal() is True
        assert opened == [("/dev/tty", os.O_RDWR | os.O_NOCTTY), 7]

        def none(*given: object) -> int:
            raise OSError

        monkeypatch.setattr(os, "open", none)
        assert sudo._has_terminal() is False


#: It reads a password as sudo does: one line, byte by byte; or none, where "free" lies beside it.
_SUDO = """#!/bin/sh
while :; do case $1 in -[HSkiE]) shift ;; -[pu]) shift 2 ;; *) break ;; esac; done
[ -e "${0%/*}/free" ] || { IFS= read -r given; echo "$given" >>"${0%/*}/given"; }
exec "$@"
"""


class TestCommand:
    @pytest.fixture
    def programs(self, tmp_path: Path) -> Path:
        (tmp_path / "sudo").write_text(_SUDO)
        (tmp_path / "sudo").chmod(0o755)
        return tmp_path

    def run(self, programs: Path, given: Any, command: str = "cat", **cut: Any) -> Any:
        made, arguments = sudo.asked(
            StringCommand(command), {"_sudo": True, "_stdin": given}, PASSWORD
        )
        lines = arguments["_stdin"][: cut.get("lines")]
        text = "".join(f"{str(line).rstrip(chr(10))}\n" for line in lines)
        return subprocess.run(
            ["sh", "-c", made.get_raw_value()], input=text, capture_output=True, text=True,
            check=False, env={"PATH": f"{programs}:/usr/bin:/bin"},
        )  # fmt: skip

    @pytest.mark.parametrize(
        ("given", "printed"),
        [
            (["one", " two\\"], "one\n two\\\n"),
            (("one",), "one\n"),
            ("one", "one\n"),
            (io.StringIO("a\nb\n"), "a\nb\n"),
            (None, ""),
        ],
    )
    def test_a_command_gets_its_own_input_and_nothing_more(
        self, programs: Path, given: Any, printed: str
    ) -> None:
        done = self.run(programs, given)
        assert (done.returncode, done.stdout, done.stderr) == (0, printed, "")
        assert (programs / "given").read_text() == f"{PASSWORD.get_secret_value()}\n"

    def test_a_sudo_that_asks_no_more_hands_it_to_no_command(self, programs: Path) -> None:
        (programs / "free").touch()
        assert self.run(programs, ["one"]).stdout == "one\n"
        assert self.run(programs, [], 'echo "$l$1"').stdout == "\n"

    def test_an_input_that_was_cut_short_runs_nothing(self, programs: Path) -> None:
        for lines in (0, 1):
            done = self.run(programs, ["one"], lines=lines)
            assert (done.returncode, done.stdout) == (1, "")
            assert done.stderr == "standard input of sudo was cut short\n"

    def test_what_is_the_command_s_and_what_is_the_connector_s(self) -> None:
        given = {
            "_sudo": True, "_sudo_user": "ada", "_use_sudo_login": True, "_preserve_sudo_env": True,
            "_sudo_password": "x", "_timeout": 7, "_success_exit_codes": [0, 1], "_get_pty": True,
            "_stdin": ["one"], "_env": {"A": "b"}, "_shell_executable": "bash",
        }  # fmt: skip
        command, arguments = sudo.asked(StringCommand("cat", QuoteString("a b")), given, PASSWORD)
        gate = QuoteString(sudo._GATE)
        outer = StringCommand(
            *("sudo", "-H", "-S", "-k", "-p", "''", "-i", "-E", "-u", "ada", "sh", "-c"), gate,
            "sudo", "mark",
        )  # fmt: skip
        inner = "bash -c 'export A=b && cat '\"'\"'a b'\"'\"''"
        assert command.get_raw_value() == f"{outer.get_raw_value()} {inner}"
        assert arguments == {
            "_timeout": 7,
            "_success_exit_codes": [0, 1],
            # A terminal would echo it.
            "_get_pty": False,
            "_stdin": [PASSWORD.get_secret_value(), "mark", "one"],
            "_shell_executable": None,
        }

    def test_one_that_stays_is_sent_the_same_way(self, monkeypatch: pytest.MonkeyPatch) -> None:
        sent: list[dict[str, Any]] = []

        def made(state: object, host: object, command: StringCommand, **inner: Any) -> Any:
            sent.append(inner)
            return command

        monkeypatch.setattr(sudo, "make_unix_command_for_host", made)
        host: Any = Host(None)
        options = {"_sudo": True, "_sudo_password": "x", "_stdin": [7], "_timeout": 1}
        assert sudo.whole(STATE, host, StringCommand("cat"), options) == ("cat", ["7"])
        assert sent == [{"_sudo": True}]
        sudo._passwords[host] = PASSWORD
        text, lines = sudo.whole(STATE, host, StringCommand("cat"), options)
        assert text.startswith("sudo -H -S -k -p '' sh -c")
        assert lines == [PASSWORD.get_secret_value(), "mark", "7"]
        assert sent[1] == {"_shell_executable": None}
        assert sudo.whole(STATE, host, StringCommand("cat"), {"_sudo": False}) == ("cat", [])


class TestInstalled:
    @pytest.fixture
    def plain(self, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
        """Calls of pyinfra's own, in whose place ours are put back afterwards."""
        calls: list[Any] = []

        def run(self: Any, command: Any, *given: Any, **arguments: Any) -> str:
            calls.append((str(command), given, arguments))
            return "done"

        for connector in (SSHConnector, LocalConnector):
            monkeypatch.setattr(connector, "run_shell_command", run)
        for name, module in list(sys.modules.items()):
            if name.startswith("pyinfra.connectors.") and hasattr(module, sudo._RETRY):
                monkeypatch.setattr(module, sudo._RETRY, None)
        return calls

    def test_commands_of_a_host_that_asks_go_our_way(self, plain: list[Any]) -> None:
        sudo.install()
        ours = SSHConnector.run_shell_command
        sudo.install()
        assert SSHConnector.run_shell_command is ours
        host: Any = Host(None)
        connector: Any = SimpleNamespace(host=host)
        run: Callable[..., Any] = LocalConnector.run_shell_command
        cat = StringCommand("cat")
        assert run(connector, cat, _sudo=True, _sudo_password="x") == "done"
        sudo._passwords[host] = PASSWORD
        run(connector, cat, True, True, _sudo=False)
        run(connector, cat, _sudo=True)
        assert plain[:2] == [
            ("cat", (False, False), {"_sudo": True}),
            ("cat", (True, True), {"_sudo": False}),
        ]
        command, given, arguments = plain[2]
        assert command.startswith("sudo -H -S") and given == (False, False)
        assert arguments["_stdin"] == [PASSWORD.get_secret_value(), "mark"]

    def test_pyinfra_asks_nobody_itself(self, plain: list[Any]) -> None:
        sudo.install()
        retry: Any = getattr(pyinfra_ssh, sudo._RETRY)
        assert retry(None, {}, lambda: "once") == "once"

    def test_a_refusal_is_the_host_s_own(self) -> None:
        assert issubclass(sudo.NotRootError, HostError)
