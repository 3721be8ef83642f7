"""The rehearsal in a deploy: whom it asks, what stops a host, and what is remembered."""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import Any

import pytest

from tests.unit.recording import InLine, Recorder
from tests.unit.samples import CODER, QWEN
from tests.unit.test_rehearsal import recorded
from vllm_hosts.errors import HostError, LostError
from vllm_hosts.hub.hub_models import Fetched
from vllm_hosts.rehearsal.answer import Answer, unrehearsed
from vllm_hosts.rehearsal.container import Asked
from vllm_hosts.rehearsal.fact import RehearsalGrounds, Rehearsals
from vllm_hosts.roles.rehearsal import rehearsal
from vllm_hosts.roles.vllm import vllm

STEP = "vLLM accepts the agents that change"
FOLDER = {"/srv/models/coder": "d" * 64}


def changed(recorder: Recorder, *names: str, **answers: Answer) -> Recorder:
    """Agents have another definition; vLLM's answers."""
    facts = recorder.host.facts
    wanted = facts["ComposeProject"].wanted | dict.fromkeys(names, "h9")
    facts["ComposeProject"] = replace(facts["ComposeProject"], wanted=wanted)
    facts["RehearsalGrounds"] = replace(facts["RehearsalGrounds"], folders=FOLDER)
    facts["Rehearsals"] = answers
    path = f"{recorder.host.settings.vllm.directory}/compose.yaml"
    if names:
        recorder.host.paths[path] = replace(recorder.host.paths[path], sha256="0" * 64)
    recorder.host.arguments.clear()
    # The first deploy has asked the same.
    shutil.rmtree(recorder.inventory.parent / "rehearsals", ignore_errors=True)
    return recorder


def asked(recorder: Recorder) -> list[Asked]:
    """What vLLM was asked; empty: nothing."""
    found: list[Asked] = recorder.host.arguments.get("Rehearsals", {}).get("asked", [])
    return found


def test_nobody_is_asked_where_nothing_changes(in_line: InLine) -> None:
    recorder = changed(in_line())
    done = recorder.run(rehearsal)
    assert (done.failed, done.said) == (False, [])
    assert "RehearsalGrounds" not in recorder.host.arguments and not asked(recorder)


def test_an_agent_that_only_stopped_is_not_asked_about(in_line: InLine) -> None:
    recorder = changed(in_line())
    project = recorder.host.facts["ComposeProject"]
    stopped = tuple(replace(one, state="exited") for one in project.containers)
    recorder.host.facts["ComposeProject"] = replace(project, containers=stopped)
    assert not recorder.run(rehearsal).failed and not asked(recorder)


def test_only_who_changes_is_asked_about_as_it_will_be_started(in_line: InLine) -> None:
    recorder = changed(in_line(), "coder")
    assert not recorder.run(rehearsal).failed
    [one] = asked(recorder)
    assert one.agent.agent == "coder" and one.agent.command[0] == "/srv/models/coder"
    assert one.agent.folders == {"/srv/models/coder": "/srv/models/coder"}
    assert one.agent.user == recorder.host.settings.vllm.user
    assert one.agent.gpus == ("1", "2") and one.needs == ()
    # The smallest of its cards, as the driver says it; the estimates are a question beside it.
    assert one.request.memory == 81559 << 20
    assert one.request.others[0] == 0 and len(one.request.others) == 2
    assert recorder.host.arguments["ComposeProject"]["file"] is not None


def test_a_refusal_is_the_host_s_and_comes_before_any_container(in_line: InLine) -> None:
    recorder = changed(in_line(), "qwen", qwen=recorded("too_long"))
    done = recorder.run(rehearsal, vllm)
    assert done.failed and done.names == [f"Rehearsal | {STEP}"] and done.changed == []
    [said] = done.said
    assert "agent 'qwen': vLLM 0.32.0 would not start with this: User-specified max_mod" in said
    assert "; change max_model_len; its container was not touched" in said
    assert said.endswith("capacity.preflight = 'warn')")


def test_all_agents_are_judged_before_the_host_fails(in_line: InLine) -> None:
    answers = {"qwen": recorded("too_long"), "coder": recorded("parser")}
    done = changed(in_line(), "qwen", "coder", **answers).run(rehearsal)
    assert done.failed
    assert "agent 'qwen'" in done.said[0] and "agent 'coder'" in done.said[0]


@pytest.mark.parametrize(("mode", "words"), [("warn", "would not start with this"), ("off", "")])
def test_settings_may_let_it_pass(in_line: InLine, mode: str, words: str) -> None:
    recorder = changed(in_line(capacity={"preflight": mode}), "qwen", qwen=recorded("too_long"))
    done = recorder.run(rehearsal)
    assert not done.failed
    assert bool(asked(recorder)) == bool(words)
    assert len(done.said) == bool(words) and words in "".join(done.said)


