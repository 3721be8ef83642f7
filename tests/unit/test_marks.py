"""A deploy's commands say on the host that a deploy is at work; what only looks does not."""

from __future__ import annotations

import re
from pathlib import Path

from tests.unit.projects import Project

DEPLOY = """
from pyinfra.operations import server

server.shell(commands=["env >>{seen}"], name="what a command has")
"""


def test_every_command_of_a_deploy_has_when_it_began(tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.write("inventory/prod.py", 'gpu_hosts = [("@local", {"ssh_hostname": "192.0.2.1"})]\n')
    seen = tmp_path / "seen"
    project.write("probe.py", DEPLOY.format(seen=seen))
    assert project.run("pyinfra", "--dry", "inventory/prod.py", "probe.py").returncode == 0
    assert not seen.exists()
    done = project.run("pyinfra", "-y", "inventory/prod.py", "probe.py")
    assert done.returncode == 0, done.stdout
    found = re.search(r"^VLLM_HOSTS_DEPLOY=(.*)$", seen.read_text(), re.M)
    assert found is not None
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ", found[1])
