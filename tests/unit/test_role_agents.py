"""Models, images and agents on hosts where something differs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit import recorded_looks as looks
from tests.unit.recording import InLine, Recorder
from tests.unit.samples import QWEN
from vllm_hosts.facts.docker import ImageFound
from vllm_hosts.host.containers import Container
from vllm_hosts.operations import compose, healthy
from vllm_hosts.roles.models import models
from vllm_hosts.roles.secrets import secrets
from vllm_hosts.roles.vllm import vllm
from vllm_hosts.roles.vllm_image import vllm_image, vllm_image_begun


class TestModels:
    def test_a_cache_that_agents_could_write_is_taken_over(self, in_line: InLine) -> None:
        recorder = in_line()
        recorder.host.chmod("/var/lib/vllm", 0o777)
        done = recorder.run(models)
        script = done["No agent can write into the models' cache"]
        assert "chown -hR 64102:64101 /models" in script
        assert "source=/var/lib/vllm/huggingface,target=/models" in script
        assert "vllm/vllm-openai:v0.33.0" in script
        assert done.changed[0] == "Models | No agent can write into the models' cache"

    def test_a_model_that_is_not_whole_is_fetched(self, in_line: InLine) -> None:
        recorder = in_line(agents=[QWEN], hub={"endpoint": "https://mirror.example"})
        recorder.host.facts["HubModels"] = looks.FRESH["HubModels"]
        done = recorder.run(models)
        script = done["Models from the hub are complete"]
        assert done.changed == ["Models | Models from the hub are complete"]
        assert "--env HF_ENDPOINT=https://mirror.example" in script
        assert "--user 64102:64101" in script
        asked = recorder.host.arguments["HubModels"]
        assert asked["models"][0][1] == "/var/lib/vllm/huggingface/hub/models--Qwen--Qwen3-8B"

    def test_a_copied_model_that_is_another_fails_the_host(
        self, in_line: InLine, tmp_path: Path
    ) -> None:
        recorder = in_line()
        recorder.host.facts["ModelCopy"] = {"config.json": 1, "model.safetensors": 2}
        done = recorder.run(models)
        assert "is not the model in" in done.refused[0]


class TestVllm:
    UP = "The agents run as in compose.yaml"

    def test_a_new_definition_recreates_its_agent_alone(self, in_line: InLine) -> None:
        recorder = in_line()
        project = recorder.host.facts["ComposeProject"]
        recorder.host.facts["ComposeProject"] = replace(
            project, wanted=project.wanted | {"coder": "h9"}
        )
        recorder.host.after = {}
        recorder.edge = lambda path: 200
        done = recorder.run(vllm)
        assert any("starting coder" in command for command in done[self.UP].commands)
        assert "starting qwen" not in done[self.UP]
        assert "agent coder is recreated (its definition changed)" in done.effects[0]
        # The key that the edge shows to it comes from the new container.
        assert 'vllm_hosts_coder "' in done[self.UP]

    def test_a_new_key_is_foreseen(self, in_line: InLine) -> None:
        recorder = in_line()
        env = recorder.host.contents["/opt/vllm/.env"].decode().splitlines()
        changed = [line + "x" if "QWEN" in line else line for line in env]
        recorder.host.contents["/opt/vllm/.env"] = "\n".join(changed).encode()
        [effect] = recorder.run(vllm).effects
        assert effect.startswith("agent qwen is recreated (its key changed)")

    def test_compose_yaml_is_written_for_the_host_s_memory(self, in_line: InLine) -> None:
        recorder = in_line()
        recorder.host.facts["HostMemory"] = 64 << 30
        done = recorder.run(vllm)
        assert done[self.UP].written == {"/opt/vllm/compose.yaml": "0644 root:root"}
        assert f"mem_limit: {57 << 30}" in recorder.host.contents["/opt/vllm/compose.yaml"].decode()

    def test_an_edge_that_answered_before_has_to_do_so_again(
        self, in_line: InLine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        recorder = in_line()
        project = recorder.host.facts["ComposeProject"]
        recorder.host.facts["ComposeProject"] = replace(
            project, wanted=project.wanted | {"coder": "h9"}
        )
        recorder.host.after = {}
        answers = iter([200])
        recorder.edge = lambda path: next(answers, 503) if path == "/health" else 404
        monkeypatch.setattr(compose, "_LOOK_EVERY", 0)
        done = recorder.run(vllm)
        assert done.failed
        assert "the edge, which answered before, reports that they are not" in done.said[-1]
        assert recorder.asked[0][:3] == ("192.0.2.11", 443, "llm.example.com")

    def test_an_edge_that_did_not_answer_before_need_not_do_so_after(
        self, in_line: InLine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The nginx role comes later, and may be what repairs it."""
        recorder = in_line()
        project = recorder.host.facts["ComposeProject"]
        recorder.host.facts["ComposeProject"] = replace(
            project, wanted=project.wanted | {"coder": "h9"}
        )
        recorder.host.after = {}

        def refused(path: str) -> int:
            raise OSError("connection refused")

        recorder.edge = refused
        monkeypatch.setattr(compose, "_LOOK_EVERY", 0)
        done = recorder.run(vllm)
        assert (done.failed, done.said) == (False, [])

    def test_an_agent_that_crashes_fails_the_host_with_its_last_lines(
        self, in_line: InLine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        recorder = in_line()
        recorder.host.facts["AgentStates"]["qwen"] = Container("qwen", "exited")
        recorder.host.facts["AgentLog"] = ("CUDA out of memory",)
        monkeypatch.setattr(healthy, "_LOOK_EVERY", 0)
        done = recorder.run(vllm)
        assert done.failed
        assert "agent qwen is exited; its last lines:" in done.said[-1]
        assert "CUDA out of memory" in done.said[-1]
        assert recorder.host.arguments["AgentLog"]["directory"] == "/opt/vllm"

    def test_an_agent_s_folder_that_is_another_s(self, in_line: InLine) -> None:
        recorder = in_line()
        path = "/var/lib/vllm/agents/qwen"
        recorder.host.paths[path] = replace(recorder.host.paths[path], owner=("root", "0"))
        assert recorder.run(vllm).operations[0].written == {path: "0700 64101:64101"}


def _without_an_image(in_line: InLine) -> Recorder:
    recorder = in_line()
    recorder.host.facts["ImageVersion"] = ImageFound("", None)
    known = {"ImageVersion": ImageFound(looks.IMAGE_ID, "0.33.0")}
    recorder.host.after = {"pulling vllm/": known}
    return recorder


class TestImage:
    def test_an_image_with_a_way_around_its_key_fails_the_host(self, in_line: InLine) -> None:
        recorder = in_line()
        recorder.host.facts["ImageVersion"] = ImageFound(looks.IMAGE_ID, "0.31.0")
        assert (
            "has known vulnerabilities that bypass its key" in recorder.run(vllm_image).refused[0]
        )

    def test_an_image_that_is_not_there_is_pulled(self, in_line: InLine) -> None:
        recorder = _without_an_image(in_line)
        done = recorder.run(vllm_image)
        assert done.changed == ["vLLM image | The vLLM image is on the host"]
        assert recorder.host.arguments["ImageVersion"] == {"image": "vllm/vllm-openai:v0.33.0"}
        assert recorder.beside == []

    def test_it_is_pulled_beside_what_comes_between(self, in_line: InLine) -> None:
        recorder = _without_an_image(in_line)
        done = recorder.run(vllm_image_begun, secrets, vllm_image)
        assert not done.failed
        assert done.changed == ["vLLM image | The vLLM image is fetched beside other work"]
        [session] = recorder.beside
        assert session.closed and session.heard == []

    def test_a_pull_that_fails_fails_its_host_where_it_is_waited_for(self, in_line: InLine) -> None:
        recorder = _without_an_image(in_line)
        recorder.host.fails = {"pulling vllm/": "no such image\n\x1b[31mno room\n"}
        done = recorder.run(vllm_image_begun, secrets, vllm_image)
        assert done.failed
        assert done.names[-1] == "vLLM image | The vLLM image is on the host"
        assert done.said[-2:] == ["no such image", "no room"]

    def test_without_a_session_it_is_pulled_where_it_is_waited_for(self, in_line: InLine) -> None:
        recorder = _without_an_image(in_line)
        recorder.sessions = False
        done = recorder.run(vllm_image_begun, secrets, vllm_image)
        assert not done.failed
        assert done.changed == ["vLLM image | The vLLM image is on the host"]
