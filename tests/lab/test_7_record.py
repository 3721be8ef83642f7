"""What a deploy notes on its hosts: who changed what since, and which images agents used."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from lab import hosts as lab_hosts
from lab import layout
from lab.settings import AGENTS
from tests.lab.conftest import Deployed
from tests.lab.deploys import INVENTORY, ROOT, Run, changes, command, deploy
from tests.lab.test_7_operate import agents, containers, models, parsed

pytestmark = pytest.mark.nightly

COMPOSE = "/opt/vllm/compose.yaml"
RECORD, IMAGES = "/var/lib/vllm-hosts/deployed", "/var/lib/vllm-hosts/images"
NEXT = f"{layout.IMAGE}-next"
THEIRS = layout.IMAGE.replace("v0.32.0", "of-somebody")


def drift(settings: dict[str, Any] | None = None) -> tuple[int, dict[str, dict[str, Any]]]:
    """Exit code, and what differs on gpu1 by its path or name."""
    words = ("vllm-hosts", "drift", INVENTORY, "--json", "--host", "gpu1")
    run = command(*words, settings=settings)
    found = json.loads(run.output[run.output.index("{") :])["gpu1"]
    assert found["unknown"] == [], run.output
    return run.code, {item["what"]: item for item in found["drifted"]}


def longer() -> dict[str, Any]:
    changed = [dict(AGENTS[0], max_model_len=768), *AGENTS[1:]]
    return {"hosts": {"gpu1": {"agents": changed}}}


@pytest.fixture
def edited(deployed: Deployed) -> Iterator[str]:
    """compose.yaml of gpu1, changed by hand in one number, and with a key in a comment."""
    key = "hf_" + "LabEdit0" * 4
    before = lab_hosts.run("gpu1", f"cat {COMPOSE}").stdout
    assert '- "1024"' in before
    lab_hosts.run(
        "gpu1", f"""sed -i 's/- "1024"/- "896"/' {COMPOSE} && echo '# {key}' >>{COMPOSE}"""
    )
    yield key
    back = deploy("--limit", "gpu1")
    assert back.code == 0, back.output[-4000:]
    assert lab_hosts.run("gpu1", f"cat {COMPOSE}").stdout == before


def test_the_record_is_for_root_only_and_whole(deployed: Deployed) -> None:
    assert changes(deploy()) == {"gpu1": 0, "gpu2": 0}
    for path in (RECORD, IMAGES):
        assert lab_hosts.run("gpu1", f"stat -c '%a %U' {path}").stdout.strip() == "600 root"
    # Everything in it is on the host as it says, once for each path.
    lines = lab_hosts.run("gpu1", f"cat {RECORD}").stdout.splitlines()
    paths = [line.partition("  ")[2] for line in lines]
    assert len(set(paths)) == len(paths)
    assert {COMPOSE, "/opt/vllm/.env", "/etc/nginx/conf.d/vllm-hosts.conf"} <= set(paths)
    check = lab_hosts.run(
        "gpu1", f"grep -v '^-' {RECORD} | sha256sum --check --quiet --ignore-missing && echo good"
    )
    assert check.stdout.strip() == "good"
    copies = lab_hosts.run("gpu1", "cat $(find /var/lib/vllm-hosts/deployed-files -type f)").stdout
    assert deployed.leaks(copies) == []


def test_an_edit_is_shown_and_no_agent_restarts_with_it(deployed: Deployed, edited: str) -> None:
    before = containers("gpu1")
    run = agents("restart", "tiny", "--host", "gpu1")
    assert run.code == 1, run.output
    assert f"gpu1: {COMPOSE} is not what was deployed" in run.output
    assert '-      - "1024"' in run.output
    assert '+      - "896"' in run.output
    assert "--as-is" in run.output
    assert edited not in run.output
    assert containers("gpu1") == before
    code, found = drift()
    assert code == 3
    item = found[COMPOSE]
    assert (item["role"], item["cause"]) == ("vLLM", "host")
    assert {'-      - "896"', '+      - "1024"', "-# *MASKED*"} <= set(item["diff"])
    assert containers("gpu1") == before


def test_as_is_restarts_with_the_edit(deployed: Deployed, edited: str) -> None:
    run = agents("restart", "tiny", "--host", "gpu1", "--as-is")
    assert run.code == 0, run.output
    shown = lab_hosts.run("gpu1", "docker inspect --format '{{json .Config.Cmd}}' tiny").stdout
    assert '"896"' in shown


def test_settings_that_changed_are_told_from_an_edit(deployed: Deployed) -> None:
    code, found = drift(longer())
    assert code == 3
    assert found[COMPOSE]["cause"] == "settings"
    assert {'-      - "1024"', '+      - "768"'} <= set(found[COMPOSE]["diff"])


def test_both_changed(deployed: Deployed, edited: str) -> None:
    assert drift(longer())[1][COMPOSE]["cause"] == "both"


def test_a_file_that_compose_reads_too_is_seen_and_taken_away(deployed: Deployed) -> None:
    path = "/opt/vllm/compose.override.yaml"
    lab_hosts.run("gpu1", f"echo 'services: {{tiny: {{mem_limit: 9g}}}}' >{path}")
    run = agents("restart", "tiny", "--host", "gpu1")
    assert (run.code, "compose.override.yaml exists, which no deploy" in run.output) == (1, True)
    assert drift()[1][path] | {"diff": []} == {
        "role": "vLLM",
        "what": path,
        "how": "should not be there",
        "cause": "host",
        "diff": [],
    }
    assert deploy("--limit", "gpu1").code == 0
    assert lab_hosts.run("gpu1", f"ls /opt/vllm /var/lib/vllm-hosts/previous{path}").stdout
    assert drift()[0] == 0


def test_a_host_of_an_earlier_version(deployed: Deployed) -> None:
    """Without a record: it says so, and the next deploy changes nothing but that."""
    lab_hosts.run("gpu1", f"mv {RECORD} /run/record.before")
    assert drift()[0] == 0
    assert drift(longer())[1][COMPOSE]["cause"] == "unknown"
    before = containers("gpu1")
    assert changes(deploy("--limit", "gpu1")) == {"gpu1": 1}
    assert changes(deploy("--limit", "gpu1")) == {"gpu1": 0}
    assert containers("gpu1") == before
    assert drift(longer())[1][COMPOSE]["cause"] == "settings"
    lab_hosts.run("gpu1", "rm /run/record.before")


@pytest.fixture
def two_images(deployed: Deployed) -> Iterator[None]:
    """A next version on gpu1, and one that is somebody else's; both made there, of the first."""
    lab_hosts.run(
        "gpu1",
        f"id=$(docker create {layout.IMAGE}) &&"
        f" docker commit --change 'LABEL lab=next' $id {NEXT} &&"
        f" docker commit --change 'LABEL lab=theirs' $id {THEIRS} && docker rm $id",
        timeout=200,
    )
    yield
    back = deploy("--limit", "gpu1")
    lab_hosts.run("gpu1", f"docker image rm {NEXT} {THEIRS} || :")
    assert back.code == 0, back.output[-4000:]


