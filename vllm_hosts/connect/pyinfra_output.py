"""Sanitises what pyinfra itself prints from hosts, and hears a host that reads no input.

pyinfra 3.10 prints a host's output in two places: line by line while a command runs
(``pyinfra.connectors.util.read_buffer``) and after a command failed
(``pyinfra.api.util.print_host_combined_output``). Everything else from a host reaches its logger in
the text of errors. pyinfra's own colours stay.

A command that fails before it has read all of its input ends pyinfra's writing with "Socket is
closed", and what the command said, or that it ended well, is lost.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from typing import IO, Any

from paramiko.file import BufferedFile
from pyinfra import logger
from pyinfra.api import facts, operations, util
from pyinfra.api.host import Host
from pyinfra.connectors import ssh
from pyinfra.connectors.util import CommandOutput, OutputLine, read_buffer, write_stdin

from vllm_hosts.text import clean, clean_styled

#: Bytes of a line, and of a command's whole output: listing many models takes megabytes.
LONGEST, WHOLE = 32 << 20, 128 << 20
#: Bytes of memory that a line takes besides its text.
_LINE = 200
#: Bytes that are read at a time.
_PIECE = 64 << 10
_connectors_util = sys.modules["pyinfra.connectors.util"]
_print_whole = util.print_host_combined_output
_installed = False
#: Called before a host's own output about a failure is printed.
before_errors: list[Callable[[], None]] = []


def install() -> None:
    """Install the sanitiser. A second call changes nothing."""
    global _installed
    if _installed:
        return
    _installed = True
    _connectors_util.read_buffer = _read_buffer  # type: ignore[attr-defined]
    for connector in (_connectors_util, ssh):
        connector.write_stdin = _give  # type: ignore[attr-defined]
    # Both modules have imported it by name.
    for module in (util, facts, operations):
        module.print_host_combined_output = _print_output  # type: ignore[attr-defined]
    logger.addFilter(_logged)
    # If a host sends something else than a banner, paramiko logs it with a traceback, which Python
    # prints unless there is a handler. Whoever connects reports the failure.
    paramiko = logging.getLogger("paramiko")
    paramiko.addHandler(logging.NullHandler())
    paramiko.propagate = False


def _give(stdin: object, buffer: IO[bytes]) -> None:
    """Write a command's input. One that has ended needs no more, and its exit code says how it
    went: that of a connection that was lost is none of success.
    """
    try:
        write_stdin(stdin, buffer)
    except OSError:
        # What is left of it would be written when pyinfra closes it.
        with suppress(OSError):
            buffer.close()


def _read_buffer(
    name: str,
    io: Iterable[Any],
    output_queue: Any,
    print_output: bool = False,
    print_func: Callable[[str], str] | None = None,
) -> None:
    show = print_func or str

    def shown(line: str) -> str:
        if name == "stderr":
            for ready in before_errors:
                ready()
        return show(clean(line))

    read_buffer(name, _bounded(io), output_queue, print_output, shown)


def _bounded(io: Iterable[Any]) -> Iterator[str]:
    """A host's lines, up to more than any command of ours prints: then the command is cut off, and
    its caller gets an answer without an end.

    What is no UTF-8 is replaced: pyinfra's reader would end with it, and lose all that follows.
    """
    total = 0
    for line in _lines(io):
        total += len(line) + _LINE
        if len(line) >= LONGEST or total > WHOLE:
            logger.error("a command printed more than is read, and was cut off")
            source: Any = io
            # An SSH channel; a local process finds its pipe closed.
            getattr(source, "channel", source).close()
            return
        yield line.decode(errors="replace")


def _lines(io: Any) -> Iterator[bytes]:
    """Lines with their ends; one that is too long in parts, of which the first is LONGEST."""
    if not isinstance(io, BufferedFile):
        read = getattr(io, "readline", None)
        for line in iter(partial(read, LONGEST), read(0)) if read else io:
            yield line.encode() if isinstance(line, str) else line
        return
    # paramiko's own readline copies all that has arrived for each line, and for each part of one:
    # 30 MB take it minutes, in which no other host is attended to.
    begun = bytearray()
    receive: Any = io
    while piece := receive._read(_PIECE):
        first, *rest = piece.split(b"\n")
        begun += first
        for line in rest:
            yield bytes(begun) + b"\n"
            begun = bytearray(line)
        if len(begun) >= LONGEST:
            yield bytes(begun)
            begun = bytearray()
    if begun:
        yield bytes(begun)


def _print_output(host: Host, output: CommandOutput) -> None:
    lines = [OutputLine(line.buffer_name, clean(line.line)) for line in output]
    _print_whole(host, CommandOutput(lines))


def _logged(record: logging.LogRecord) -> bool:
    if str(record.msg).startswith("Failed to load host keys from"):
        # One that cannot be read is refused (reach.py); a missing one is created.
        return False
    record.msg, record.args = clean_styled(record.getMessage()), ()
    return True
