"""Memory of cards that others use: who they are, when vLLM stops for it, and where that is said."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.unit.projects import AGENT, SMI, Project
from tests.unit.recording import InLine
from tests.unit.test_plan_cli import PROD, SMALL, copy
from tests.unit.test_rehearsal import agent
from tests.unit.test_role_rehearsal import changed, fail_at
from vllm_hosts.capacity.others import held
from vllm_hosts.errors import HostError
from vllm_hosts.host.nvidia_apps import APPS, Holder, read
from vllm_hosts.host.nvidia_smi import Gpu
from vllm_hosts.rehearsal.fact import Rehearsals
from vllm_hosts.roles.preflight import preflight
from vllm_hosts.roles.rehearsal import rehearsal
from vllm_hosts.roles.vllm import vllm

RECORDED = (Path(__file__).parent / "data/nvidia-apps/h200.txt").read_text().splitlines()
UUID = "GPU-838d772b-671d-ca58-2658-c462b7f06b5a"
CARD = Gpu(0, "NVIDIA H200", UUID, 143771)
#: What CUDA reported beside them to one more process, in MiB.
FREE, TOTAL = 136985.5625, 143155.9375
OURS, OTHER = "a" * 64, "b" * 64


NAMED = [*RECORDED, "name 466 python3", "name 484 python3"]


def test_a_real_card_s_list_is_read() -> None:
    assert read(NAMED) == (
        Holder(466, 5638, UUID, "python3"),
        Holder(484, 518, UUID, "python3"),
    )
    assert {one.name for one in read(RECORDED)} == {"a program"}
    first, second = read([*RECORDED, "of 466 ours"])
    assert (first.ours, second.ours) == (True, False)
    assert [one.pid for one in read([*RECORDED, "of 466 gone"])] == [484]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("7, [N/A], GPU-1", [Holder(7, None, "GPU-1", "run a")]),
        ("7, [Insufficient Permissions], GPU-1", [Holder(7, None, "GPU-1", "run a")]),
        ("7, 12, GPU-\x1b[31m1", [Holder(7, 12, "GPU-1", "run a")]),
        ("8, 12, GPU-1", [Holder(8, 12, "GPU-1", "a program")]),
        ("7, 12, GPU-1, 7", []),
        ("0, 12, GPU-1", []),
        ("x, 12, GPU-1", []),
        ("No running processes found", []),
        ("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.", []),
    ],
)
def test_other_lines(line: str, found: list[Holder]) -> None:
    assert [*read([line, "exit 0", "name 7 run \x1b[31ma"])] == found


def test_an_answer_without_an_end_is_none() -> None:
    assert read([]) == ()
    with pytest.raises(ValueError, match="no exit code"):
        read(RECORDED[:2])


def test_an_agent_s_process_is_known_by_its_control_group(tmp_path: Path) -> None:
    """The shell lines for real: 466 is in a container of ours, 484 in another one, 485 in none."""
    smi = [*RECORDED[:2], f"485, 7, {UUID}", f"486, 7, {UUID}"]
    smi += ["of 485 ours", "== image", "sha256:1", f"1, 2, {UUID}, name", "exit 7 x"]
    for name, text in (
        ("nvidia-smi", "cat <<E\n" + "\n".join(smi) + "\nE\n"),
        ("docker", f"echo {OURS}\n"),
    ):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}")
        (tmp_path / name).chmod(0o755)
    # A process can have any name: line ends, what echo makes line ends of, and no text at all.
    for pid, group, called in (
        (466, f"0::/system.slice/docker-{OURS}.scope", b"python3\n"),
        (484, f"0::/system.slice/docker-{OTHER}.scope", b"x\nof 484 ours\n\n"),
        (485, "0::/user.slice", b"x\\nof 485 ours\xff\n"),
    ):
        (tmp_path / "proc" / str(pid)).mkdir(parents=True)
        (tmp_path / "proc" / str(pid) / "cgroup").write_text(f"{group}\n")
        (tmp_path / "proc" / str(pid) / "comm").write_bytes(called)
    script = APPS.replace("/proc/", f"{tmp_path}/proc/")
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["sh", "-c", script],
        env=environment,
        capture_output=True,
        check=True,
    )
    said = done.stdout.decode(errors="replace")
    assert "==" not in said and done.stderr == b""
    found = {one.pid: (one.ours, one.name) for one in read(said.split("\n"))}
    assert found == {
        466: (True, "python3"),
        484: (False, "x"),
        485: (False, "x\\nof 485 ours\ufffd"),
    }
    (tmp_path / "nvidia-smi").unlink()
    bare = subprocess.run(
        ["/bin/sh", "-c", script], env={"PATH": str(tmp_path)}, capture_output=True, check=True
    )
    assert bare.stdout == b""


@pytest.mark.parametrize("hundredths", range(900, 1001))
def test_only_what_vllm_would_refuse_is_certain(hundredths: int) -> None:
    """Against what CUDA itself reported beside the same programs."""
    part = hundredths / 1000
    found = held(agent(gpu_memory_utilization=part), [CARD], read(NAMED)[:1])
    refuses = part * TOTAL > FREE
    assert refuses or found is None or not found.certain
    if part >= 0.961:
        assert found is not None and found.certain
    if part <= 0.95:
        assert found is None


def test_the_sentence_says_who_and_the_way_out() -> None:
    found = held(agent(gpu_memory_utilization=0.97), [CARD], read(NAMED)[:1])
    assert found is not None and found.sentence == (
        "agent 'qwen': 5.5 GiB of GPU 0 are in use by python3 (pid 466), not by an agent of ours,"
        ' so vLLM with gpu_memory_utilization 0.97 will stop with its own words: "Free memory on'
        ' device ... on startup is less than desired GPU memory utilization"; end that (ps -fp 466'
        " shows it, kill 466 ends it), give the agent another GPU, or set gpu_memory_utilization to"
        " 0.95 or lower"
    )
    many = [Holder(pid, 20000, UUID, "x") for pid in range(1, 8)]
    found = held(agent(), [CARD], many)
    assert found is not None
    assert "x (pid 1), x (pid 2), x (pid 3) and 4 more" in found.sentence
    # What would be left is no advice.
    assert found.sentence.endswith("give the agent another GPU")


def test_memory_of_agents_of_ours_and_of_other_cards_does_not_count() -> None:
    large = Holder(5, 140000, UUID, "VLLM::EngineCore")
    assert held(agent(), [CARD], [replace(large, ours=True)]) is None
    assert held(agent(), [CARD], [replace(large, gpu="GPU-other")]) is None
    assert held(agent(gpus=[1]), [CARD], [large]) is None
    assert held(agent(), [replace(CARD, memory_mib=None)], [large]) is None
    assert held(agent(), [CARD], [replace(large, memory_mib=None)]) is None
    assert held(agent(), [CARD], [large]) is not None


@pytest.mark.parametrize(
    "words", [["--load-format", "ipc"], ["--load-format=ipc"], ["--load_format=ipc"]]
)
def test_a_loader_that_keeps_weights_elsewhere_is_not_refused(words: list[str]) -> None:
    found = held(agent(extra_args=words), [CARD], [Holder(5, 99999, UUID, "x")])
    assert found is not None and not found.certain


def busy(recorder: Any, fact: str, mib: int, *, ours: bool = False) -> None:
    """Somebody has so much of GPU 0."""
    known = recorder.host.facts[fact]
    cards = known.gpus if fact == "SystemState" else known.smi.gpus
    program = Holder(4711, mib, cards[0].uuid, "ollama", ours)
    recorder.host.facts[fact] = replace(known, programs=(program,))


def test_a_deploy_leaves_an_agent_that_could_not_start_again(in_line: InLine) -> None:
    recorder = changed(in_line(), "qwen")
    busy(recorder, "RehearsalGrounds", 20000)
    done = recorder.run(rehearsal, vllm)
    assert done.failed and done.changed == []
    [said] = done.said
    assert "of GPU 0 are in use by ollama (pid 4711), not by an agent of ours" in said
    assert "its container was not touched (to deploy all the same: capacity.preflight" in said


def test_it_is_known_where_vllm_could_not_be_asked(
    in_line: InLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = changed(in_line(), "qwen")
    busy(recorder, "RehearsalGrounds", 20000)
    fail_at(recorder, Rehearsals, HostError("what vLLM says could not be read"), monkeypatch)
    done = recorder.run(rehearsal)
    assert done.failed
    assert "could not be rehearsed (what vLLM says could not be read)" in done.said[0]
    assert "in use by ollama (pid 4711)" in done.said[-1]


def test_settings_may_let_it_pass(in_line: InLine) -> None:
    recorder = changed(in_line(capacity={"preflight": "warn"}), "qwen")
    busy(recorder, "RehearsalGrounds", 20000)
    done = recorder.run(rehearsal)
    assert not done.failed and "ollama (pid 4711)" in done.said[0]


def test_an_agent_that_is_replaced_gives_its_memory_back(in_line: InLine) -> None:
    recorder = changed(in_line(), "qwen")
    busy(recorder, "RehearsalGrounds", 70000, ours=True)
    done = recorder.run(rehearsal)
    assert not done.failed and done.said == []


def test_preflight_says_it_and_refuses_nobody(in_line: InLine) -> None:
    recorder = in_line()
    assert not any("in use by" in said for said in recorder.run(preflight).said)
    busy(recorder, "SystemState", 20000)
    done = recorder.run(preflight)
    assert not done.failed
    assert any("19.5 GiB of GPU 0 are in use by ollama (pid 4711)" in one for one in done.said)


def test_the_plan_of_a_host_has_it(tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()
    project = Project(tmp_path / "project")
    project.write(PROD, 'gpu_hosts = [("@local", {"ssh_hostname": "192.0.2.1"})]\n')
    project.group(agents=[dict(AGENT, model=copy(project, SMALL))])
    smi = project.folder / "bin" / "nvidia-smi"
    project.write(
        "bin/nvidia-smi",
        f"#!/bin/sh\ncase $* in *compute-apps*) echo '{os.getpid()}, 9000, GPU-0' ;;"
        f" *) echo '{SMI}' ;; esac\n",
    )
    smi.chmod(0o755)
    project.environment = {
        "PATH": f"{smi.parent}:/usr/sbin:/usr/bin:/sbin:/bin",
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }
    done = project.run("vllm-hosts", "plan", PROD, "--json")
    assert done.returncode == 3, done.stdout
    [found] = json.loads(done.stdout[done.stdout.index("[\n") :])[0]["agents"]
    assert found["verdict"] == "does not fit"
    name = Path("/proc/self/comm").read_text().strip()
    assert f"in use by {name} (pid {os.getpid()}), not by an agent of ours" in found["problems"][0]
