"""A connection is made once, with what stands in its way as one sentence, and ends with one."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from paramiko import SSHException
from pyinfra.connectors.ssh import SSHConnector

from vllm_hosts.connect import reach, sudo
from vllm_hosts.connect.reach import Reaching
from vllm_hosts.connect.sudo import NotRootError
from vllm_hosts.connect.why import UnreachedError
from vllm_hosts.errors import HostError

STATE: Any = SimpleNamespace()


class Ssh(SSHConnector):
    """Connects to nothing; ``steps`` has what was done before and after."""

    def __init__(self, steps: list[Any]) -> None:
        self._steps = steps

    def connect(self) -> None:
        self._steps.append("connect")


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    done: list[Any] = []

    def step(name: str) -> Callable[..., None]:
        return lambda *given: done.append((name, *given))

    monkeypatch.setattr(sudo, "install", step("install"))
    monkeypatch.setattr(sudo, "settle", step("settle"))
    monkeypatch.setattr(reach, "check_known_hosts", step("known hosts"))
    monkeypatch.setattr(reach, "check_key", step("key"))
    return done


def host(connector: Any, **data: Any) -> Any:
    return SimpleNamespace(connector=connector, data=data, name="gpu1", connected=True)


class TestBefore:
    def test_files_of_ssh_are_checked_first_and_sudo_last(
        self, steps: list[Any], tmp_path: Path
    ) -> None:
        file = tmp_path / "none/known_hosts"
        one = host(Ssh(steps), ssh_known_hosts_file=str(file))
        Reaching.host_before_connect(STATE, one)
        Reaching.host_before_connect(STATE, one)
        one.connector.connect()
        assert steps == [
            ("install",),
            ("install",),
            ("known hosts", file),
            ("key", one),
            "connect",
            ("settle", STATE, one),
        ]
        # A file that somebody names is where they say it is.
        assert not file.parent.exists()

    def test_a_user_without_a_folder_of_ssh_gets_one(
        self, steps: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        one = host(Ssh(steps))
        Reaching.host_before_connect(STATE, one)
        for _ in range(2):
            one.connector.connect()
        assert (tmp_path / ".ssh").stat().st_mode & 0o777 == 0o700

    def test_another_connector_has_none_of_these_files(self, steps: list[Any]) -> None:
        one = host(SimpleNamespace(connect=lambda: steps.append("connect")))
        Reaching.host_before_connect(STATE, one)
        one.connector.connect()
        assert steps == [("install",), "connect", ("settle", STATE, one)]

    def test_whatever_goes_wrong_is_a_sentence(
        self, steps: list[Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        error = HostError("its file is odd")

        def odd(*_: object) -> None:
            raise error

        one = host(Ssh(steps), ssh_known_hosts_file="/x")
        Reaching.host_before_connect(STATE, one)
        monkeypatch.setattr(reach, "check_key", odd)
        with pytest.raises(UnreachedError, match="its file is odd") as found:
            one.connector.connect()
        assert found.value.__cause__ is error
        assert "connect" not in steps

    def test_paramiko_prints_no_traceback_of_its_own(self) -> None:
        handlers = logging.getLogger("paramiko").handlers
        assert any(isinstance(one, logging.NullHandler) for one in handlers)


class TestConnected:
    def test_it_sends_without_delay_and_notices_a_host_that_is_gone(self) -> None:
        alive: list[int] = []
        with (
            socket.create_server(("127.0.0.1", 0)) as listener,
            socket.create_connection(listener.getsockname()) as sock,
        ):
            transport = SimpleNamespace(sock=sock, set_keepalive=alive.append)
            client = SimpleNamespace(get_transport=lambda: transport)
            Reaching.host_connect(STATE, host(SimpleNamespace(client=client)))
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 90_000
        assert alive == [15]

    def test_what_has_no_socket_is_left_alone(self) -> None:
        """This machine, a connection through another host, or one that has ended."""
        for transport in (None, SimpleNamespace(sock=object())):
            client = SimpleNamespace(get_transport=lambda found=transport: found)
            Reaching.host_connect(STATE, host(SimpleNamespace(client=client)))
        Reaching.host_connect(STATE, host(SimpleNamespace(client=None)))
        Reaching.host_connect(STATE, host(SimpleNamespace()))


class TestConnect:
    def connecting(self, error: Exception | None = None) -> Any:
        one = host(None)
        one.asked = []

        def connect(**given: Any) -> None:
            one.asked.append(given)
            if error:
                raise error

        one.connect = connect
        one.state = SimpleNamespace(callback_handlers=[])
        one.state.add_callback_handler = one.state.callback_handlers.append
        return one

    def test_nothing_is_printed_and_each_connection_is_ours(self) -> None:
        one = self.connecting()
        for _ in range(2):
            reach.connect(one)
        assert one.asked == [{"show_errors": False, "raise_exceptions": True}] * 2
        [handler] = one.state.callback_handlers
        assert isinstance(handler, Reaching)

    def test_why_it_is_not_possible(self) -> None:
        error = UnreachedError("its key has changed")
        with pytest.raises(HostError) as found:
            reach.connect(self.connecting(error))
        assert str(found.value) == "cannot be reached: its key has changed"

    def test_a_host_that_was_reached_is_not_said_to_be_out_of_reach(self) -> None:
        error = UnreachedError("why")
        error.__cause__ = NotRootError("commands do not run as root: no")
        with pytest.raises(HostError) as found:
            reach.connect(self.connecting(error))
        assert str(found.value) == "commands do not run as root: no"


class TestSaying:
    def said(self, error: Exception) -> tuple[str, bool]:
        one = host(None)
        with pytest.raises(HostError) as found, reach.saying(one):
            raise error
        assert found.value is error or found.value.__cause__ is error
        return str(found.value), one.connected

    def test_what_is_a_sentence_stays_one(self) -> None:
        assert self.said(HostError("no disk")) == ("no disk", True)

    @pytest.mark.parametrize(
        ("error", "words"),
        [
            (OSError("reset"), "reset"),
            (EOFError(), "EOFError"),
            (SSHException("closed"), "closed"),
        ],
    )
    def test_a_connection_that_is_lost(self, error: Exception, words: str) -> None:
        assert self.said(error) == (f"the connection is lost: {words}", False)

    def test_anything_else(self) -> None:
        said, connected = self.said(UnreachedError("odd"))
        assert (said, connected) == ("could not be completed: odd", True)

    def test_what_goes_well(self) -> None:
        with reach.saying(host(None)):
            pass


class TestWords:
    def test_ending_raises_nothing(self) -> None:
        ended: list[str] = []

        def disconnect() -> None:
            ended.append("x")
            raise OSError

        reach.disconnect(SimpleNamespace(disconnect=disconnect))  # type: ignore[arg-type]
        assert ended == ["x"]

    def test_the_host_stands_before_its_sentence(self) -> None:
        assert str(reach.named(host(None), HostError("no disk"))) == "gpu1: no disk"

    def test_who_is_root(self) -> None:
        reach.require_root("0", "whatever")
        with pytest.raises(HostError) as found:
            reach.require_root("1000", "whatever")
        assert str(found.value) == (
            "commands do not run as root: user 1000 is not root; set _sudo for this host, or log in"
            " as root"
        )

    @pytest.mark.parametrize(
        ("words", "shown"), [("not\x1b[2J allowed", "not allowed"), ("", "no answer to id -u")]
    )
    def test_who_gives_no_answer(self, words: str, shown: str) -> None:
        with pytest.raises(HostError) as found:
            reach.require_root("", words)
        assert str(found.value) == (
            f"commands do not run as root: {shown}; give ssh_user the right to use sudo for"
            " everything there, or log in as root and leave _sudo out"
        )
