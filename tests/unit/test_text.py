"""What a host or a model may put on a terminal: characters that show, and nothing else."""

from __future__ import annotations

import base64
import gzip
import io
import logging
import subprocess
import sys
import time
from collections import defaultdict
from queue import Queue
from types import SimpleNamespace
from typing import Any

import pyinfra
import pytest
from paramiko.file import BufferedFile
from pyinfra.api import util
from pyinfra.api.command import FunctionCommand
from pyinfra.api.output import set_echo, set_formatter
from pyinfra.connectors.util import CommandOutput, OutputLine
from pyinfra.context import ctx_host

from tests.unit.fakes import inspect_line
from tests.unit.samples import settings
from vllm_hosts.connect import pyinfra_output
from vllm_hosts.doctor import diagnoses
from vllm_hosts.doctor.diagnoses import Finding
from vllm_hosts.doctor.seen import Seen
from vllm_hosts.drift import _failure
from vllm_hosts.errors import HostError, SettingsError
from vllm_hosts.host import nvidia_smi
from vllm_hosts.host.containers import Container, named
from vllm_hosts.operations import differences
from vllm_hosts.operations.base import fail
from vllm_hosts.text import clean, clean_styled
from vllm_hosts.top.poll import _metrics

#: Name -> what a host sends, and what is left of it.
TRICKS = {
    "colour": ("\x1b[31mred\x1b[0m", "red"),
    "cursor and screen": ("a\x1b[2J\x1b[1;1Hb\x1b[?1049h", "ab"),
    "title of the window": ("a\x1b]0;owned\x07b", "ab"),
    "clipboard": ("a\x1b]52;c;cm0gLXJmIC8=\x1b\\b", "ab"),
    "link": ("\x1b]8;;http://x\x1b\\text\x1b]8;;\x1b\\", "text"),
    "device control": ("a\x1bP$q m\x1b\\b", "ab"),
    "8 bits": ("a\x9b2Jb\x9d0;owned\x9cc\x90x\x9cd", "abcd"),
    "unfinished string": ("a\x1b]0;rest is shown", "a]0;rest is shown"),
    "unfinished sequence": ("a\x1b[31", "a[31"),
    "reset of the terminal": ("a\x1bcb", "ab"),
    "another character set": ("a\x1b(0b", "ab"),
    "bell and backspace": ("se\x07cret\x08\x08", "secret"),
    "delete and null": ("a\x7fb\0c", "abc"),
    "line that overwrites": ("bad\rgood", "bad good"),
    "second line": ("bad\n--> all is well", "bad --> all is well"),
    "line separators": ("a\u2028b\u2029c\x85d\x0be", "a b c d e"),
    "direction": ("\u202egnp.exe\u202c \u2066x\u2069 \u200f", "gnp.exe x "),
    "invisible": ("a\u200bb\ufeffc\u2060d\u00ade\U000e0041f\u3164g", "abcdefg"),
    "lone surrogate": ("a\ud800b", "ab"),
    "tab and letters": ("a\tcafé 日本 ✓", "a\tcafé 日本 ✓"),
}


@pytest.mark.parametrize("trick", TRICKS)
def test_only_characters_that_show_are_left(trick: str) -> None:
    sent, left = TRICKS[trick]
    assert clean(sent) == left
    assert clean(left) == left
    assert str(HostError(sent)) == left
    assert SettingsError([sent]).problems == [left]


def test_no_character_gets_through_that_does_something() -> None:
    everything = "".join(chr(code) for code in range(0x3000))
    assert all(character.isprintable() for character in clean(everything, 100_000, keep=""))


def test_our_own_colours_stay() -> None:
    text = "\x1b[31mError: \x1b[0m\x1b]0;owned\x07of\n\x1b[2Ja host"
    assert clean_styled(text) == "\x1b[31mError: \x1b[0mof\na host"


