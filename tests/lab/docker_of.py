"""The Docker of a lab's host as if it were this machine's, which has none.

python -m tests.lab.docker_of HOST WORD...    (folders that are mounted are copied there first)
"""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from pathlib import Path

from lab import hosts as lab_hosts

_SOURCE = re.compile(r"(type=bind,source=)([^,]+)(,.*)")
#: On the host.
_COPIES = "/srv/asked-here"


def main() -> None:
    """Run one command of Docker's there, with what comes on standard input."""
    host, *words = sys.argv[1:]
    given: list[str] = []
    for number, word in enumerate(words):
        if found := _SOURCE.fullmatch(word):
            copy = f"{_COPIES}/{number}"
            target = Path(f"{lab_hosts.root(host)}{copy}")
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(found[2], target, symlinks=True)
            word = f"{found[1]}{copy}{found[3]}"
        given.append(word)
    said = "" if words[:1] != ["run"] else sys.stdin.read()
    done = lab_hosts.run(host, shlex.join(["docker", *given]), check=False, timeout=300, given=said)
    sys.stdout.write(done.stdout)
    sys.stderr.write(done.stderr)
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
