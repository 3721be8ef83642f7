"""Programs that are measured: how they run, what a run needed, and whether it did its job."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.relay import Relay

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
#: The inventory of bench/gateways.py, as long as that runs.
GATEWAYS = "inventory/lab-bench.py"
#: In summaries: of deploy.py and of ansible-playbook for each host, of stock pyinfra for all.
UNCHANGED, CHANGED = r"\] +0 changed, \d+ unchanged", r"\] +[1-9]\d* changed, \d+ unchanged"
STOCK_UNCHANGED, STOCK_CHANGED = (
    rf"Grand total +\d+ +{done} +- +\d+" for done in ("-", r"[1-9]\d*")
)
_PLAYED = r": ok=\d+ +changed=%s +unreachable=0 +failed=0"
PLAY_UNCHANGED, PLAY_CHANGED = _PLAYED % "0", _PLAYED % r"[1-9]\d*"
_STYLE = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
#: Seconds that a run may take.
_LIMIT = 1800


def _as_it_is() -> Mapping[str, str]:
    return {}


@dataclass(frozen=True)
class Way:
    """One program that is measured.

    :ivar commands: they run at the same time; what they print has to have ``expected`` once for
        each host.
    :ivar prepared: runs before each of its runs and is not measured; what it returns is added to
        the environment.
    """

    name: str
    commands: Sequence[Sequence[str]]
    environment: Mapping[str, str] = field(default_factory=dict)
    expected: str = ""
    hosts: int = 1
    prepared: Callable[[], Mapping[str, str]] = _as_it_is
    folder: Path = ROOT


@dataclass(frozen=True)
class Once:
    """One run: seconds on the clock and of the processor, bytes of memory of the largest process;
    connections and bytes through the relay, and commands that the hosts' sshd started."""

    wall: float
    cpu: float
    memory: int
    connections: int
    carried: int
    executions: int = 0


class UnexpectedError(Exception):
    """A program failed, or did not change what it should: nothing can be compared then."""


def once(way: Way, relay: Relay, executions: Callable[[], int] = lambda: 0) -> Once:
    """Prepare and run a program.

    :param executions: how many commands hosts have started until now.
    :raises UnexpectedError: it failed, or did not say of each host what it should.
    """
    added = way.prepared()
    with TemporaryDirectory(prefix="bench-") as sockets:
        # Each run logs in anew, Ansible's as well.
        environment = {
            **os.environ,
            "PYINFRA_PROGRESS": "off",
            "ANSIBLE_SSH_CONTROL_PATH_DIR": sockets,
            **way.environment,
            **added,
        }
        before = relay.connections, relay.carried, executions()
        output = [Path(sockets) / f"output{number}" for number in range(len(way.commands))]
        begun, cpu, memory, codes, running = time.monotonic(), 0.0, 0, [], []
        for words, file in zip(way.commands, output, strict=True):
            with file.open("wb") as written:
                running.append(
                    subprocess.Popen(
                        ["timeout", str(_LIMIT), *words],
                        cwd=way.folder,
                        env=environment,
                        stdin=subprocess.DEVNULL,
                        stdout=written,
                        stderr=subprocess.STDOUT,
                    )
                )
        for process in running:
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            codes.append(process.returncode)
            cpu += used.ru_utime + used.ru_stime
            memory = max(memory, used.ru_maxrss * 1024)
        wall = time.monotonic() - begun
        said = _STYLE.sub("", "".join(file.read_text(errors="replace") for file in output))
    found = len(re.findall(way.expected, said)) if way.expected else way.hosts
    if any(codes) or found != way.hosts:
        raise UnexpectedError(f"{way.name} ended with {codes}:\n{said[-3000:]}")
    connections, carried = relay.connections - before[0], relay.carried - before[1]
    return Once(wall, cpu, memory, connections, carried, executions() - before[2])


def well(*words: str, environment: Mapping[str, str] | None = None) -> str:
    """Run one of the project's commands, which is not measured.

    :raises UnexpectedError: it failed.
    """
    done = subprocess.run(
        [str(BIN / words[0]), *words[1:]],
        cwd=ROOT,
        env={**os.environ, "PYINFRA_PROGRESS": "off", **(environment or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        said = _STYLE.sub("", done.stdout)[-3000:]
        raise UnexpectedError(f"{' '.join(words)} ended with {done.returncode}:\n{said}")
    return done.stdout
