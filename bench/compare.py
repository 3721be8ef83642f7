"""The same job on the lab's hosts by each program, side by side: ``python -m bench.compare``.

Each round runs all programs of a case one after the other, so that what else this machine does
concerns all; ratios are of pairs. A relay in front of SSH makes the hosts far away. The lab is
brought up and deployed to, if it is not.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.cases import ANSIBLE, CASES, WITH_VLLM, Case, Site, machines
from bench.far import Far
from bench.programs import GATEWAYS, ROOT, Once, UnexpectedError, once
from bench.relay import Relay, Target
from bench.tables import written
from lab import hosts, layout

RESULTS = Path(__file__).resolve().parent / "results"
#: How many commands a host's sshd has started: it says so at this level only, and not as a part of
#: its unit, which the login has left by then.
_TELLS = (
    "f=/etc/ssh/sshd_config.d/bench.conf; [ -e $f ] ||"
    " { echo LogLevel VERBOSE >$f && systemctl reload ssh; };"
)
_COUNTED = (
    "journalctl -t sshd -t sshd-session -o cat --no-pager --grep '^Starting session' |"
    " grep -c session || :"
)


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


def executions(names: Sequence[str]) -> Callable[[], int]:
    """What counts the commands that these hosts have started over SSH."""

    def count() -> int:
        return sum(int(hosts.run(name, _TELLS + _COUNTED).stdout) for name in names)

    return count


def chosen(
    cases: Iterable[str], counts: Iterable[int], round_trips: Sequence[float]
) -> Iterator[tuple[Case, int, Sequence[float]]]:
    """What is measured: a case, for how many hosts, at which round trips in milliseconds."""
    for case in (CASES[name] for name in cases):
        for count in sorted(set(counts) & set(case.counts)):
            yield case, count, round_trips if case.far else [min(round_trips)]


class Comparison:
    """What is measured on the lab's hosts, and what it takes until the end."""

    def __init__(self, stack: ExitStack, rounds: int, ansible: Path | None) -> None:
        self._stack, self._rounds, self._ansible = stack, rounds, ansible
        self._relay, self._sites = Relay(), dict[int, Site]()
        self._gateways = False
        #: By case, by hosts and round trip in seconds, by program.
        self.results: dict[str, dict[tuple[int, float], dict[str, list[Once]]]] = {}

    def measure(self, case: Case, count: int, round_trips: Sequence[float]) -> None:
        """Print each run, and write what there is after each round."""
        site = self._site(count)
        self._relay.round_trip = 0.0
        print(f"{case.name} on {', '.join(site.names)}: preparing", flush=True)
        case.begun(site)
        ways, counted = list(case.ways(site)), executions(site.names)
        for way in ways if case.far else ():
            # Files are read from disk for the first time.
            once(way, self._relay)
        found = self.results.setdefault(case.name, {})
        for delay in round_trips:
            self._relay.round_trip = delay / 1000
            by_name = found.setdefault((count, delay / 1000), {})
            for number in range(self._rounds):
                for way in ways:
                    run = once(way, self._relay, counted)
                    by_name.setdefault(way.name, []).append(run)
                    print(
                        f"{case.name}, {count} hosts, {delay:g} ms, round {number + 1}:"
                        f" {way.name}: {run.wall:.2f} s, CPU {run.cpu:.2f} s",
                        flush=True,
                    )
                written(case, found, RESULTS)

    def _site(self, count: int) -> Site:
        """Hosts behind the relay, the same in each case."""
        if count not in self._sites:
            folder = Path(self._stack.enter_context(TemporaryDirectory(prefix="bench-")))
            gateway = count > WITH_VLLM
            if gateway and not self._gateways:
                (folder / "standin").mkdir()
                self._stack.enter_context(deployed_gateways(folder / "standin"))
                self._gateways = True
            there = machines(count)
            targets = [Target(str(host.ipv4)) for host in there]
            ports = self._stack.enter_context(self._relay.running(*targets))
            far = Far(folder, dict(zip(there, ports, strict=True))).written()
            inventory = GATEWAYS if gateway else "inventory/lab.py"
            self._sites[count] = Site(far, inventory, self._ansible, gateway)
        return self._sites[count]


@contextmanager
def deployed_gateways(folder: Path) -> Iterator[None]:
    """The lab's gateways, as long as bench/gateways.py keeps them."""
    with subprocess.Popen(
        [sys.executable, "-m", "bench.gateways", str(folder)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as keeper:
        print("deploying to gateways", flush=True)
        if not keeper.stdout or "deployed" not in keeper.stdout.read(len("deployed\n")):
            raise UnexpectedError("gateways cannot be deployed to; see above")
        # Leaving closes its input, and it ends.
        yield


def brought_up(counts: Iterable[int]) -> None:
    """The lab, with as many hosts as are measured; those that it has besides stay."""
    wanted = {host.name for count in counts for host in machines(count)}
    there = hosts.gpu_host_names() if hosts.is_up() else []
    if not there or not wanted <= {*there, *hosts.gateway_names()}:
        gpus = [one.name for one in machines(WITH_VLLM)]
        front = [name for name in wanted if name not in gpus]
        further = [name for name in layout.FURTHER if name in there]
        count = max(len(there) - len(further), len([name for name in wanted if name in gpus]), 1)
        hosts.up(count, further, max(len(hosts.gateway_names()), len(front)))


def main() -> None:
    """Measure, print as it goes, and write what there is after each round."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=_names, default=list(CASES), help=", ".join(CASES))
    parser.add_argument("--hosts", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--round-trips", type=float, nargs="+", default=[0, 20, 100], help="ms")
    parser.add_argument("--without-ansible", action="store_true")
    given = parser.parse_args()
    plan = list(chosen(given.cases, given.hosts, given.round_trips))
    if not plan:
        parser.error("none of these cases is measured for these numbers of hosts")
    brought_up(count for _, count, _ in plan)
    ansible = None if given.without_ansible else ansible_there()
    with ExitStack() as stack:
        comparison = Comparison(stack, given.rounds, ansible)
        for case, count, round_trips in plan:
            comparison.measure(case, count, round_trips)
    for name, found in comparison.results.items():
        print(written(CASES[name], found, RESULTS))


def _names(text: str) -> list[str]:
    """Cases, separated by commas."""
    names = text.split(",")
    if unknown := [name for name in names if name not in CASES]:
        raise argparse.ArgumentTypeError(
            f"{unknown[0]!r} is no case; there are: {', '.join(CASES)}"
        )
    return names


if __name__ == "__main__":
    main()
