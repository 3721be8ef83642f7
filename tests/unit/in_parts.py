"""The unit tests with a pytest for each processor: ``python -m tests.unit.in_parts``.

pytest-xdist does not do: its workers wait for a thread that began before gevent, which pyinfra
brings, put its own locks in the place of Python's, and neither ever hears of the other.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from tests.unit.conftest import SHARED

HERE = Path(__file__).parent
#: More would mostly wait for each other.
MOST = 4
#: What takes longest begins first, so that nobody waits for one of these at the end: seconds of
#: processor time, from the most to the least, as they were measured.
LONG = (
    *("suite_shapes", "reach", "agents_cli", "drift", "ownership_runs", "top_cli", "doctor_look"),
    *("keys_cli", "hub_fetch", "ahead_deploy", "model_scanner", "edge_by_model", "ahead_ssh"),
    *("rehearsal_here", "mutants", "apt_script", "inventories_md", "model_copy"),
)


def main() -> int:
    words = [sys.executable, "-m", "pytest", *sys.argv[1:]]
    with tempfile.TemporaryDirectory() as folder:
        taken = Path(folder, "taken")
        taken.mkdir()
        running = []
        outputs = [Path(folder, f"output-{number}") for number in range(_parts())]
        for number, output in enumerate(outputs):
            with output.open("w") as to:
                environment = {**os.environ, SHARED: str(taken)}
                running.append(
                    subprocess.Popen(
                        [*words, *files(number)],
                        env=environment,
                        stdout=to,
                        stderr=subprocess.STDOUT,
                    )
                )
        codes = [process.wait() for process in running]
        texts = [output.read_text() for output in outputs]
    print(*texts, sep="\n")
    print(together([text.splitlines()[-1] for text in texts]))
    return max(map(abs, codes))


def files(number: int) -> list[str]:
    """All of them for each, as each takes what is left. Every second one begins at the other end:
    what one has compiled by then, in a fresh checkout, the other does not compile again."""
    first = [str(HERE / f"test_{name}.py") for name in LONG]
    others = sorted({str(path) for path in HERE.glob("test_*.py")} - {*first})
    return first + (others[::-1] if number % 2 else others)


def _parts() -> int:
    return min(len(os.sched_getaffinity(0)), MOST)


def together(last_lines: list[str]) -> str:
    """What pytests say at their ends, in one line."""
    counts: Counter[str] = Counter()
    for line in last_lines:
        for number, word in re.findall(r"(\d+) ([a-z]+)", line.partition(" in ")[0]):
            counts[word] += int(number)
    return "Together: " + ", ".join(f"{number} {word}" for word, number in counts.items())


if __name__ == "__main__":
    sys.exit(main())
