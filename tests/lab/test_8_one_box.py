"""H30: a host that deploys to itself, as README's "Everything on one machine" has it."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator
from shlex import quote

import pytest

from lab import controller, layout
from lab import hosts as lab_hosts
from lab.settings import AGENTS, settings
from tests.lab.at_terminal import at_terminal
from tests.lab.conftest import Deployed
from tests.lab.deploys import ROOT, Run, deploy

pytestmark = pytest.mark.nightly

HOST = "gpu2"
BLIND = {"NET-08", "NET-09", "NET-10", "NET-11", "NET-12"}


@pytest.fixture(scope="module")
def given_back(deployed: Deployed) -> Iterator[None]:
    """gpu2 as it was, after all of these tests."""
    yield
    lab_hosts.reset([HOST])
    run = deploy("--limit", HOST)
    assert run.code == 0, run.output[-4000:]


@pytest.fixture(scope="module", params=[layout.PASSWORD_USER, "root"])
def box(request: pytest.FixtureRequest, given_back: None) -> Box:
    """gpu2, fresh, with the project in the home of a user."""
    lab_hosts.reset([HOST])
    return Box(request.param, controller.make(HOST, request.param))


def of_readme() -> str:
    """What README's section has to be typed."""
    text = (ROOT / "README.md").read_text()
    section = text.partition("### Everything on one machine")[2].partition("\n### ")[0]
    return textwrap.dedent(
        "\n".join(line for line in section.splitlines() if line.startswith("    "))
    )


class Box:
    """Somebody logged in at that machine."""

    def __init__(self, user: str, folder: str) -> None:
        self.user, self.folder = user, folder
        inventory = of_readme().partition("vllm-hosts check")[0]
        inventory = inventory.replace("192.0.2.7", str(lab_hosts.host(HOST).ipv4))
        if user == "root":
            inventory = inventory.replace(', "_sudo": True', "")
        # The lab's archives and its model.
        lab = settings() | {"agents": AGENTS[:1]}
        # Its model is on the host, and nobody exports a token there.
        lab.pop("secrets", None)
        path = lab_hosts.root(HOST) / f"{folder}/inventory/prod.py".lstrip("/")
        path.write_text(f"{inventory}\nlab = (['@local'], {lab!r})\n")
        (path.parent.parent / "group_data/gpu_hosts.py").unlink()

    def run(self, command: str) -> Run:
        """A command of README's, typed there. Who has to give a password gives it once."""
        run, asked = at_terminal(
            HOST,
            self.user,
            f"cd {quote(self.folder)} && . .venv/bin/activate &&"
            f" PYINFRA_PROGRESS=off LC_ALL=C.UTF-8 {command}",
            asked="sudo password of",
            answer=layout.PASSWORD,
        )
        expected = self.user == layout.PASSWORD_USER and "vllm-hosts check" not in command
        assert asked == expected, run.output[-3000:]
        assert layout.PASSWORD not in run.output
        return run


def test_everything_on_one_machine(box: Box) -> None:
    check, deploy_it, verify = of_readme().splitlines()[-3:]
    assert box.run(check).code == 0
    first = box.run(deploy_it)
    assert first.code == 0, first.output[-6000:]
    second = box.run(deploy_it)
    assert second.code == 0, second.output[-6000:]
    none = r"^ +\[@local\] +0 changed, [0-9]{2} unchanged$"
    assert re.search(none, second.output, re.M), second.output[-6000:]
    drift = box.run("vllm-hosts drift inventory/prod.py")
    assert (drift.code, "@local: nothing differs" in drift.output) == (0, True), drift.output[
        -3000:
    ]
    assert box.run("vllm-hosts doctor inventory/prod.py").code == 0
    keys = box.run("pyinfra -y inventory/prod.py keys.py")
    assert keys.code == 0, keys.output[-3000:]
    skipped = " ".join(f"--skip {promise}" for promise in sorted(BLIND))
    left_out = box.run(f"{verify} {skipped}")
    assert left_out.code == 0, left_out.output[-5000:]
    seen_from_elsewhere(box.run(verify))


def seen_from_elsewhere(found: Run) -> None:
    """What cannot be seen from there is said to be not checked, with the way that does see it."""
    assert found.code == 1
    assert "broken" not in found.output, found.output[-5000:]
    assert "5 promises not checked on @local" in found.output, found.output[-5000:]
    assert "5 not checked" in found.output
    flat = " ".join(found.output.split())
    way = re.search(r"ssh OTHER (python3 - '[^']+' < vllm_hosts/verify/outside/scan\.py)", flat)
    assert way is not None, flat[-3000:]
    # From the neighbour, which has the file that ssh would send it.
    scan = ROOT / "vllm_hosts/verify/outside/scan.py"
    there = lab_hosts.root(layout.NEIGHBOUR.name) / "root/scan.py"
    there.write_text(scan.read_text())
    look = way[1].replace("vllm_hosts/verify/outside/scan.py", "/root/scan.py")
    seen = json.loads(lab_hosts.run(layout.NEIGHBOUR.name, look, timeout=120).stdout)
    there.unlink()
    assert {tuple(one["tcp"]) for one in seen} == {(80, 443)}
    assert {tuple(one["udp"]) for one in seen} == {()}
