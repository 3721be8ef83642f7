"""Many hosts and nothing to change: ``python -m bench.scale [HOSTS ...]``.

pyinfra's own command runs deploy.py, on hosts that answer from recorded looks after a delay: what a
run costs the controller, but for the encryption of its connections, and for reading what hosts
print. Those are measured on the lab's hosts.
"""

from __future__ import annotations

# isort: off
# First: gevent replaces what others import.
import pyinfra_cli  # noqa: F401

# isort: on
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench.figures import Measured, plot, table
from bench.site import PROD, ROOT, Fleet, made

RESULTS = ROOT / "bench/results"
COUNTS = (10, 100, 1000)
#: Seconds of a round trip.
DELAY = 0.02
_BIN = Path(sys.executable).parent


def run(fleet: Fleet, delay: float) -> dict[str, Any]:
    """What one run needed."""
    figures = fleet.folder / "figures.json"
    words = [str(fleet.recorded), str(delay), str(figures), "-y", PROD, "deploy.py"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYINFRA_PROGRESS": "off"}
    done = subprocess.run(
        [sys.executable, "-m", "bench.recorded", *words],
        cwd=fleet.folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode or f"] {0} changed" not in done.stderr + done.stdout:
        raise RuntimeError(done.stdout[-2000:] + done.stderr[-2000:])
    found: dict[str, Any] = json.loads(figures.read_text())
    return found


def checked(fleet: Fleet) -> tuple[float, float]:
    """Seconds of ``vllm-hosts check``, on the clock and of the processor."""
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run(
        [str(_BIN / "vllm-hosts"), "check", PROD], cwd=fleet.folder, stdout=-3, check=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.monotonic() - begun, used


def executions(found: dict[str, Any], hosts: int) -> float:
    """Executions over SSH of each host."""
    kinds = ("lock", "looks ahead", "fact")
    counted: dict[str, int] = found["count"]
    return sum(counted.get(kind, 0) for kind in kinds) / hosts


def main() -> None:
    """Measure, print as it goes, and write the table and the plot."""
    counts = tuple(map(int, sys.argv[1:])) or COUNTS
    rows, further, before = [], {}, None
    for hosts in counts:
        with TemporaryDirectory(prefix="vllm-hosts-bench-") as folder:
            fleet = made(Path(folder), hosts)
            found, (wall, cpu) = run(fleet, DELAY), checked(fleet)
        each = ""
        if before:
            added = (found["cpu"] - before[1]["cpu"]) / (hosts - before[0])
            further[f"{hosts} hosts"] = Measured((1000 * added,))
            each = f"{1000 * added:.0f} ms"
        before = (hosts, found)
        rows.append(
            [
                hosts,
                f"{found['wall']:.1f} s",
                f"{found['cpu']:.1f} s",
                f"{max(0.0, found['waits'] - found['queued']):.1f} s",
                f"{found['queued']:.1f} s",
                each,
                f"{found['rss'] / 1e6:.0f} MB",
                f"{executions(found, hosts):.1f}",
                f"{wall:.1f} s ({cpu:.1f} s of the processor)",
            ]
        )
        print(*rows[-1], sep="  ", flush=True)
    heading = [
        "hosts",
        "wall",
        "CPU",
        "waits for hosts",
        "waits for a processor",
        "CPU of a further host",
        "peak memory",
        "executions of a host",
    ]
    text = table([*heading, "vllm-hosts check"], rows)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "scale.md").write_text(text)
    if further:
        drawn = plot("CPU of a further host, nothing to change", "ms", {"up to": further})
        (RESULTS / "scale.svg").write_text(drawn)
    print(text)


if __name__ == "__main__":
    main()