def test_length_is_bounded_and_so_is_time() -> None:
    assert clean("x" * 50, 10) == "x" * 10 + " ..."
    assert clean("\x1b[0m" * 1000 + "x", 10).endswith(" ...")
    began = time.monotonic()
    for piece in ("\x1b]", "\x9b", "\x1b[", "\x1b[0;", "\x90\x1b"):
        clean(piece * 200_000)
    assert time.monotonic() - began < 2


class Shown:
    """What pyinfra prints, while its output goes here."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.lines: list[str] = []
        pyinfra_output.install()
        set_echo(lambda message=None, **_: self.lines.append(str(message)))
        set_formatter(lambda text, *_, **__: f"\x1b[31m{text}\x1b[0m")
        handler = logging.Handler()
        handler.emit = lambda record: self.lines.append(record.getMessage())  # type: ignore[method-assign]
        monkeypatch.setattr(logging.getLogger("pyinfra"), "handlers", [handler])


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Any:
    from pyinfra.api import output

    before = output._echo, output._format_text
    yield Shown(monkeypatch)
    set_echo(before[0])
    set_formatter(before[1])


LYING = "\x1b]0;owned\x07\x1b[2Jall is well\x1b[8m"


def test_what_pyinfra_prints_while_a_command_runs(shown: Shown) -> None:
    read = sys.modules["pyinfra.connectors.util"].read_buffer
    queue: Queue[OutputLine] = Queue()
    read("stdout", [f"{LYING}\n"], queue, print_output=True, print_func=lambda line: f"[h] {line}")
    assert shown.lines == ["[h] all is well"]
    assert queue.get().line == LYING, "facts get what was sent"


@pytest.mark.parametrize("endless", ["line", "lines"])
def test_a_host_that_never_ends_is_cut_off(
    shown: Shown, endless: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pyinfra_output, "LONGEST", 1000)
    monkeypatch.setattr(pyinfra_output, "WHOLE", 10_000)
    process = subprocess.Popen(
        ["sh", "-c", "yes" + (" | tr -d '\\n'" if endless == "line" else "")],
        stdout=subprocess.PIPE,
    )
    queue: Queue[OutputLine] = Queue()
    sys.modules["pyinfra.connectors.util"].read_buffer("stdout", process.stdout, queue)
    assert process.wait(10) != 0
    assert sum(len(item.line) for item in queue.queue) <= 10_000
    assert shown.lines == ["a command printed more than is read, and was cut off"]


class Received(BufferedFile):  # type: ignore[type-arg]  # only the stub is generic
    """What paramiko makes of an SSH channel."""

    def __init__(self) -> None:
        super().__init__()
        self._parts = [b"a\n\nb", b""]
        self._set_mode("r")  # type: ignore[attr-defined]  # not in the stub

    def _read(self, size: int) -> bytes:
        return self._parts.pop(0) if self._parts else b""


def test_lines_arrive_as_they_were_sent() -> None:
    pyinfra_output.install()
    read = sys.modules["pyinfra.connectors.util"].read_buffer
    for source in (io.StringIO("a\n\nb"), io.BytesIO(b"a\n\nb"), ["a\n", "\n", "b"], Received()):
        queue: Queue[OutputLine] = Queue()
        read("stdout", source, queue)
        assert [item.line for item in queue.queue] == ["a", "", "b"]


def test_what_pyinfra_prints_of_a_command_that_failed(shown: Shown) -> None:
    output = CommandOutput([OutputLine("stdout", LYING), OutputLine("stderr", LYING)])
    host: Any = SimpleNamespace(print_prefix="\x1b[1m[h]\x1b[0m ")
    for module in ("pyinfra.api.operations", "pyinfra.api.facts", "pyinfra.api.util"):
        sys.modules[module].print_host_combined_output(host, output)
    assert (
        shown.lines
        == [
            "\x1b[1m[h]\x1b[0m all is well",
            "\x1b[1m[h]\x1b[0m \x1b[31mall is well\x1b[0m",
        ]
        * 3
    )


def test_what_pyinfra_logs_of_errors(shown: Shown) -> None:
    host: Any = SimpleNamespace(print_prefix="[h] ")
    util.log_host_command_error(host, OSError(f"{LYING} {0x9B:c}2J"))
    pyinfra.logger.error("%s of %d", LYING, 2)
    assert not any(word in line for line in shown.lines for word in ("\x9b", "\x1b]", "\x1b[2J"))
    assert shown.lines[1] == "all is well of 2"


#: A title for the window, a cleared screen, and a name that reads backwards.
NAME = "\x1b]0;owned\x07\x1b[2JNVIDIA\u202e H200\x9b8m"


def test_agents_that_lie_about_themselves() -> None:
    lies = dict.fromkeys(("image", "id", "error", "project", "service", "hash"), NAME)
    found = named([inspect_line("one", NAME, NAME, command=[NAME], **lies)], ["one"])["one"]
    assert {found.state, found.health, found.image, found.model} == {"NVIDIA H200"}
    assert {found.id, found.error, found.project, found.service, found.config_hash} == {
        "NVIDIA H200"
    }


def test_cards_and_drivers_that_lie() -> None:
    row = f"0, {NAME}, 1, 2, 3, 4, 5, 6, Disabled"
    [card] = nvidia_smi.read([row, "exit 0"], nvidia_smi.LOAD).gpus
    assert card.name == "NVIDIA H200"
    found = nvidia_smi.parse([f"0, {NAME}, {NAME}, 1, {NAME}, 9.0, [N/A], Disabled", "exit 0"])
    assert {found.gpus[0].name, found.gpus[0].uuid, found.driver} == {"NVIDIA H200"}
    assert nvidia_smi.parse([NAME, "exit 9"]).message == "NVIDIA H200"


def test_a_diagnosis_that_quotes_a_host(monkeypatch: pytest.MonkeyPatch) -> None:
    told = [Finding(evidence=NAME, values=defaultdict(lambda: NAME), remedy=diagnoses.Remedy(NAME))]
    first = next(iter(diagnoses.texts()))
    others: dict[str, Any] = dict.fromkeys(diagnoses.texts(), lambda settings, seen: [])
    monkeypatch.setattr(diagnoses, "_DOCTORS", others | {first: lambda settings, seen: told})
    [found] = diagnoses.diagnose(settings(), Seen())
    assert found.evidence == found.remedy == "NVIDIA H200"
    assert found.what.isprintable()


def test_drift_that_quotes_a_host() -> None:
    with differences.listening() as told, ctx_host.use(SimpleNamespace(name="gpu1")):
        differences.differs(NAME, NAME)
    assert told["gpu1"] == [differences.Difference("NVIDIA H200", "NVIDIA H200")]
    assert _failure(FunctionCommand(fail, (NAME,), {})) == "NVIDIA H200"


def test_an_answer_that_unpacks_to_more_than_it_seems() -> None:
    packed = base64.b64encode(gzip.compress(b"\0" * (64 << 20))).decode()
    found, problem = _metrics(Container("one", "running"), packed)
    assert found is None and problem == "the answer is cut short, or too large"


@pytest.mark.parametrize(
    "style", ["\x1b[8m", "\x1b[5m", "\x1b[0;8m", "\x1b[38;5;1m", "\x1b[30;40;8m"]
)
def test_only_styles_of_our_own_stay(style: str) -> None:
    assert clean_styled(f"a{style}b") == "ab"
    assert clean_styled("\x1b[1m\x1b[31ma\x1b[0m") == "\x1b[1m\x1b[31ma\x1b[0m"


def test_what_a_host_sends_in_the_place_of_a_banner_reaches_no_terminal(
    capfd: pytest.CaptureFixture[str],
) -> None:
    pyinfra_output.install()
    try:
        raise ValueError("\x1b]0;pwned\x07")
    except ValueError:
        logging.getLogger("paramiko.transport").exception("Indecipherable \x1b]0;pwned\x07")
    assert capfd.readouterr() == ("", "")