def images(*words: str, settings: dict[str, Any] | None = None) -> Run:
    words = ("vllm-hosts", "images", INVENTORY, "--host", "gpu1", *words)
    return command(*words, settings=settings)


def states(settings: dict[str, Any] | None = None) -> dict[str, str]:
    return {row["image"]: row["state"] for row in parsed(images("--json", settings=settings))}


def test_an_upgrade_and_the_way_back(deployed: Deployed, two_images: None) -> None:
    assert states() == {layout.IMAGE: "in use", NEXT: "not ours", THEIRS: "not ours"}
    changed = {"vllm": {"image": NEXT}}
    upgrade = deploy("--limit", "gpu1", settings=changed)
    assert upgrade.code == 0, upgrade.output[-4000:]
    assert states(changed) == {NEXT: "in use", layout.IMAGE: "used before", THEIRS: "not ours"}
    # Nothing is removed of what a way back needs.
    assert "There is nothing to remove." in images("prune", "-y", settings=changed).output
    back = deploy("--limit", "gpu1")
    assert back.code == 0, back.output[-4000:]
    assert "pulling" not in back.output, "going back needs no download"
    assert states() == {layout.IMAGE: "in use", NEXT: "used before", THEIRS: "not ours"}
    before = containers("gpu1")
    refused = images("prune", "--keep", "0")
    assert (refused.code, "Add -y" in refused.output) == (2, True)
    pruned = images("prune", "--keep", "0", "-y")
    assert pruned.code == 0, pruned.output
    assert "freed on the disk" in pruned.output
    assert states() == {layout.IMAGE: "in use", THEIRS: "not ours"}
    assert containers("gpu1") == before
    assert models(deployed, "gpu1", "tiny") == 200


def commands_of(section: str) -> list[list[str]]:
    """The commands of a section of docs/upgrading.md, for the lab's first host."""
    text = (ROOT / "docs/upgrading.md").read_text().partition(f"## {section}\n")[2]
    body = text.partition("\n## ")[0]
    named = {"inventory/prod.py": INVENTORY, "gpu1.example.com": "gpu1"}
    lines = [line.split() for line in body.splitlines() if re.match("    (pyinfra|vllm-h)", line)]
    return [[named.get(word, word) for word in words] for words in lines]


def test_upgrading_md_as_written(deployed: Deployed, two_images: None) -> None:
    changed = {"vllm": {"image": NEXT}}
    for section, settings in {
        "vLLM: one host first": changed,
        "Going back": None,
        "Old images": None,
    }.items():
        found = commands_of(section)
        assert found
        for words in found:
            if words[0] == "pyinfra" and "--dry" not in words:
                words.insert(1, "-y")
            if words[1:] == ["-y", INVENTORY, "deploy.py"]:
                # gpu2 has no second image, and a registry that does not know it.
                words += ["--limit", "gpu1"]
            run = command(*words, settings=settings)
            differs = words[1] == "drift"
            assert run.code == (3 if differs else 0), (words, run.output[-4000:])
    assert states() == {layout.IMAGE: "in use", THEIRS: "not ours"}
