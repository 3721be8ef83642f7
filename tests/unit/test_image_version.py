"""The vLLM of an image: what its tag says, and what the image itself says on the host."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.unit.samples import settings
from vllm_hosts.errors import HostError
from vllm_hosts.facts.base import END
from vllm_hosts.facts.docker import ImageFound, ImageVersion
from vllm_hosts.operations import image as operation
from vllm_hosts.operations.image import _ASK, judged
from vllm_hosts.settings import Vllm

A, B = f"sha256:{'a' * 64}", f"sha256:{'b' * 64}"
NVIDIA = "nvcr.io/nvidia/vllm:25.12-py3"


@pytest.mark.parametrize(
    "image",
    [
        NVIDIA,
        "registry.example.com/vllm:2025.11.01",
        "registry.example.com/vllm:20251101",
        "registry.example.com/vllm:25.11",
        "registry.example.com/vllm:7",
        "registry.example.com/vllm:12.8.1-runtime",
        "registry.example.com/vllm:cu129",
        "registry.example.com/vllm:4f2e5c1",
    ],
)
def test_a_tag_that_is_no_version_is_not_taken_for_one(image: str) -> None:
    with pytest.raises(ValueError, match=r"cannot be read from .*; set vllm\.version, such as"):
        Vllm(image=image)
    assert str(Vllm(image=image, version="0.33.0").vllm_version) == "0.33.0"
    with pytest.raises(ValueError, match="cannot be read from"):
        Vllm(image=image, version="25.12")
    with pytest.raises(
        ValueError, match="vLLM 0.11.1 has known vulnerabilities that bypass its key"
    ):
        Vllm(image=image, version="0.11.1")


@pytest.mark.parametrize(
    ("tag", "version"),
    [
        ("v0.33.0", "0.33.0"),
        ("0.32.1-cu129", "0.32.1"),
        ("v0.40.0rc1", "0.40.0rc1"),
        ("v1.0", "1.0"),
    ],
)
def test_a_tag_that_is_one(tag: str, version: str) -> None:
    assert str(Vllm(image=f"registry.example.com/vllm:{tag}").vllm_version) == version


class TestJudged:
    CLAIMED = Vllm(image=NVIDIA, version="0.33.0")

    @pytest.mark.parametrize(
        "said", ["0.11.1", "0.11.1+582e4e37.nv25.11.post1", "0.32.0rc1", "0.31.9"]
    )
    def test_what_the_image_says_counts(self, said: str) -> None:
        problem, _ = judged(self.CLAIMED, said)
        assert problem is not None
        assert problem.startswith(f"the image {NVIDIA} has vLLM {said} (vllm.version says 0.33.0)")
        assert problem.endswith("use an image with 0.32.0 or newer")

    @pytest.mark.parametrize("said", ["0.33.0", "0.33.0+cu129"])
    def test_one_that_is_new_enough(self, said: str) -> None:
        assert judged(self.CLAIMED, said) == (None, None)

    def test_another_one_than_claimed_is_said(self) -> None:
        assert judged(self.CLAIMED, "0.34.1") == (
            None, f"the image {NVIDIA} has vLLM 0.34.1, and is taken for 0.33.0",
        )  # fmt: skip

    @pytest.mark.parametrize("said", ["unknown", "", None, "Traceback (most recent call last)"])
    def test_one_that_does_not_say(self, said: str | None) -> None:
        problem, warning = judged(self.CLAIMED, said)
        assert problem is None
        assert "vllm.version 0.33.0 is assumed" in (warning or "")
        problem, _ = judged(Vllm(), said)
        assert "does not report which vLLM it has; use another image, or set vllm.version" in str(
            problem
        )


@pytest.mark.parametrize(
    ("programs", "expected"),
    [
        ({"python3": "0.11.1"}, "0.11.1"),
        ({"python": "0.33.0"}, "0.33.0"),
        ({"python3": "", "python": "0.33.0"}, "0.33.0"),
        ({"own": "0.33.0", "python3": "0.1.0"}, "0.33.0"),
        ({"python3": ""}, "unknown"),
        ({}, "unknown"),
    ],
)
def test_the_interpreter_that_runs_vllm_is_asked(
    tmp_path: Path, programs: dict[str, str], expected: str
) -> None:
    for name, version in programs.items():
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\n[ -n '{version}' ] && echo '{version}'\n")
        path.chmod(0o755)
    if "own" in programs:
        (tmp_path / "vllm").write_text(f"#!{tmp_path}/own -s\n")
        (tmp_path / "vllm").chmod(0o755)
    for name in ("head", "sed"):
        (tmp_path / name).symlink_to(f"/usr/bin/{name}" if name == "head" else "/bin/sed")
    done = subprocess.run(
        ["/bin/sh", "-c", _ASK], env={"PATH": str(tmp_path)}, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert done.stdout == f"{expected}\n"


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["== id", A, "== note", f"{A} 0.33.0"], ImageFound(A, "0.33.0")),
        (["== id", B, "== note", f"{A} 0.33.0"], ImageFound(B, None)),
        (["== id", A, "== note"], ImageFound(A, None)),
        (["== id", "== note", f"{A} 0.33.0"], ImageFound("", None)),
        (["== id", A, "== note", A], ImageFound(A, "")),
    ],
)
def test_what_was_said_holds_for_that_image_only(lines: list[str], expected: ImageFound) -> None:
    assert ImageVersion().process([*lines, END]) == expected


class TestTheOperation:
    def run(
        self, monkeypatch: pytest.MonkeyPatch, *states: ImageFound, executing: bool = True
    ) -> tuple[list[Any], str | None]:
        looks = iter(states)
        monkeypatch.setattr(operation, "look", lambda fact, image: next(looks))
        monkeypatch.setattr(operation, "differs", lambda what, how: None)
        monkeypatch.setattr(operation, "say", lambda sentences: None)
        state = SimpleNamespace(get=lambda: SimpleNamespace(is_executing=executing))
        monkeypatch.setattr(operation, "ctx_state", state)
        steps = operation.image_above_floor._inner.__wrapped__  # type: ignore[attr-defined]
        commands = []
        try:
            for command in steps(settings().vllm):
                commands.append(command)
        except HostError as error:
            return commands, str(error)
        return commands, None

    def test_a_second_run_asks_nobody(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert self.run(monkeypatch, ImageFound("sha256:a", "0.33.0")) == ([], None)

    def test_an_old_one_stops_the_host_before_any_agent(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked, old = ImageFound("sha256:a", None), ImageFound("sha256:a", "0.11.1")
        commands, error = self.run(monkeypatch, asked, old)
        assert len(commands) == 1
        assert "has vLLM 0.11.1, which has known vulnerabilities that bypass its key" in str(error)
        # In the next run it is known at once.
        assert self.run(monkeypatch, old, executing=False) == ([], error)

    def test_nothing_is_judged_before_the_image_is_there(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        commands, error = self.run(monkeypatch, ImageFound("", None), executing=False)
        assert (len(commands), error) == (1, None)

    def test_the_container_gets_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        asked, good = ImageFound("sha256:a", None), ImageFound("sha256:a", "0.33.0")
        [command], _ = self.run(monkeypatch, asked, good)
        for word in ("--network none", "--read-only", "--cap-drop ALL", "no-new-privileges"):
            assert word in str(command)
