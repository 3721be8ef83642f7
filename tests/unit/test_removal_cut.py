"""A removal whose last step was cut off, at each of its commands: the next one comes to its end."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit import test_removal_steps
from tests.unit.operation_steps import Steps
from tests.unit.test_remains_letter import Machine
from vllm_hosts.host import paths
from vllm_hosts.host.manifest import LISTS
from vllm_hosts.operations import removal

OURS = ("/etc/vllm-hosts", paths.STATE, paths.UNDO)
RUN = (".abc123", "-look.12.abc123", "-verify.abcd1234", "-rehearsal.0123")
#: Ends the script in the middle of one of its calls: some of the files are gone by then.
CUT = """
call=$(cat calls); echo $((call + 1)) >calls
if [ "$call" = "$(cat cut)" ]; then
    for path; do
        [ ! -d "$path" ] || find "$path" -type f | sort | sed -n "$(cat gone)" | xargs -r /bin/rm
    done
    kill -9 $PPID; exit 1
fi
"""


class Removed(Machine):
    """A machine with our records, of which the last step takes leave."""

    def __init__(self, folder: Path, script: str) -> None:
        super().__init__(folder)
        self.script = script
        for path in ("/etc/vllm-hosts", paths.STATE, "/run/vllm-hosts"):
            self.script = self.script.replace(path, f"{folder}{path}")
        for name in LISTS:
            self.write(f"{paths.BEFORE[1:]}/{name}", f"{name}-1\n")
        for path in (paths.MANIFEST, paths.HISTORY, f"{paths.UNDO}/firewall/undone"):
            self.write(path[1:], "")
        self.write("etc/vllm-hosts/store", "mark")
        for name in RUN:
            self.write(f"run/vllm-hosts{name}/key", "secret")
        for name in ("rm", "mv"):
            # The programs of a host are in a folder of this machine's.
            self.program(name, f'{CUT}exec /bin/{name} "$@"')

    def cut(self, call: int, gone: str) -> int:
        """Run it, and end it at a call of rm or mv that has removed these lines of the files."""
        self.write("calls", "0")
        self.write("cut", str(call))
        self.write("gone", gone)
        return int(self.here.run(self.script).rc)

    def left(self) -> list[str]:
        return sorted(
            str(path.relative_to(self.folder))
            for top in ("etc/vllm-hosts", "var", "run")
            for path in (self.folder / top).rglob("*")
            if path.is_file()
        )


@pytest.mark.parametrize("gone", ["1d", "1p", "p"])
@pytest.mark.parametrize("call", range(5))
def test_cut_off_it_is_finished_by_the_next_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, call: int, gone: str
) -> None:
    steps = Steps(removal, monkeypatch, {"TreeState": test_removal_steps.at(*OURS)})
    [script] = steps.run(removal.forgotten, test_removal_steps.TestForgotten().claim(None), list)
    host = Removed(tmp_path, script)
    assert host.cut(call, gone) != 0
    # Of what was before us, there is all or nothing; a look that fails would end each later run.
    before = host.look().manifest.before
    assert before is None or before.groups == {"groups-1"}
    assert host.cut(99, gone) == 0
    assert host.left() == ["run/vllm-hosts.lock.removed"]
    assert not (tmp_path / paths.STATE[1:]).exists()
