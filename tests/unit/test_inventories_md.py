"""docs/inventories.md: what it says to type does what it says, as far as no host is needed."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.stores import made
from tests.unit.projects import ROOT, Project
from vllm_hosts.keys import KeyStore
from vllm_hosts.project.inventory import load, validate


def section(title: str) -> str:
    text = (ROOT / "docs" / "inventories.md").read_text()
    return text.split(f"\n## {title}\n")[1].split("\n## ")[0]


def blocks(title: str) -> list[str]:
    """The indented blocks of a section, each as one script."""
    found = re.findall(r"(?:^ {4}\S.*\n)+", section(title), re.M)
    return ["".join(line[4:] + "\n" for line in block.splitlines()) for block in found]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    (tmp_path / "home/.ssh").mkdir(parents=True, mode=0o700)
    (tmp_path / "project").mkdir()
    project = Project(tmp_path / "project")
    key(tmp_path / "home/.ssh/id_ed25519")
    project.environment = {"HOME": str(tmp_path / "home")}
    project.write("inventory/prod.py", "gpu_hosts = ['gpu1.example.com', 'gpu2.example.com']\n")
    made(KeyStore(project.folder / "inventory/prod.py"))
    return project


def key(path: Path) -> None:
    words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", path.name, "-f", str(path)]
    subprocess.run(words, check=True)


def typed(project: Project, script: str, folder: Path | None = None) -> str:
    done = project.shell(script, folder)
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.parametrize("encrypted", [False, True])
def test_renaming(project: Project, encrypted: bool) -> None:
    before = KeyStore(project.folder / "inventory/prod.py").read()
    if encrypted:
        typed(project, "vllm-hosts keys init inventory/prod.py")
    plain, further = blocks("Renaming an inventory")
    typed(project, plain + further if encrypted else plain)
    assert "default" in typed(project, "vllm-hosts keys list inventory/live.py")
    store = KeyStore(
        project.folder / "inventory/live.py", Path(project.environment["HOME"], ".ssh/id_ed25519")
    )
    assert (store.encrypted, store.read().id) == (encrypted, before.id)


def test_staging(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    copying, checking = blocks("A second inventory beside the first")
    typed(project, copying)
    text = section("A second inventory beside the first")
    [example] = re.findall(r"```python\n(.*?)```", text, re.S)
    project.write("inventory/staging.py", "gpu_hosts = ['gpu9.example.com']\n")
    project.write("group_data/staging.py", example)
    assert "next" in typed(project, checking.splitlines()[0])
    monkeypatch.chdir(project.folder)
    [staging] = validate(load(Path("inventory/staging.py"))).values()
    assert ([agent.name for agent in staging.agents], staging.edge_names) == (
        ["next"],
        ("staging.example.com",),
    )
    assert {
        agent.name
        for host in validate(load(Path("inventory/prod.py"))).values()
        for agent in host.agents
    } == {"one"}


def test_a_second_admin(project: Project, tmp_path: Path) -> None:
    key(tmp_path / "bob")
    (project.folder / "bob.pub").write_text((tmp_path / "bob.pub").read_text())
    first, second, _ = blocks("Handing over to a second admin")
    who = "export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@a GIT_COMMITTER_NAME=a"
    typed(
        project,
        f"{who} GIT_COMMITTER_EMAIL=a@a\ngit init -q\ngit add inventory/prod.py group_data\n"
        + first.replace("git push\n", ""),
    )
    clone = tmp_path / "clone"
    typed(project, f"git clone -q {project.folder} {clone}")
    project.environment["VLLM_HOSTS_IDENTITY"] = str(tmp_path / "bob")
    assert "default" in typed(project, second.splitlines()[0], clone)
    project.environment["VLLM_HOSTS_IDENTITY"] = ""
    assert not (clone / "inventory/.vllm-hosts").exists()
