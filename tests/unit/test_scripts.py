"""What root runs on a host, as it is sent there: a change of it can be read in review."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import FrozenInstanceError
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import SecretStr
from pyinfra.context import ctx_host, ctx_state

from tests.golden import check_golden
from tests.unit.driver_hosts import DEBIAN_13
from tests.unit.operation_steps import Steps
from tests.unit.samples import settings
from vllm_hosts.facts.docker import ImageFound
from vllm_hosts.host import frames
from vllm_hosts.host.apt_entries import Edit
from vllm_hosts.host.archives import docker_archive
from vllm_hosts.host.files import Absent, File
from vllm_hosts.hub.hub_models import Copy, Download, HubModel
from vllm_hosts.operations import apt, docker, driver, edge, edge_trial, gpu, healthy, image
from vllm_hosts.operations.base import watched
from vllm_hosts.operations.gpu import GpuCheck
from vllm_hosts.operations.hub import fetch_script
from vllm_hosts.operations.model_cache import adopt_script
from vllm_hosts.operations.model_copy import check_script
from vllm_hosts.operations.notes import NOTES

IMAGE = "vllm/vllm-openai:v0.33.0"
DOWNLOAD = Download(IMAGE, "64102:64101", "/var/lib/vllm", "/opt/vllm/.env", None, 8)
ARCHIVE = docker_archive(settings().docker, DEBIAN_13)
EDITS = [
    Edit("/etc/apt/sources.list.d/a.list", None),
    Edit("/etc/apt/sources.list", ("3s/^/# /", "4d")),
]

SCRIPTS: Mapping[str, Callable[[], object]] = {
    "watched": lambda: watched("working", " make\n", seconds=5, tail=3, summary="head -n 1"),
    "frames": frames.program,
    "notes": lambda: NOTES,
    "cache-adopted": lambda: adopt_script("/var/lib/vllm", "64102:64101", IMAGE),
    "edge-diverted": lambda: edge.divert("qwen", "twin"),
    "edge-given-back": lambda: edge.give_back("qwen", SecretStr("KEY")),
    "edge-taken-up": lambda: edge.taken_up("qwen"),
    "edge-trial": lambda: edge_trial.trial(
        [File("/etc/nginx/conf.d/a.conf", b"a"), Absent("/etc/nginx/b.conf")]
    ),
    "edge-trial-of-files-alone": lambda: edge_trial.trial([File("/etc/nginx/a.conf", b"a")]),
    "docker-restarted": lambda: docker.RESTART,
    "docker-pull-summary": lambda: docker.PULL_SUMMARY,
    "apt-archive-added": lambda: apt.archive_script(ARCHIVE, EDITS),
    "apt-lists-read": lambda: apt._read_lists(),
    "apt-finished": lambda: apt._finished("apt-get x"),
    "driver-loaded": lambda: driver._LOAD,
    "driver-headers": lambda: driver._headers_offered("linux-headers-6.8"),
    "model-fetched": lambda: fetch_script(HubModel("org/m"), DOWNLOAD, distrust=True),
    "model-copied": lambda: check_script(Copy("/srv/a", "/srv/b", allow_pickle=False)),
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script(name: str) -> None:
    check_golden(f"scripts/{name}.sh", _shown(SCRIPTS[name]()))


def _shown(script: object) -> str:
    # What travels in it, such as a program, is seen where it is.
    return (
        re.sub(r"printf %s '.{2000,}?' \|", "printf %s PROGRAM |", str(script), flags=re.S) + "\n"
    )


@pytest.mark.parametrize("seen", [True, False])
def test_how_an_image_is_asked(monkeypatch: pytest.MonkeyPatch, seen: bool) -> None:
    found = ImageFound("sha256:a", "0.33.0" if seen else None)
    steps = Steps(image, monkeypatch, {"ImageVersion": found})
    steps.executing = False
    commands = steps.run(image.image_above_floor, settings(vllm={"image": IMAGE}).vllm)
    assert steps.asked == [("ImageVersion", {"image": IMAGE})]
    if seen:
        assert (commands, steps.told) == ([], [])
    else:
        check_golden("scripts/image-asked.sh", f"{commands[0]}\n")
        why = "has not been checked for its version"
        assert steps.told == [("differs", f"the vLLM in {IMAGE}", why)]


def test_what_a_container_s_gpus_depend_on() -> None:
    check_golden("scripts/gpus-looked-at.sh", f"{gpu.LastGpuCheck().command('0,3')}\n")
    assert (gpu.LastGpuCheck.what, gpu.LastGpuCheck.steady) == ("the GPUs", True)
    found = gpu.LastGpuCheck().parse(["== seen", "a", "b", "== now", "a"])
    assert found == GpuCheck(("a", "b"), ("a",))
    with pytest.raises(FrozenInstanceError):
        found.seen = ()  # type: ignore[misc]


@pytest.mark.parametrize(
    ("seen", "changed", "runs"),
    [(("a",), False, False), (("a",), True, True), (("b",), False, True), ((), False, True)],
)
def test_when_a_container_s_gpus_are_counted(
    monkeypatch: pytest.MonkeyPatch, seen: tuple[str, ...], changed: bool, runs: bool
) -> None:
    steps = Steps(gpu, monkeypatch, {"LastGpuCheck": GpuCheck(seen, ("a",) if seen else ())})
    steps.changed = changed
    monkeypatch.setattr(gpu, "may_have_changed", steps.may_have_changed)
    commands = steps.run(gpu.container_gets_gpus, IMAGE, [0, 3])
    what = {"what": ["the GPU driver", "nvidia-container-toolkit"]}
    asked = [("changed", what)] * (seen == ("a",))
    assert steps.asked == [("LastGpuCheck", {"indexes": "0,3"}), *asked]
    if runs:
        check_golden("scripts/gpus-counted.sh", f"{commands[0]}\n")
    else:
        assert commands == []


def test_how_long_agents_took_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[Any] = []
    host: Any = SimpleNamespace(run_shell_command=lambda *given, **how: ran.append((given, how)))
    state: Any = SimpleNamespace()
    monkeypatch.setattr(healthy, "connector_options", lambda *given: {"_sudo": given})
    with ctx_state.use(state), ctx_host.use(host):
        healthy.noted([])
        assert ran == []
        healthy.noted(["qwen", "coder"])
    [((script,), how)] = ran
    check_golden("scripts/starts-noted.sh", f"{script}\n")
    assert how == {"print_output": False, "print_input": False, "_sudo": (state, host)}
