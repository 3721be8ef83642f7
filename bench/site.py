"""A site with many hosts that were deployed to, and what each of them answers."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.unit import recorded_looks as looks
from tests.unit.model_files import safetensors
from tests.unit.recorded_host import Host
from tests.unit.recording import Recorder, deploy_py
from tests.unit.samples import CODER, QWEN
from vllm_hosts.facts import asked
from vllm_hosts.keys import KeyStore
from vllm_hosts.project.loaded import Project

ROOT = Path(__file__).resolve().parents[1]
#: What hosts have in common: every role has something to look at.
GROUP: dict[str, Any] = {
    "agents": [QWEN, CODER | {"copy_from": "models/coder"}],
    "nvidia": {"driver": "install"},
    "ssh_hardening": {"enabled": True},
    "edge": {"names": ["llm.example.com"]},
}
PROD = "inventory/prod.py"


@dataclass(frozen=True)
class Fleet:
    """A site's folder, with this many hosts."""

    folder: Path
    hosts: int

    @property
    def names(self) -> list[str]:
        return [f"gpu{number:04}.example.com" for number in range(self.hosts)]

    @property
    def recorded(self) -> Path:
        return self.folder / "recorded.pickle"


def made(folder: Path, hosts: int) -> Fleet:
    """A site whose hosts have everything already, below a folder of its own.

    All of them have the same internal key, so that what one deploy wrote is on each of them.
    """
    fleet = Fleet(folder, hosts)
    for name in ("deploy.py", "config.py"):
        (folder / name).symlink_to(ROOT / name)
    known = str(folder / "known_hosts")
    listed = [
        (name, {"ssh_hostname": f"10.7.{n // 250}.{n % 250 + 1}", "ssh_known_hosts_file": known})
        for n, name in enumerate(fleet.names)
    ]
    files: dict[str, str | bytes] = {
        PROD: f"gpu_hosts = {listed!r}\n",
        "group_data/gpu_hosts.py": "".join(f"{key} = {value!r}\n" for key, value in GROUP.items()),
        "known_hosts": "",
        "models/coder/config.json": looks.CONFIG,
        "models/coder/model.safetensors": safetensors(),
    }
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(text.encode() if isinstance(text, str) else text)
    project = Project.load(folder / PROD)
    first = fleet.names[0]
    settings = project.settings[first]
    recorder = Recorder(folder, Host(settings, looks.FRESH, looks.AFTER, offered=looks.OFFERED))
    for _ in range(2):
        done = recorder.run(deploy_py)
        if done.failed or done.refused:
            raise AssertionError([*done.said, *done.refused])
    if done.changed:
        raise AssertionError(done.changed)
    _as_many(fleet, project)
    fleet.recorded.write_bytes(pickle.dumps(recorder.host))
    return fleet


def _as_many(fleet: Fleet, project: Project) -> None:
    """What the first host has in the store and in the list of questions, every host has."""
    first = fleet.names[0]
    way = {name: project.claim(name).way for name in fleet.names}

    def change(content: Any) -> Any:
        key = content.internal[first]
        return content.model_copy(
            update={"hosts": way, "internal": dict.fromkeys(fleet.names, key)}
        )

    store = KeyStore(fleet.folder / PROD)
    store.update(change)
    kept = asked.read(fleet.folder / "inventory" / asked.FILE)
    many = {run: dict.fromkeys(fleet.names, hosts[first]) for run, hosts in kept.items()}
    asked.write(store.folder / asked.FILE, many)
