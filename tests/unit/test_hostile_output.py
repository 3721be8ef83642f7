"""A host that sends anything at all: bytes that are no text, lines without an end, and no end."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from queue import Queue
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paramiko.file import BufferedFile
from pyinfra.api.command import StringCommand
from pyinfra.api.inventory import Inventory
from pyinfra.connectors import ssh
from pyinfra.connectors.util import OutputLine, run_local_process
from pyinfra.context import ctx_host, ctx_state

from tests.unit.examples import examples
from tests.unit.ssh_server import SshServer, ssh_server
from vllm_hosts.connect import lock, pyinfra_output
from vllm_hosts.connect.connections import Connections, ask_host, carry_out
from vllm_hosts.errors import HostError
from vllm_hosts.facts.base import HostFact, ending

#: Bytes that are no UTF-8: alone, in the middle of a letter, and a letter that is too long.
NO_TEXT = b"\xff caf\xc3 \xe2\x82 \xc0\xaf"


class Received(BufferedFile):  # type: ignore[type-arg]  # only the stub is generic
    """What paramiko makes of an SSH channel: what has arrived, in the parts in which it came."""

    def __init__(self, parts: list[bytes]) -> None:
        super().__init__()
        self._parts = parts
        self.channel = self
        self._set_mode("r")  # type: ignore[attr-defined]  # not in the stub

    def _read(self, size: int) -> bytes:
        if not self._parts:
            return b""
        if len(self._parts[0]) > size:
            part, self._parts[0] = self._parts[0][:size], self._parts[0][size:]
            return part
        return self._parts.pop(0)


def read(source: Any) -> list[str]:
    pyinfra_output.install()
    queue: Queue[OutputLine] = Queue()
    sys.modules["pyinfra.connectors.util"].read_buffer("stdout", source, queue)
    return [item.line for item in queue.queue]


@settings(max_examples=examples(30), deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=20) | st.just(b"\n") | st.just(NO_TEXT), max_size=8))
def test_bytes_of_a_host_are_lines_whatever_they_are(parts: list[bytes]) -> None:
    sent = b"".join(parts)
    lines = sent.removesuffix(b"\n").split(b"\n") if sent else []
    # pyinfra takes all line ends away.
    assert read(Received(parts)) == [line.decode(errors="replace") for line in lines]


def test_what_is_no_text_ends_no_reader() -> None:
    for source in ([NO_TEXT + b"\n", b"after\n"], Received([NO_TEXT + b"\nafter\n"])):
        first, last = read(source)
        assert last == "after"
        assert "\ufffd" in first and first.encode()


def test_a_line_without_an_end_takes_no_time() -> None:
    """paramiko's own reader took seven seconds for each of these, and 85 for a line of 64 MB."""
    began = time.process_time()
    [line] = read(Received([b"x" * 32768] * 640))
    assert len(line) == 20 << 20
    assert len(read(Received([b"\n" * 200_000]))) == 200_000
    assert time.process_time() - began < 3


def test_the_reader_is_cut_off_by_what_lines_take_in_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pyinfra_output, "LONGEST", 1000)
    monkeypatch.setattr(pyinfra_output, "WHOLE", 201_000)
    assert read(Received([b"\n" * 5000, b"never read\n"])) == [""] * 1000
    assert read(Received([b"x" * 998 + b"\n", b"y" * 1000, b"z"])) == ["x" * 998]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    with ssh_server(tmp_path_factory.mktemp("ssh")) as running:
        running.program("no-text", r"printf 'before\n\377\303\n%s\n' after")
        running.program("fails", r"printf '\033]0;owned\007all \377 well\n' >&2; exit 1")
        yield running


@pytest.fixture
def connections(server: SshServer) -> Connections:
    pyinfra_output.install()
    return Connections(Inventory(([("gpu1", server.data())], {})))


def test_over_ssh(connections: Connections) -> None:
    def told() -> list[str]:
        done, output = ctx_host.get().run_shell_command(
            StringCommand("no-text; no-text >&2"), print_output=False, print_input=False
        )
        assert done
        assert output.stderr_lines == output.stdout_lines
        return list(output.stdout_lines)

    assert connections.at("gpu1", told) == ["before", "\ufffd\ufffd", "after"]


class Strange(HostFact[list[int]]):
    """Reads numbers, where a host says something else."""

    what = "what it says"

    def command(self) -> str:
        return ending("no-text")

    def parse(self, lines: list[str]) -> list[int]:
        return [int(line) for line in lines]


def test_a_fact_says_that_it_was_not_understood(connections: Connections) -> None:
    with pytest.raises(HostError, match="what it says could not be understood"):
        connections.at("gpu1", lambda: ask_host(Strange))
    with pytest.raises(HostError, match="^all \ufffd well$"):
        connections.at("gpu1", lambda: carry_out([StringCommand("fails")]))


def test_the_shell_that_holds_a_host_says_anything(
    connections: Connections, tmp_path: Path
) -> None:
    """A login shell's words come before its own; a line without an end comes in parts."""

    def spoken() -> tuple[str, list[str]]:
        script = r"printf 'caf\303\nlock ta\377ken\n'; head -c 9000 /dev/zero | tr '\0' x"
        channel = lock.opened(ctx_state.get(), ctx_host.get(), script)
        said = [channel.line() for _ in range(6)]
        channel.close()
        return said[1], said

    line, said = connections.at("gpu1", spoken)
    assert line == "lock ta\ufffdken\n"
    assert [len(part) for part in said[2:]] == [4000, 4000, 1000, 0]


@pytest.mark.parametrize(("command", "code"), [("echo why; exit 3", 3), ("echo well", 0)])
def test_a_command_that_reads_no_input_is_heard_all_the_same(command: str, code: int) -> None:
    pyinfra_output.install()
    ended, output = run_local_process(f"exec 0<&-; {command}", stdin=["x" * 4096] * 1000)
    assert (ended, output.stdout) == (code, command.partition(" ")[2].partition(";")[0])


def test_over_ssh_too() -> None:
    class Closed:
        """As paramiko's file of a channel whose other end is closed."""

        closed = False

        def write(self, data: bytes) -> None:
            raise OSError("Socket is closed")

        def close(self) -> None:
            self.closed = True

    pyinfra_output.install()
    buffer = Closed()
    vars(ssh)["write_stdin"](["a line"], buffer)
    assert buffer.closed
