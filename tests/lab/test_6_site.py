"""The wheel alone, in an environment of its own, and a site that `init` made: on a real host."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.lab.conftest import INVENTORY, Deployed
from tests.lab.deploys import ROOT, deploy
from tests.packaging.conftest import Installed, built, installed, tree
from vllm_hosts.keys.places import state_folder
from vllm_hosts.project.inventory import load

__all__ = ["built", "installed", "tree"]


@pytest.fixture(scope="module")
def site(
    deployed: Deployed, installed: Installed, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A site with one of the lab's hosts, its settings and its store: it knows of no lab."""
    tmp_path = tmp_path_factory.mktemp("site")
    # Whatever tests before this one left there.
    assert deploy("--limit", "gpu1").code == 0
    done = installed.run(tmp_path, "vllm-hosts", "init", "my-site")
    assert done.returncode == 0, done.stdout
    folder = tmp_path / "my-site"
    lab = load(INVENTORY)
    host = json.loads(json.dumps(dict(lab.get_host_data("gpu1"))))
    (folder / "inventory" / "prod.py").unlink()
    (folder / "inventory" / "lab.py").write_text(f"gpu_hosts = [('gpu1', {host!r})]\n")
    settings = json.loads(json.dumps(dict(lab.get_group_data("lab"))))
    text = "".join(f"{name} = {value!r}\n" for name, value in settings.items())
    (folder / "group_data" / "gpu_hosts.py").write_text(text)
    # The host belongs to this store; with another it would be refused.
    shutil.copytree(state_folder(INVENTORY), state_folder(folder / "inventory" / "lab.py"))
    return folder


def test_a_dry_run_from_a_site_expects_no_change(installed: Installed, site: Path) -> None:
    """What the wheel would write is what the checkout wrote."""
    token = {"HF_TOKEN_OF_THE_LAB": os.environ["HF_TOKEN_OF_THE_LAB"]}
    words = ("pyinfra", "--dry", "inventory/lab.py", "deploy.py")
    run = installed.run(site, *words, **token)
    assert run.returncode == 0, run.stdout
    rows = [line for line in run.stdout.splitlines() if " | " in line]
    assert len(rows) > 20, run.stdout
    assert [row for row in rows if not row.rstrip().endswith(" -") or "gpu1" in row] == []


def test_drift_finds_the_site_from_any_folder(installed: Installed, site: Path) -> None:
    """The checkout that one stands in has a deploy.py, settings and keys too: none of it counts."""
    token = {"HF_TOKEN_OF_THE_LAB": os.environ["HF_TOKEN_OF_THE_LAB"]}
    run = installed.run(ROOT, "vllm-hosts", "drift", str(site / "inventory/lab.py"), **token)
    assert run.returncode == 0, run.stdout
    # The store knows gpu2 as well, which is not in this inventory; that is said first.
    assert run.stdout.splitlines()[-1] == "gpu1: nothing differs"


def test_another_site_s_deploy_is_refused(installed: Installed, site: Path) -> None:
    run = installed.run(ROOT, "pyinfra", "--dry", str(site / "inventory/lab.py"), "deploy.py")
    assert run.returncode == 2, run.stdout
    assert f"type cd {site} && pyinfra inventory/lab.py deploy.py" in run.stdout
