"""What a host's own vLLM is asked about agents, and under what its answer is remembered, to the
letter: a host and a memory are stand-ins."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any

import pytest

from tests.unit.samples import CODER, QWEN, settings
from vllm_hosts.capacity import estimates
from vllm_hosts.capacity.result import PlannedGpu
from vllm_hosts.errors import HostError, LostError
from vllm_hosts.host.nvidia_apps import Holder
from vllm_hosts.host.nvidia_smi import Gpu, Smi
from vllm_hosts.hub.hub_models import Fetched, HubModel
from vllm_hosts.hub.local import contents, small_files
from vllm_hosts.rehearsal import asking, remembered
from vllm_hosts.rehearsal.answer import Answer, unrehearsed
from vllm_hosts.rehearsal.asking import Said, ask_vllm, beside, question
from vllm_hosts.rehearsal.container import Asked, Rehearsed, Request
from vllm_hosts.rehearsal.fact import Grounds, Heard
from vllm_hosts.rehearsal.on_host import packed
from vllm_hosts.settings import HostSettings

MARK = "0123456789abcdef0123456789abcdef"
PLACE = "/run/vllm-hosts-rehearsal.0123456789abcdef"
COMMIT, OTHER = "c" * 40, "d" * 40
IMAGE = f"sha256:{'1' * 64}"
MODEL = HubModel("Qwen/Qwen3-8B")
GIB = 1 << 30
SAID, LATER = Answer(vllm="0.33.0", weights=1), Answer(vllm="0.33.0", weights=2)


class World:
    """``kept``: what is remembered; ``asked``: looks by name, with what they were given."""

    def __init__(self, patch: pytest.MonkeyPatch, **changes: Any) -> None:
        self.settings: HostSettings = settings(**{"agents": [QWEN, CODER]} | changes)
        smi = Smi(
            tuple(Gpu(index, "L4", f"u{index}", 23034 + index, "590") for index in range(3)), None
        )
        folders = {"/srv/models/coder": "f" * 64}
        self.facts: dict[str, Any] = {
            "RehearsalGrounds": Grounds(IMAGE, folders, smi),
            "HubModels": {MODEL.key: Fetched(COMMIT, COMMIT, {"a": 1}, {"a": 1})},
            "Rehearsals": Heard({"qwen": SAID, "coder": LATER}, {}),
        }
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.kept: dict[Any, Answer] = {}
        self.keys: list[Any] = []
        patch.setattr(asking, "look", self.look)
        patch.setattr(asking, "token_hex", lambda size: MARK if size == 16 else "")
        patch.setattr(remembered, "recall", self.kept.get)
        patch.setattr(remembered, "keep", self.kept.__setitem__)
        patch.setattr(asking, "key", self.key)

    def look(self, fact: type, **given: Any) -> Any:
        self.asked.append((fact.__name__, given))
        value = self.facts[fact.__name__]
        if isinstance(value, Exception):
            raise value
        return value

    def key(self, asked: Asked, digest: str, models: Any, cards: Any) -> Any:
        self.keys.append((asked.agent.agent, digest, dict(models), cards))
        return asked.agent.agent, *models.values()

    def run(self, again: Callable[[Answer], bool] = lambda answer: False) -> dict[str, Said]:
        self.asked.clear()
        self.keys.clear()
        return ask_vllm(self.settings, self.settings.agents, again=again)

    def given(self, name: str) -> dict[str, Any]:
        [found] = [given for fact, given in self.asked if fact == name]
        return found


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


class TestSource:
    def test_who_said_it_and_where(self) -> None:
        said = Said(SAID)
        assert (said.remembered, said.image, said.alike, said.held) == (False, "", True, None)
        assert said.source == "vLLM 0.33.0"
        assert replace(said, remembered=True).source == "vLLM 0.33.0, which said so earlier"
        here = Said(Answer(), image="vllm:x", alike=False)
        assert here.source == "vLLM itself in vllm:x, asked here without such a GPU"
        with pytest.raises(FrozenInstanceError):
            said.image = "x"  # type: ignore[misc]


class TestAsked:
    def test_all_of_a_host_s_agents_at_once(self, world: World) -> None:
        found = world.run()
        assert found == {"qwen": Said(SAID), "coder": Said(LATER)}
        assert world.given("RehearsalGrounds") == {
            "image": "vllm/vllm-openai:v0.33.0",
            "folders": ["/srv/models/coder"],
            "reader": world.settings.vllm.user,
            "cards": True,
        }
        assert world.given("HubModels") == {
            "models": [(MODEL.key, MODEL.folder("/var/lib/vllm"), "main")],
            "reader": world.settings.vllm.fetch_user,
        }
        given = world.given("Rehearsals")
        qwen, coder = given.pop("asked")
        assert given["mark"] == MARK and given["fetch"].models == {}
        assert set(given) == {"mark", "fetch"}
        assert given["fetch"].download.image == "vllm/vllm-openai:v0.33.0"
        assert qwen.agent.folders == {"/models": "/var/lib/vllm/huggingface"}
        assert coder.agent.folders == {"/srv/models/coder": "/srv/models/coder"}
        assert (qwen.needs, coder.needs) == ((), ())
        assert (qwen.request.mark, qwen.request.memory) == (MARK, 23034 << 20)
        # The smaller one of its two.
        assert coder.request.memory == 23035 << 20

    def test_without_cards_nobody_asks_for_any(self, monkeypatch: pytest.MonkeyPatch) -> None:
        world = World(monkeypatch, agents=[QWEN | {"gpus": []}])
        world.facts["RehearsalGrounds"] = Grounds(IMAGE, {}, None)
        world.run()
        assert world.given("RehearsalGrounds")["cards"] is False
        assert world.given("RehearsalGrounds")["folders"] == []
        [asked] = world.given("Rehearsals")["asked"]
        assert (asked.request.memory, asked.request.others) == (None, (0,))
        assert world.keys[0][3] == ()

    def test_a_card_that_does_not_say_has_what_the_settings_say(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        world = World(monkeypatch, agents=[QWEN], capacity={"gpu_memory": 12})
        world.facts["RehearsalGrounds"] = Grounds(IMAGE, {}, Smi((Gpu(0, "GB10"),), None))
        world.run()
        [asked] = world.given("Rehearsals")["asked"]
        assert asked.request.memory == 12 * GIB

    def test_without_models_of_the_hub_nobody_asks_for_them(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        world = World(monkeypatch, agents=[CODER])
        assert set(world.run()) == {"coder"}
        assert "HubModels" not in [name for name, _ in world.asked]

    def test_without_the_image_nobody_can_be_asked(self, world: World) -> None:
        grounds = world.facts["RehearsalGrounds"]
        world.facts["RehearsalGrounds"] = replace(grounds, image="")
        why = unrehearsed("the image vllm/vllm-openai:v0.33.0 is not on the host")
        assert world.run() == {"qwen": Said(why), "coder": Said(why)}
        assert [name for name, _ in world.asked] == ["RehearsalGrounds"]


class TestRemembered:
    def test_the_same_question_is_asked_once(self, world: World) -> None:
        world.run()
        assert world.kept == {("qwen", COMMIT): SAID, ("coder", "f" * 64): LATER}
        found = world.run()
        assert found == {
            "qwen": Said(SAID, remembered=True),
            "coder": Said(LATER, remembered=True),
        }
        assert "Rehearsals" not in [name for name, _ in world.asked]

    def test_what_it_is_remembered_under(self, world: World) -> None:
        world.run()
        assert world.keys[:2] == [
            ("qwen", IMAGE, {MODEL.key: COMMIT}, ("L4, 23034, 590",)),
            (
                "coder",
                IMAGE,
                {"/srv/models/coder": "f" * 64},
                ("L4, 23035, 590", "L4, 23036, 590"),
            ),
        ]
        assert world.keys[2:] == world.keys[:2]

    def test_some_are_asked_again_all_the_same(self, world: World) -> None:
        world.run()
        found = world.run(again=lambda answer: answer is LATER)
        assert found["qwen"].remembered and not found["coder"].remembered
        [asked] = world.given("Rehearsals")["asked"]
        assert asked.agent.agent == "coder"

    @pytest.mark.parametrize("revision", ["main", OTHER])
    def test_a_model_whose_commit_is_not_known_is_remembered_once_it_is(
        self, monkeypatch: pytest.MonkeyPatch, revision: str
    ) -> None:
        world = World(monkeypatch, agents=[QWEN | {"revision": revision}])
        model = HubModel("Qwen/Qwen3-8B", revision)
        world.facts["HubModels"] = {model.key: Fetched(None, "", {}, {})}
        world.facts["Rehearsals"] = Heard({"qwen": SAID}, {model.key: COMMIT})
        world.run()
        given = world.given("Rehearsals")
        [asked] = given["asked"]
        assert asked.needs == (model.key,)
        assert given["fetch"].models == {model.key: model}
        # What is fetched lies in memory until the answer is there.
        assert asked.agent.folders == {"/models": f"{PLACE}/models"}
        assert ("qwen", COMMIT) in world.kept
        before = [] if revision == "main" else [{model.key: OTHER}]
        assert [models for _, _, models, _ in world.keys] == [*before, {model.key: COMMIT}]

    def test_one_whose_commit_stays_unknown_is_not_remembered(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        world = World(monkeypatch, agents=[QWEN])
        world.facts["HubModels"] = {MODEL.key: Fetched(COMMIT, "", {"a": 1}, {})}
        assert world.run() == {"qwen": Said(SAID)}
        assert world.kept == {} == dict.fromkeys(world.keys)

    def test_models_that_are_read_together_are_fetched_together(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        world = World(monkeypatch, agents=[QWEN | {"extra_models": ["org/draft"]}, CODER])
        draft = HubModel("org/draft")
        world.facts["HubModels"] |= {draft.key: Fetched(None, "", {}, {})}
        world.run()
        given = world.given("Rehearsals")
        qwen, coder = given["asked"]
        assert qwen.needs == (MODEL.key, draft.key) and coder.needs == ()
        assert set(given["fetch"].models) == {MODEL.key, draft.key}


class TestFails:
    def test_a_look_that_fails_is_every_agent_s_reason(self, world: World) -> None:
        world.facts["RehearsalGrounds"] = HostError("no Docker")
        assert world.run() == dict.fromkeys(("qwen", "coder"), Said(unrehearsed("no Docker")))

    @pytest.mark.parametrize("fact", ["HubModels", "Rehearsals"])
    def test_what_others_hold_is_known_all_the_same(self, world: World, fact: str) -> None:
        world.facts[fact] = HostError("it took too long")
        grounds = world.facts["RehearsalGrounds"]
        holder = Holder(gpu="u0", pid=7, name="blender", memory_mib=20000)
        world.facts["RehearsalGrounds"] = replace(grounds, programs=(holder,))
        found = world.run()
        assert found["qwen"].answer == found["coder"].answer == unrehearsed("it took too long")
        assert found["qwen"].held is not None and found["coder"].held is None

    def test_a_host_whose_driver_does_not_answer_holds_nothing(self, world: World) -> None:
        world.facts["RehearsalGrounds"] = Grounds(IMAGE, {"/srv/models/coder": "f" * 64}, None)
        found = world.run()
        assert [one.held for one in found.values()] == [None, None]
        assert [asked.request.memory for asked in world.given("Rehearsals")["asked"]] == [None] * 2
        assert [cards for *_, cards in world.keys[:2]] == [(), ()]

    @pytest.mark.parametrize("fact", ["RehearsalGrounds", "Rehearsals"])
    def test_a_connection_that_is_lost_ends_it(self, world: World, fact: str) -> None:
        world.facts[fact] = LostError("gone")
        with pytest.raises(LostError):
            world.run()


class TestCopies:
    """A folder that the deploy will copy is not on the host yet."""

    @pytest.fixture
    def source(self, tmp_path: Path) -> Path:
        folder = tmp_path / "coder"
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_text("weights")
        return folder

    def coder(self, source: Path, **changes: Any) -> dict[str, Any]:
        return CODER | {"copy_from": str(source)} | changes

    def test_its_small_files_travel_with_the_question(
        self, monkeypatch: pytest.MonkeyPatch, source: Path
    ) -> None:
        world = World(monkeypatch, agents=[QWEN, self.coder(source)])
        world.facts["RehearsalGrounds"] = replace(world.facts["RehearsalGrounds"], folders={})
        world.run()
        given = world.given("Rehearsals")
        assert given["copies"] is True
        files = small_files(str(source))
        assert [file.name for file in files] == ["config.json"]
        assert given["_stdin"] == packed({"0": files})
        assert given["asked"][1].agent.folders == {"/srv/models/coder": f"{PLACE}/copies/0"}
        assert world.keys[1][2] == {"/srv/models/coder": contents(files)}
        # An agent that is not asked about brings none.
        world.run(again=lambda answer: answer is SAID)
        assert set(world.given("Rehearsals")) == {"asked", "fetch", "mark"}

    def test_two_folders_have_places_of_their_own(
        self, monkeypatch: pytest.MonkeyPatch, source: Path, tmp_path: Path
    ) -> None:
        other = tmp_path / "other"
        other.mkdir()
        (other / "config.json").write_text("{ }")
        more = self.coder(other, name="more", model="/srv/models/more", port=8003, gpus=[0])
        more["served_model_name"] = "more"
        world = World(monkeypatch, agents=[self.coder(source), more])
        world.facts["RehearsalGrounds"] = replace(world.facts["RehearsalGrounds"], folders={})
        world.facts["Rehearsals"] = Heard({"coder": SAID, "more": LATER}, {})
        world.run()
        given = world.given("Rehearsals")
        places = [[*one.agent.folders.values()] for one in given["asked"]]
        assert places == [[f"{PLACE}/copies/0"], [f"{PLACE}/copies/1"]]
        both = {"0": small_files(str(source)), "1": small_files(str(other))}
        assert given["_stdin"] == packed(both)

    def test_one_that_is_there_is_taken_as_it_is(
        self, monkeypatch: pytest.MonkeyPatch, source: Path
    ) -> None:
        world = World(monkeypatch, agents=[self.coder(source)])
        world.run()
        assert "copies" not in world.given("Rehearsals")
        assert world.keys[0][2] == {"/srv/models/coder": "f" * 64}

    def test_one_that_nobody_brings_is_its_agent_s_reason(self, world: World) -> None:
        world.facts["RehearsalGrounds"] = replace(world.facts["RehearsalGrounds"], folders={})
        found = world.run()
        assert found["coder"].answer == unrehearsed(
            "/srv/models/coder is not on the host, or has no config.json"
        )
        assert found["qwen"] == Said(SAID)

    def test_one_that_cannot_be_read_is_its_agent_s_reason(
        self, monkeypatch: pytest.MonkeyPatch, source: Path
    ) -> None:
        (source / "config.json").unlink()
        world = World(monkeypatch, agents=[self.coder(source), QWEN])
        world.facts["RehearsalGrounds"] = replace(world.facts["RehearsalGrounds"], folders={})
        found = world.run()
        assert "config.json" in found["coder"].answer.unknown["all"]
        assert found["qwen"] == Said(SAID)

    def test_one_that_changes_while_it_is_read_is_its_agent_s_reason(
        self, monkeypatch: pytest.MonkeyPatch, source: Path
    ) -> None:
        def changed(files: object) -> str:
            raise HostError("it was changed")

        monkeypatch.setattr(asking, "contents", changed)
        world = World(monkeypatch, agents=[self.coder(source), QWEN])
        world.facts["RehearsalGrounds"] = replace(world.facts["RehearsalGrounds"], folders={})
        found = world.run()
        assert found["coder"].answer == unrehearsed("it was changed")
        assert found["qwen"] == Said(SAID)


class TestQuestion:
    def agent(self, **changes: Any) -> Any:
        return settings(agents=[QWEN | {"gpu_memory_utilization": 0.5} | changes])

    def test_it_is_what_the_agent_is_started_with(self) -> None:
        host = self.agent()
        [one] = host.agents
        cards = [PlannedGpu(0, "L4", 40 * GIB)]
        asked = question(host, one, MARK, {"/models": "/x"}, cards, ("k",))
        assert asked.agent == Rehearsed(
            "qwen",
            "vllm/vllm-openai:v0.33.0",
            asked.agent.command,
            asked.agent.environment,
            host.vllm.user,
            ("0",),
            {"/models": "/x"},
        )
        assert asked.agent.command[0] == "Qwen/Qwen3-8B"
        assert asked.request == Request(MARK, 40 * GIB, (0, beside(one)))
        assert asked.needs == ("k",)

    def test_memory_is_said_where_all_of_its_cards_are_known(self) -> None:
        host = self.agent(gpus=[0, 1])
        [one] = host.agents
        large, small = PlannedGpu(0, "L4", 40 * GIB), PlannedGpu(1, "L4", 30 * GIB)
        unknown = PlannedGpu(1, "L4", None)

        def memory(*cards: PlannedGpu) -> int | None:
            asked = question(host, one, MARK, {}, cards)
            assert len(asked.request.others) == (2 if asked.request.memory else 1)
            return asked.request.memory

        assert memory(large, small) == 30 * GIB
        assert (memory(large), memory(large, unknown), memory()) == (None, None, None)

    def test_what_is_estimated_beside_it(self) -> None:
        [one] = self.agent().agents
        driver = int(0.5 * estimates.DRIVER)
        assert beside(one) == (
            driver + estimates.GRAPHS + estimates.CONTEXT,
            estimates.SAMPLER,
            2,
        )
        [two] = self.agent(gpus=[0, 1], extra_args=["--enforce-eager"]).agents
        assert beside(two)[0] == driver + estimates.CONTEXT_WITH_PEERS
