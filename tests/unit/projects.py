"""Projects as users write them, in a folder of a test: an inventory and its group data."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import gettempdir

from tests.terminal import Terminal
from tests.unit.started import BIN, Begun, programs, starter

__all__ = ["AGENT", "BIN", "ROOT", "SMI", "Project"]

ROOT = Path(__file__).resolve().parents[2]
#: What nvidia-smi says of a 16 GB card.
SMI = "0, NVIDIA GeForce RTX 4080, GPU-0, 16376, 590.48.01, 8.9, [N/A], Disabled"
AGENT = {"name": "one", "model": "org/model", "port": 8001}
#: For every command: no surprises of this terminal's, what was compiled once is found again, and
#: the pytest of `vllm-hosts verify` does not import hypothesis, which users do not have.
_ENVIRONMENT = {
    "PYINFRA_PROGRESS": "off",
    "COLUMNS": "200",
    "PYTHONDONTWRITEBYTECODE": "",
    "PYTEST_ADDOPTS": "-p no:hypothesispytest",
}


def own_lock(folder: Path) -> str:
    """Lines of an inventory for this machine as a host: what runs hold and note there is in a
    folder of the test, and they see no other test's."""
    mark = f"VLLM_HOSTS_DEPLOY_{os.getpid()}_{folder.name.replace('-', '_')}"
    return (
        "from vllm_hosts.connect import lock as _lock\n"
        "from vllm_hosts.host import marks as _marks\n"
        f"_marks.LOCK, _marks.HISTORY = {str(folder / 'lock')!r}, {str(folder / 'history')!r}\n"
        f"_marks.UNDO, _marks.DEPLOYED = {str(folder / 'undo')!r}, {str(folder / 'deployed')!r}\n"
        f"_lock.UNCONFIRMED = {str(folder / 'unconfirmed')!r}\n"
        f"_marks.DEPLOY_SINCE = _lock.DEPLOY_SINCE = {mark!r}\n"
    )


@dataclass
class Project:
    """A folder that works like a checkout: the same deploy.py and config.py, its own settings."""

    folder: Path
    address: str = "192.0.2.1"
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Models are looked at as another user, who has to get there.
        for parent in (self.folder, *self.folder.parents):
            if parent.stat().st_uid == os.getuid() and parent.parent.is_relative_to(gettempdir()):
                parent.chmod(parent.stat().st_mode | 0o011)
        for name in ("deploy.py", "config.py"):
            (self.folder / name).symlink_to(ROOT / name)
        self.write("inventory/prod.py", f"gpu_hosts = [{self.address!r}]\n")
        self.write("group_data/gpu_hosts.py", f"agents = [{AGENT!r}]\n")

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def group(self, **data: object) -> None:
        """What group_data/gpu_hosts.py sets."""
        lines = [f"{name} = {value!r}\n" for name, value in {"agents": [AGENT], **data}.items()]
        self.write("group_data/gpu_hosts.py", "".join(lines))

    def run(
        self, *words: str, apart: bool = False, typed: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """One of the toolkit's commands, in this folder; with ``apart``, errors are no output."""
        [done] = self.run_at_once(words, apart=apart, typed=typed)
        return done

    def begin(self, *words: str, apart: bool = False) -> Begun:
        """One that goes on while the test does."""
        return starter.begin(*words, folder=self.folder, environment=self._all(), apart=apart)

    def terminal(self, *words: str) -> Terminal:
        """One in a terminal of its own."""

        def begin(
            words: list[str], folder: Path, environment: Mapping[str, str], terminal: int
        ) -> Begun:
            return starter.begin(*words, folder=folder, environment=environment, terminal=terminal)

        return Terminal([*words], self.folder, {**os.environ, **self.environment}, begin)

    def shell(self, script: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
        """A script that calls them as people type them; it ends with the first that fails."""
        path = f"{programs(self.folder.parent / 'typed')}:{self._all()['PATH']}"
        return subprocess.run(
            ["bash", "-e", "-c", script],
            cwd=folder or self.folder,
            env={**self._all(), "PATH": path},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=120,
        )

    def run_at_once(
        self,
        *commands: Sequence[str],
        timeout: float = 60,
        killed: bool = False,
        apart: bool = False,
        typed: str = "",
    ) -> list[subprocess.CompletedProcess[str]]:
        """Several of them at the same time; with ``killed`` until they end or time is up."""
        return starter.run(
            *commands,
            folder=self.folder,
            environment=self._all(),
            timeout=timeout,
            killed=killed,
            apart=apart,
            typed=typed,
        )

    def _all(self) -> dict[str, str]:
        return {**os.environ, **_ENVIRONMENT, **self.environment}

    def patched(self, *lines: str) -> str:
        """A program like ``vllm-hosts`` that does this before it begins."""
        path = self.folder.parent / "patched.py"
        path.write_text("\n".join([*lines, "from vllm_hosts.cli.main import main", "main()", ""]))
        return str(path)

    def check(self) -> subprocess.CompletedProcess[str]:
        return self.run("vllm-hosts", "check", "inventory/prod.py")
