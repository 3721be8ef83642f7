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


def main() -> int:
    words = [sys.executable, "-m", "pytest", str(HERE), *sys.argv[1:]]
    with tempfile.TemporaryDirectory() as folder:
        taken = Path(folder, "taken")
        taken.mkdir()
        running = []
        outputs = [Path(folder, f"output-{number}") for number in range(_parts())]
        for output in outputs:
            with output.open("w") as to:
                environment = {**os.environ, SHARED: str(taken)}
                running.append(
                    subprocess.Popen(words, env=environment, stdout=to, stderr=subprocess.STDOUT)
                )
        codes = [process.wait() for process in running]
        texts = [output.read_text() for output in outputs]
    print(*texts, sep="\n")
    print(together([text.splitlines()[-1] for text in texts]))
    return max(map(abs, codes))


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
