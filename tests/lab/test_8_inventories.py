"""Inventories that are copied and renamed, and hosts that are taken out of one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from lab import hosts as lab_hosts
from tests.lab.conftest import INVENTORY, Deployed
from tests.lab.deploys import ROOT, Run, changes, command, deploy
from tests.lab.test_8_keys import models
from vllm_hosts.keys import KeyStore

pytestmark = pytest.mark.nightly

LAB = "inventory/lab.py"
COPY = "inventory/lab-copy.py"
MARK = "/etc/vllm-hosts/store"
STATES = ROOT / "inventory" / ".vllm-hosts"


@pytest.fixture
def copy(deployed: Deployed) -> Iterator[Path]:
    """A copy of the lab's inventory. Afterwards the hosts are the lab's again."""
    path = ROOT / COPY
    shutil.copy(ROOT / LAB, path)
    yield path
    path.unlink(missing_ok=True)
    shutil.rmtree(STATES / path.stem, ignore_errors=True)
    run = deploy()
    assert run.code == 0, run.output[-4000:]


def marks() -> dict[str, str]:
    return {host: lab_hosts.run(host, f"cat {MARK}").stdout for host in ("gpu1", "gpu2")}


def work(deployed: Deployed) -> bool:
    """Whether the lab's client is let in by both hosts, with the CA that it has."""
    found: list[requests.Response] = [
        models(deployed, host, deployed.client_key) for host in ("gpu1", "gpu2")
    ]
    return [answer.status_code for answer in found] == [200, 200]


def copied(*words: str, file: str = "deploy.py") -> Run:
    return command("pyinfra", *words, COPY, file)


def test_a_copied_inventory_locks_nobody_out(deployed: Deployed, copy: Path) -> None:
    """O1."""
    before = marks()
    agents = lab_hosts.run("gpu1", "docker inspect --format '{{.State.Pid}}' tiny").stdout
    for run in (copied("--dry"), copied("-y"), copied("-y", file="keys.py")):
        assert f"deploy it with {LAB}" in run.output, run.output[-4000:]
        assert not (STATES / copy.stem).exists()
    assert copied("-y").code == copied("-y", file="keys.py").code == 1
    assert marks() == before
    assert lab_hosts.run("gpu1", "docker inspect --format '{{.State.Pid}}' tiny").stdout == agents
    assert work(deployed)


def test_a_renamed_inventory_takes_its_store_along(deployed: Deployed, copy: Path) -> None:
    # Copied, so that whatever happens the lab's own is there.
    shutil.copytree(STATES / "lab", STATES / copy.stem)
    run = copied("-y")
    assert run.code == 0, run.output[-4000:]
    assert changes(run) == {"gpu1": 1, "gpu2": 1}
    assert all(f"inventory {copy.stem}\n" in mark for mark in marks().values())
    assert work(deployed)


def test_a_host_of_an_earlier_version_is_known_by_its_keys(deployed: Deployed, copy: Path) -> None:
    before = marks()
    lab_hosts.run("gpu2", f"rm {MARK}")
    run = copied("-y", "--limit", "gpu2")
    assert run.code == 1
    assert f"deploy it with {LAB}" in run.output
    assert lab_hosts.run("gpu2", f"test -e {MARK}", check=False).returncode == 1
    run = deploy("--limit", "gpu2")
    assert (run.code, changes(run)) == (0, {"gpu2": 1}), run.output[-4000:]
    assert marks() == before


def test_a_store_is_made_by_no_run_that_is_refused_in_part(deployed: Deployed, copy: Path) -> None:
    """gpu2 is fresh: it waits, since a new store would be in the old one's way."""
    lab_hosts.reset(["gpu2"])
    run = copied("-y")
    assert run.code == 1
    assert "[gpu2]" in run.of_host("gpu2")
    assert "left alone, since this inventory has no key store yet" in run.of_host("gpu2")
    assert not (STATES / copy.stem).exists()
    assert lab_hosts.run("gpu2", f"test -e {MARK}", check=False).returncode == 1


def test_a_host_that_is_taken_out_still_loses_revoked_keys(deployed: Deployed, copy: Path) -> None:
    """O4."""
    shutil.copytree(STATES / "lab", STATES / copy.stem)
    assert command("vllm-hosts", "keys", "add", COPY, "mallory").code == 0
    assert copied("-y", file="keys.py").code == 0
    mallory = KeyStore(copy).client_key("mallory")
    assert models(deployed, "gpu2", mallory).status_code == 200
    text = (ROOT / LAB).read_text()
    copy.write_text(text.replace("neighbours =", "gpu_hosts = gpu_hosts[:1]\nneighbours ="))
    assert copy.read_text() != text
    revoked = command("vllm-hosts", "keys", "revoke", COPY, "mallory")
    assert "gpu2 is no longer in inventory/lab-copy.py" in revoked.output
    assert "gpu1, gpu2: takes effect with" in revoked.output
    run = copied("-y", file="keys.py")
    assert run.code == 0, run.output[-4000:]
    assert {models(deployed, host, mallory).status_code for host in ("gpu1", "gpu2")} == {401}
    assert work(deployed)
    assert command("vllm-hosts", "hosts", "release", COPY, "gpu2").code == 0
    assert "[gpu2]" not in copied("-y", file="keys.py").output
    assert "gpu2" not in command("vllm-hosts", "hosts", "list", COPY).output


def test_adoption_and_back(deployed: Deployed, copy: Path) -> None:
    assert command("vllm-hosts", "hosts", "adopt", "--yes", COPY, "gpu2").code == 0
    run = deploy("--limit", "gpu2")
    assert run.code == 1
    assert COPY in run.output
    # Until it is deployed to, its clients notice nothing.
    assert work(deployed)
    assert command("vllm-hosts", "hosts", "adopt", "--yes", LAB, "gpu2").code == 0
    own = KeyStore(INVENTORY).read().id
    assert own is not None
    assert own in marks()["gpu2"]
