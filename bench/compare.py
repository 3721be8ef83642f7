"""The same job on the lab's hosts by each program, side by side: ``python -m bench.compare``.

Nothing is to be changed. Each round runs all of them one after the other, so that what else this
machine does concerns all; ratios are of pairs. A relay in front of SSH makes the hosts far away.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.far import Far
from bench.figures import Measured, plot, table
from bench.relay import Relay, Target
from lab import hosts, layout

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench/results"
ANSIBLE = ROOT / "bench/ansible"
BIN = Path(sys.executable).parent
INVENTORY = "inventory/lab.py"
OURS, ALONE, WITHOUT, EXEC, SSH, THEIRS = (
    "deploy.py",
    "deploy.py, one host",
    "deploy.py, VLLM_HOSTS_LOOKAHEAD=0",
    "pyinfra exec -- true",
    "ssh true",
    "ansible-playbook",
)
_STYLE = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_LIMIT = 900


@dataclass(frozen=True)
class Way:
    """One program that is measured. ``commands`` run at the same time; what they print has to
    have ``unchanged`` once for each host."""

    name: str
    commands: Sequence[Sequence[str]]
    environment: Mapping[str, str] = field(default_factory=dict)
    unchanged: str = ""
    hosts: int = 1


@dataclass(frozen=True)
class Once:
    """One run: seconds on the clock and of the processor, bytes of memory, connections and bytes
    through the relay."""

    wall: float
    cpu: float
    memory: int
    connections: int
    carried: int


class ChangedError(Exception):
    """A program did not find everything as it should be: nothing can be compared then."""


def ways(far: Far, ansible: Path | None) -> Iterator[Way]:
    """All programs, in the order of a round."""
    pyinfra, count = [str(BIN / "pyinfra"), "-y"], len(far.hosts)
    every = [*pyinfra, *far.pyinfra(*far.hosts), INVENTORY]
    deploy, unchanged = [*every, "deploy.py"], r"\] +0 changed, \d+ unchanged"
    first = [*pyinfra, *far.pyinfra(next(iter(far.hosts))), INVENTORY, "deploy.py"]
    yield Way(SSH, [far.ssh(host, "true") for host in far.hosts])
    yield Way(EXEC, [[*every, "exec", "--", "true"]])
    yield Way(OURS, [deploy], unchanged=unchanged, hosts=count)
    # The difference is what a further host costs.
    yield Way(ALONE, [first], unchanged=unchanged)
    off = {"VLLM_HOSTS_LOOKAHEAD": "0"}
    yield Way(WITHOUT, [deploy], off, unchanged, count)
    if ansible is not None:
        play = [str(ansible / "bin/ansible-playbook"), "-i", str(far.inventory), "site.yml"]
        yield Way(
            THEIRS,
            [play],
            {"ANSIBLE_CONFIG": str(ANSIBLE / "ansible.cfg")},
            unchanged=r": ok=\d+ +changed=0 +unreachable=0 +failed=0",
            hosts=count,
        )


def once(way: Way, relay: Relay) -> Once:
    """Run a program.

    :raises ChangedError: it failed, or found something to change.
    """
    with TemporaryDirectory(prefix="bench-") as sockets:
        # Each run logs in anew, Ansible's as well.
        environment = {
            **os.environ,
            "PYINFRA_PROGRESS": "off",
            "ANSIBLE_SSH_CONTROL_PATH_DIR": sockets,
            **way.environment,
        }
        where = ANSIBLE if way.name == THEIRS else ROOT
        before = relay.connections, relay.carried
        begun, cpu, memory, said, codes = time.monotonic(), 0.0, 0, "", []
        output = [Path(sockets) / f"output{number}" for number in range(len(way.commands))]
        running = []
        for words, file in zip(way.commands, output, strict=True):
            with file.open("wb") as written:
                running.append(
                    subprocess.Popen(
                        words,
                        cwd=where,
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
    found = len(re.findall(way.unchanged, said)) if way.unchanged else way.hosts
    if any(codes) or found != way.hosts:
        raise ChangedError(f"{way.name} ended with {codes}:\n{said[-3000:]}")
    return Once(wall, cpu, memory, relay.connections - before[0], relay.carried - before[1])


#: By round trip in seconds, by program.
Results = dict[float, dict[str, list[Once]]]


def written(results: Results, hosts_: int) -> str:
    """The table in Markdown, and the plot beside it."""
    rows, drawn = [], {}
    for delay, by_name in results.items():
        heading = f"{1000 * delay:.0f} ms"
        walls = {name: Measured(tuple(one.wall for one in runs)) for name, runs in by_name.items()}
        rounds = min(len(one.values) for one in walls.values())
        drawn[heading] = walls
        # A round that was cut off has no pairs.
        paired = {name: Measured(one.values[:rounds]) for name, one in walls.items()}
        for name, runs in by_name.items():
            cpu = Measured(tuple(one.cpu for one in runs))
            rows.append(
                [
                    heading,
                    f"`{name}`",
                    f"{walls[name]} s",
                    f"{paired[name].over(paired[OURS]):.2f}",
                    f"{paired[name].over(paired[EXEC]):.2f}",
                    f"{cpu.middle:.2f} s",
                    f"{max(one.memory for one in runs) / 1e6:.0f} MB",
                    sorted(one.connections for one in runs)[len(runs) // 2],
                    f"{sorted(one.carried for one in runs)[len(runs) // 2] / 1e3:.0f} kB",
                ]
            )
    text = table(
        ["round trip", "program", "wall (spread)", f"times `{OURS}`", f"times `{EXEC}`"]
        + ["CPU", "memory", "connections", "sent and received"],
        rows,
    )
    RESULTS.mkdir(exist_ok=True)
    title = f"Nothing to change on {hosts_} hosts"
    (RESULTS / "compare.md").write_text(text)
    (RESULTS / "compare.svg").write_text(plot(title, "s", drawn))
    return text


def ansible_there() -> Path:
    """An environment with Ansible, beside the lab's caches; made where there is none."""
    folder = layout.CACHE / "bench-ansible"
    wanted = (ANSIBLE / "requirements.txt").read_text()
    stamp = folder / "requirements.txt"
    if not stamp.exists() or stamp.read_text() != wanted:
        print("installing Ansible", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        pip = [str(folder / "bin/pip"), "install", "--quiet", "-r"]
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        subprocess.run([*pip, str(ANSIBLE / "requirements.txt")], check=True, env=environment)
        stamp.write_text(wanted)
    return folder


@contextmanager
def far_hosts(relay: Relay, folder: Path) -> Iterator[Far]:
    """The lab's hosts, behind the relay."""
    there = [hosts.host(name) for name in hosts.gpu_host_names()]
    with relay.running(*(Target(str(host.ipv4)) for host in there)) as ports:
        yield Far(folder, dict(zip(there, ports, strict=True))).written()


def main() -> None:
    """Measure, print as it goes, and write what there is after each round."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--round-trips", type=float, nargs="+", default=[0, 20, 100], help="ms")
    parser.add_argument("--without-ansible", action="store_true")
    given = parser.parse_args()
    relay, results = Relay(), Results()
    with (
        TemporaryDirectory(prefix="vllm-hosts-bench-") as folder,
        far_hosts(relay, Path(folder)) as far,
    ):
        ansible = None
        if not given.without_ansible:
            ansible = ansible_there()
            print("asking hosts what Ansible is to keep", flush=True)
            far.for_ansible()
        programs = list(ways(far, ansible))
        print("once without measuring", flush=True)
        for way in programs:
            once(way, relay)
        for delay in given.round_trips:
            relay.round_trip = delay / 1000
            for number in range(given.rounds):
                for way in programs:
                    run = once(way, relay)
                    results.setdefault(relay.round_trip, {}).setdefault(way.name, []).append(run)
                    print(
                        f"{delay:g} ms, round {number + 1}: {way.name}: {run.wall:.2f} s,"
                        f" CPU {run.cpu:.2f} s",
                        flush=True,
                    )
                text = written(results, len(far.hosts))
    print(text)


if __name__ == "__main__":
    main()