def test_what_cannot_be_rehearsed_is_said_in_a_line_and_goes_on(in_line: InLine) -> None:
    recorder = changed(in_line(), "qwen", qwen=unrehearsed("it took too long"))
    done = recorder.run(rehearsal)
    assert not done.failed
    assert done.said == ["agent 'qwen': it could not be rehearsed (it took too long); going on"]


@pytest.mark.parametrize("fact", [RehearsalGrounds, Rehearsals])
def test_a_look_that_fails_stops_nobody(
    in_line: InLine, fact: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = changed(in_line(), "qwen")
    fail_at(recorder, fact, HostError("what vLLM says could not be read"), monkeypatch)
    done = recorder.run(rehearsal)
    assert not done.failed
    assert "could not be rehearsed (what vLLM says could not be read)" in done.said[0]


def test_a_connection_that_ends_is_no_reason_to_go_on(
    in_line: InLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = changed(in_line(), "qwen")
    fail_at(recorder, Rehearsals, LostError("the connection was lost"), monkeypatch)
    assert recorder.run(rehearsal).failed


def fail_at(
    recorder: Recorder, fact: type, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = recorder.host.answer

    def failing(what: type, **values: Any) -> Any:
        if what is fact:
            raise error
        return answer(what, **values)

    monkeypatch.setattr(recorder.host, "answer", failing)


def test_without_the_image_nobody_is_asked(in_line: InLine) -> None:
    recorder = changed(in_line(), "qwen")
    grounds = recorder.host.facts["RehearsalGrounds"]
    recorder.host.facts["RehearsalGrounds"] = replace(grounds, image="")
    done = recorder.run(rehearsal)
    assert not asked(recorder) and "is not on the host" in done.said[0]


def test_a_model_that_is_not_there_lends_its_small_files(in_line: InLine) -> None:
    """They are fetched as the model will be, and go with the rehearsal."""
    agents = [QWEN | {"extra_models": ["org/draft"]}]
    recorder = changed(in_line(agents=agents, hub={"endpoint": "https://mirror.example"}), "qwen")
    there = recorder.host.facts["HubModels"]
    recorder.host.facts["HubModels"] = there | {"org/draft": Fetched(None, "", {}, {})}
    assert not recorder.run(rehearsal).failed
    arguments = recorder.host.arguments["Rehearsals"]
    [one] = arguments["asked"]
    assert [model.model for model in arguments["fetch"].models.values()] == [
        "Qwen/Qwen3-8B",
        "org/draft",
    ]
    assert one.needs == tuple(arguments["fetch"].models)
    assert one.agent.folders["/models"].startswith("/run/vllm-hosts-rehearsal.")
    command = Rehearsals().command(**arguments)
    assert "--small" in command and "HF_ENDPOINT=https://mirror.example" in command
    assert "--user 64102:64101" in command and "HF_HUB_CACHE=/models/hub" in command
    # Nothing is written where agents read.
    assert "/var/lib/vllm" not in command.replace("--cache /var/lib/vllm ", "")


def test_no_key_and_no_network_in_a_rehearsal(
    in_line: InLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_OF_TEST", "hf_secret_of_the_test")
    recorder = changed(in_line(agents=[QWEN], secrets={"hf_token_env": "HF_OF_TEST"}), "qwen")
    recorder.run(rehearsal)
    command = Rehearsals().command(**recorder.host.arguments["Rehearsals"])
    assert "--network none" in command and "VLLM_API_KEY" not in command
    assert "HF_TOKEN" not in command


def test_a_folder_that_comes_later_is_not_rehearsed(in_line: InLine) -> None:
    recorder = changed(in_line(agents=[CODER]), "coder")
    grounds = recorder.host.facts["RehearsalGrounds"]
    recorder.host.facts["RehearsalGrounds"] = replace(grounds, folders={})
    done = recorder.run(rehearsal)
    assert not done.failed and not asked(recorder)
    assert "/srv/models/coder is not on the host yet" in done.said[0]


def test_what_vllm_accepted_is_not_asked_again(in_line: InLine) -> None:
    recorder = changed(in_line(), "qwen", qwen=recorded("fits"))
    recorder.run(rehearsal)
    assert len(asked(recorder)) == 1
    recorder.host.arguments.clear()
    assert not recorder.run(rehearsal).failed and not asked(recorder)
    # Another driver, image or model is another question.
    grounds = recorder.host.facts["RehearsalGrounds"]
    recorder.host.facts["RehearsalGrounds"] = replace(grounds, image=f"sha256:{'2' * 64}")
    recorder.run(rehearsal)
    assert len(asked(recorder)) == 1


def test_a_refusal_is_asked_for_each_time(in_line: InLine) -> None:
    recorder = changed(in_line(), "qwen", qwen=recorded("too_long"))
    for _ in range(2):
        recorder.host.arguments.clear()
        assert recorder.run(rehearsal).failed and asked(recorder)
