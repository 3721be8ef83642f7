"""A model on its way from a controller to a host: both are folders of the test, and the operation's
commands run here as on a host."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyinfra.api.command import FileUploadCommand, FunctionCommand, StringCommand

from tests.unit.model_files import safetensors
from tests.unit.test_tree_operation import apply
from vllm_hosts.errors import HostError
from vllm_hosts.facts import hub as facts
from vllm_hosts.facts.hub import CopyFound, ModelCopy
from vllm_hosts.host.manifest import brought
from vllm_hosts.host.paths import MANIFEST
from vllm_hosts.hub.hub_models import Copy
from vllm_hosts.hub.local import local_model
from vllm_hosts.operations import model_copy as operation
from vllm_hosts.operations import tree
from vllm_hosts.operations.model_copy import _compare, _send

WEIGHTS = safetensors(content=os.urandom(299_888))


class Cut(Exception):
    """The connection broke."""


class Site:
    """A controller's folder, and a host: both are folders of the test."""

    def __init__(self, folder: Path) -> None:
        self.source, self.target = folder / "source", folder / "srv/models/mine"
        self.notes = folder / "notes"
        (self.source / "sub").mkdir(parents=True)
        (self.source / "config.json").write_text("{}")
        (self.source / "empty.txt").write_text("")
        (self.source / "sub/model.safetensors").write_bytes(WEIGHTS)
        (self.source / "training.bin").write_bytes(b"pickle")
        (self.source / ".git").mkdir()
        (self.source / ".git/config").write_text("x")
        self.copy = Copy(str(self.source), str(self.target), False)
        self.sent = 0

    def look(self) -> CopyFound:
        command = ModelCopy().command(self.copy.target, self.copy.staging, self.copy.key)
        done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True)
        return ModelCopy().process(done.stdout.splitlines())

    def run(self, cut_after: int | None = None) -> int:
        """One run. Returns how many commands it needed; zero: nothing changed."""
        local = local_model(self.copy.source, allow_pickle=False)
        found = self.look()
        commands = (_send if found.present is None else _compare)(self.copy, local, found)
        count = 0
        self.sent = 0
        for command in commands:
            count += 1
            if isinstance(command, FileUploadCommand):
                if cut_after is not None and self.sent >= cut_after:
                    raise Cut
                assert not isinstance(command.src, str)
                content = command.src.read()
                assert isinstance(content, bytes)
                self.sent += len(content)
                Path(command.dest).write_bytes(content)
            elif not isinstance(command, FunctionCommand):
                assert isinstance(command, StringCommand)
                if "_stdin" in command.connector_arguments:
                    done = apply(command)
                else:
                    words = ["sh", "-c", command.get_raw_value()]
                    done = subprocess.run(words, capture_output=True, text=True, check=False)
                if done.returncode != 0:
                    raise HostError(done.stderr.strip().splitlines()[-1])
        return count


def made_site(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """For a fixture. Nothing is left of what is compared, whatever happened."""
    site = Site(folder)
    for module in (facts, operation):
        monkeypatch.setattr(module, "MODEL_NOTES", str(site.notes))
    for name in ("PREVIOUS", "DEPLOYED", "COPIES", "STAMPS"):
        monkeypatch.setattr(tree, name, f"{folder}/state/{name.lower()}")
    known = brought
    monkeypatch.setattr(
        operation,
        "brought",
        lambda *about: known(*about).replace(MANIFEST, str(folder / "manifest")),
    )
    monkeypatch.setattr(operation, "_PIECE", 100_000)
    monkeypatch.setattr(operation, "_RESERVE", 0)
    yield site
    assert not Path(f"{site.notes}/{site.copy.key}.new").exists()
