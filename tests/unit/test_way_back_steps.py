"""How agents go back, step by step: which definition, in which order, and what is said of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import SecretStr

from tests.unit.operation_steps import Steps
from tests.unit.samples import CODER, QWEN, settings
from tests.unit.test_way_back import AT, BY_TOKEN, ID, A, B, C, stored
from vllm_hosts.connect import lock
from vllm_hosts.errors import HostError, LostError
from vllm_hosts.facts.docker import ImageFound
from vllm_hosts.facts.tree import TreeFound
from vllm_hosts.host.compose import COMPOSE, ComposeFound
from vllm_hosts.host.containers import Container
from vllm_hosts.host.files import Absent, CopiedFile, File, Folder, Found
from vllm_hosts.host.paths import WAY_BACK
from vllm_hosts.host.way_back import Guarded, KeptDefinition, Undone, WayBack
from vllm_hosts.operations import way_back
from vllm_hosts.operations.compose import Agents
from vllm_hosts.operations.foreseen import Changing
from vllm_hosts.operations.one_by_one import Serving

ROOT = ("root", "0")
OPT = "/opt/vllm"
NOW, BEFORE, UNDONE = f"{WAY_BACK}/now", f"{WAY_BACK}/before", f"{WAY_BACK}/undone"
BOTH, ONE = stored(B), stored(A, agents=[QWEN])
IMAGE = BOTH.definition.image
GUARDED = Guarded(
    str(BOTH.definition.network), frozenset(agent.port for agent in BOTH.definition.agents)
)
QWEN_MODEL, CODER_MODEL = (agent.serves for agent in BOTH.definition.agents)


class Back(Steps):
    """Steps of this module. ``done``: what is carried out or waited for at once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        folders = {agent.folder: Found("d", 0o755, ROOT, ROOT) for agent in BOTH.definition.agents}
        facts = {
            "WayBackFound": WayBack(B, BOTH, ONE, None, GUARDED),
            "ComposeProject": self.project(),
            "TreeState": TreeFound(folders, ""),
            "ImageId": ID,
            "ImageVersion": ImageFound(ID, None),
            "EdgeRuns": True,
        }
        super().__init__(way_back, monkeypatch, facts)
        self.host.log_styled = lambda text, **_: self.told.append(("red", text))
        self.turn: Any = None
        self.up = self.again = True
        self.done: list[Any] = []
        self.fails: Exception | None = None
        put: Any = lambda name, value: monkeypatch.setattr(way_back, name, value)  # noqa: E731
        put("change", lambda entries, **words: ("change", list(entries), words))
        put("brought", self.brought)
        put("taken_up", lambda agent: ("take up", agent))
        put("wait_or_put_back", self.wait)
        put("carry_out", lambda commands: self.done.extend(commands))
        put("answers_again", lambda up: self.again and bool(up()))
        put("announced", lambda: self.turn)
        put("announce", self.telling("announce"))
        put("agents_change", lambda make: self.told.append(("agents_change", make())))
        put("turn_taken", self.taken)
        put("say", self.telling("say"))
        monkeypatch.setattr(lock, "changing", self.telling("history"))

    @staticmethod
    def project(*containers: Container, error: str | None = None) -> ComposeFound:
        wanted = {"qwen": "1", "coder": "1"}
        return ComposeFound(wanted, containers, error)

    def look(self, fact: type, **given: Any) -> Any:
        value = super().look(fact, **given)
        if isinstance(value, Exception):
            raise value
        return value

    def brought(self, agents: Agents, seen: Any) -> Iterator[Any]:
        self.agents = agents
        yield "bring", seen.names, list(seen.different)

    def wait(self, directory: str, names: Sequence[str], timeout: int, put_back: Any) -> None:
        self.done.append(("wait", directory, list(names), timeout))
        self.put_back = put_back
        if self.fails:
            raise self.fails

    @contextmanager
    def taken(self, turn: Any, *, together: bool) -> Iterator[None]:
        self.done.append(("turn", turn, together))
        yield
        self.done.append("turn over")

    def way(self, *, automatic: bool = True, token: str = "", together: bool = False) -> Any:
        return way_back.Way(
            OPT,
            lambda name: SecretStr(f"key of {name}"),
            SecretStr(token) if token else None,
            Serving({"qwen": "today"}, OPT, 9, together),
            lambda: self.up,
            automatic,
        )

    def at_once(self, do: Any, *given: Any) -> Any:
        """The same for what is no operation."""
        found: list[Any] = []

        def inner() -> Iterator[Any]:
            found.append(do(*given))
            yield from ()

        self.done.clear()
        self.run(SimpleNamespace(_inner=SimpleNamespace(__wrapped__=inner)))
        return found[0]

    def said(self, what: str) -> list[Any]:
        return [given[0] for name, *given in self.told if name == what]


@pytest.fixture
def back(monkeypatch: pytest.MonkeyPatch) -> Back:
    return Back(monkeypatch)


def there(name: str, hash_: str = "1", state: str = "running") -> Container:
    return Container(name, state, "healthy", service=name, config_hash=hash_)


def kept(folder: str, source: str) -> list[CopiedFile]:
    return [
        CopiedFile(f"{folder}/{name}", f"{source}/{name}", mode=0o600)
        for name in ("compose.yaml", "definition.json")
    ]


def restored(name: str, definition: KeptDefinition, taken_back: str, token: str = "") -> Any:
    keys = {one: SecretStr(f"key of {one}") for one in definition.names}
    return (
        "change",
        [
            definition.env(keys, SecretStr(token) if token else None),
            File(UNDONE, f"{taken_back}\n".encode(), mode=0o600),
        ],
        {
            "copies": [CopiedFile(f"{OPT}/compose.yaml", f"{WAY_BACK}/{name}/compose.yaml")],
            "validate": f"{COMPOSE} --project-directory {OPT} config --quiet",
        },
    )


class TestKept:
    FILE = File(f"{OPT}/compose.yaml", b"services: {}")

    def run(self, back: Back, found: WayBack) -> list[Any]:
        back.facts["WayBackFound"] = found
        made = lambda image: KeptDefinition.of(settings(agents=[QWEN, CODER]), image)  # noqa: E731
        return back.run(way_back.kept_for_a_way_back, lambda: self.FILE, made, OPT, IMAGE)

    def entries(self, *further: Any) -> list[Any]:
        return [
            Folder(WAY_BACK, mode=0o700),
            Folder(NOW, mode=0o700),
            File(f"{NOW}/compose.yaml", self.FILE.content, mode=0o600),
            File(f"{NOW}/definition.json", BOTH.definition.text.encode(), mode=0o600),
            *further,
        ]

    def test_what_is_new_is_kept_and_what_it_follows_as_well(self, back: Back) -> None:
        assert self.run(back, WayBack(B)) == [("change", self.entries(), {"copies": []})]
        assert back.asked == [
            ("WayBackFound", {"directory": OPT}),
            ("ImageVersion", {"image": IMAGE}),
        ]
        [(_, entries, words)] = self.run(back, WayBack(B, BOTH))
        assert entries == self.entries(Folder(BEFORE, mode=0o700))
        assert words == {"copies": kept(BEFORE, NOW)}
        assert back.told == []

    def test_the_same_is_kept_once(self, back: Back) -> None:
        same = stored(self.FILE.sha256)
        assert self.run(back, WayBack(B, same, ONE)) == []

    def test_another_definition_of_the_same_file_follows_nothing(self, back: Back) -> None:
        same = stored(self.FILE.sha256, agents=[QWEN])
        assert self.run(back, WayBack(B, same)) == [("change", self.entries(), {"copies": []})]

    def test_a_deploy_ends_what_was_taken_back(self, back: Back) -> None:
        same = stored(self.FILE.sha256)
        gone = Absent(UNDONE)
        for undone, told in ((C, []), (self.FILE.sha256, [AT])):
            [(_, entries, words)] = self.run(back, WayBack(B, same, None, Undone(undone, AT)))
            assert (entries, words) == (self.entries(gone), {"copies": []})
            assert back.told == [
                ("leads_to", f"agents get the definition again that was taken back here ({at})")
                for at in told
            ]

    def test_nothing_is_written_where_differences_are_asked_for(
        self, back: Back, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(way_back, "asked_for", lambda: True)
        assert self.run(back, WayBack(B)) == [] == back.asked


class TestPutBack:
    def run(self, back: Back, why: str = "a\x1b[2J is down", **words: Any) -> Any:
        return back.at_once(way_back.put_back, back.way(**words), why)

    def failed(self, back: Back) -> None:
        """A deploy has written another compose.yaml."""
        back.facts["WayBackFound"] = WayBack(C, BOTH, ONE, None, GUARDED)

    def test_the_last_good_ones_come_back(self, back: Back) -> None:
        self.failed(back)
        back.facts["ComposeProject"] = back.project(there("coder"), there("qwen", "2"))
        assert self.run(back) == (
            f"agents did not become healthy (see above); those of before are back, from {IMAGE},"
            " and healthy. Correct the settings, or set them back, and deploy again"
        )
        assert back.told == [
            ("red", "a is down"),
            ("log", f"    putting back the agents of {AT}, from {IMAGE}"),
            ("history", "the agents of before are put back"),
        ]
        assert back.done == [
            restored("now", BOTH.definition, C),
            ("bring", ["qwen"], []),
            ("take up", "qwen"),
            ("wait", OPT, ["qwen"], 9),
        ]
        assert ("ComposeProject", {"directory": OPT, "project": "vllm"}) in back.asked

    def test_what_runs_as_it_did_is_left_alone(self, back: Back) -> None:
        self.failed(back)
        back.facts["ComposeProject"] = back.project(there("coder"), there("qwen"))
        self.run(back)
        assert back.done[1:] == [("bring", [], []), ("wait", OPT, [], 9)]

    def test_agents_are_those_of_their_definition(self, back: Back) -> None:
        self.failed(back)
        self.run(back)
        agents, definition = back.agents, BOTH.definition
        assert (agents.directory, agents.project) == (OPT, "vllm")
        assert list(agents.names) == ["qwen", "coder"]
        assert agents.serving == Serving(definition.serves, OPT, 9)
        assert (agents.peers, agents.cells) == (definition.peers, definition.cells)
        assert agents.cards == definition.cards
        assert agents.internal_keys == {
            "qwen": SecretStr("key of qwen"),
            "coder": SecretStr("key of coder"),
        }
        back.up = False
        assert agents.edge_is_up() is False
        # What puts back is not put back itself.
        assert back.put_back("x") is None
        with pytest.raises(AssertionError, match="on the host alone"):
            agents.definition()

    def test_without_an_edge_nothing_is_taken_up(self, back: Back) -> None:
        self.failed(back)
        back.facts["EdgeRuns"] = False
        self.run(back)
        assert [one[0] for one in back.done] == ["change", "bring", "wait"]

    def test_where_there_is_nothing_to_do_nothing_is_said(self, back: Back) -> None:
        assert self.run(back, automatic=False) is None
        assert back.asked == []
        # What failed is what was healthy before.
        assert self.run(back) is None
        back.facts["WayBackFound"] = WayBack(C, None, ONE, None, GUARDED)
        assert self.run(back) is None
        back.facts["WayBackFound"] = LostError("gone")
        assert self.run(back) is None
        assert back.told == [] == back.done

    def test_what_is_kept_and_cannot_be_read_is_named(self, back: Back) -> None:
        back.facts["WayBackFound"] = HostError("it could not be understood")
        assert self.run(back) == (
            "agents did not become healthy (see above), and nothing was put back:"
            " it could not be understood"
        )
        assert back.told == [("red", "a is down")]

    def test_what_stands_against_it_is_named(self, back: Back) -> None:
        self.failed(back)
        back.facts["ImageId"] = ""
        folders = [agent.folder for agent in BOTH.definition.agents]
        links = dict.fromkeys(folders, Found("l", 0o777, ROOT, ROOT))
        back.facts["TreeState"] = TreeFound(links, "")
        assert self.run(back, "") == (
            "agents did not become healthy (see above), and nothing was put back: their image"
            f" {IMAGE} is no longer on the host; set vllm.image to it and deploy, which fetches it"
        )
        assert back.told == [] == back.done
        back.facts["WayBackFound"] = WayBack(C, BOTH)
        assert "; the firewall, which keeps local users" in self.run(back, "")

    def test_a_second_failure_is_said(self, back: Back) -> None:
        self.failed(back)
        back.fails = HostError("qwen crashed")
        assert self.run(back, "") == (
            "agents did not become healthy (see above), and those of before could not be put back"
            " either; see vllm-hosts doctor, correct the settings, and deploy again"
        )
        assert back.said("red") == ["qwen crashed"]
        # A lost connection has its own sentence.
        back.fails = LostError("gone")
        assert self.run(back, "") is None


class TestObstacles:
    def run(self, back: Back, **words: Any) -> list[str]:
        found: list[str] = back.at_once(way_back.refusals, back.way(**words))
        return found

    def test_nothing_stands_against_it(self, back: Back) -> None:
        assert self.run(back) == []
        [paths] = [given["paths"] for name, given in back.asked if name == "TreeState"]
        assert paths == [agent.folder for agent in ONE.definition.agents]
        assert ("ImageId", {"image": IMAGE}) in back.asked
        assert ("WayBackFound", {"directory": OPT}) in back.asked

    def test_where_there_is_nothing_to_go_back_to(self, back: Back) -> None:
        back.facts["WayBackFound"] = WayBack("")
        [problem] = self.run(back)
        assert problem.startswith("there is nothing to go back to: no deploy")
        assert ("refuse_for_good",) in back.told

    def test_each_reason_names_the_agents(self, back: Back) -> None:
        folder = ONE.definition.agents[0].folder
        back.facts["TreeState"] = TreeFound({folder: Found("f", 0o644, ROOT, ROOT)}, "")
        moved = stored(B, agents=[QWEN | {"port": 8009}])
        back.facts["WayBackFound"] = WayBack(B, moved, ONE, None, GUARDED)
        first, second = self.run(back)
        assert first.startswith(f"cannot go back to the agents of {AT}: the model of agent qwen")
        assert second == (
            f"cannot go back to the agents of {AT}: agent qwen was renamed, moved to another port"
            " or removed since, and the edge would not know it; set that back, and deploy"
        )
        # The edge has not changed while the last deploy is not done.
        back.facts["WayBackFound"] = WayBack(C, ONE, moved, None, GUARDED)
        assert len(self.run(back)) == 1

    def test_other_folders_and_tokens(self, back: Back) -> None:
        hub = stored(A, agents=[BY_TOKEN], secrets={"hf_token_env": "HF_TOKEN"})
        back.facts["WayBackFound"] = WayBack(B, BOTH, hub, None, GUARDED)
        [problem] = self.run(back)
        assert "they ask the hub with a token" in problem
        assert self.run(back, token="hf") == []


class TestAnnounced:
    def run(self, back: Back) -> Any:
        assert back.run(way_back.way_back_announced, back.way(together=True)) == []
        return [(name, *given) for name, *given in back.told]

    def test_all_hosts_hear_what_changes_and_what_is_served(self, back: Back) -> None:
        back.facts["ComposeProject"] = back.project(there("qwen", "2"), there("coder"))
        qwen = frozenset({QWEN_MODEL})
        changing = ("agents_change", Changing(qwen, qwen, True))
        assert self.run(back) == [("announce", qwen, qwen, {}), changing]
        [given] = [given for name, given in back.asked if name == "ComposeProject"]
        assert given == {
            "directory": OPT,
            "project": "vllm",
            "names": ["HF_TOKEN", "VLLM_API_KEY_QWEN"],
            "path": f"{BEFORE}/compose.yaml",
        }
        back.executing = False
        assert self.run(back) == [changing]

    def test_a_run_without_a_goal_ends_there(self, back: Back) -> None:
        back.facts["WayBackFound"] = WayBack(B, BOTH)
        with pytest.raises(HostError, match="nothing to go back to"):
            self.run(back)

    def test_an_agent_that_is_down_serves_nobody(self, back: Back) -> None:
        back.facts["ComposeProject"] = back.project(there("qwen", "2", "exited"))
        assert self.run(back)[0] == ("announce", frozenset({QWEN_MODEL}), frozenset(), {})


class TestGoneBack:
    def run(self, back: Back, **words: Any) -> list[Any]:
        back.done.clear()
        return back.run(way_back.gone_back, back.way(**words))

    def moved(self, source: str = BEFORE) -> Any:
        names = ("compose.yaml", "definition.json")
        absent = [Absent(f"{source}/{name}") for name in names]
        return "change", absent, {"copies": kept(NOW, source)}

    def test_it_becomes_what_was_before(self, back: Back) -> None:
        back.turn = "the turn"
        back.facts["ComposeProject"] = back.project(there("coder"))
        assert self.run(back) == [
            restored("before", ONE.definition, B),
            ("bring", ["qwen"], []),
            ("take up", "qwen"),
            self.moved(),
        ]
        assert back.done == [("turn", "the turn", False), ("wait", OPT, ["qwen"], 9), "turn over"]
        sentence = (
            "the next deploy does what the settings say: set them back too, if that is not done"
        )
        assert back.told == [
            ("leads_to", f"agents go back to those of {AT}, from {IMAGE}"),
            ("say", [sentence]),
        ]

    def test_what_was_cut_off_is_finished(self, back: Back) -> None:
        """The same definition again, and what is noted as taken back stays."""
        back.facts["WayBackFound"] = WayBack(B, BOTH, None, Undone(A, AT), GUARDED)
        back.facts["ComposeProject"] = back.project(there("coder"), there("qwen", "2"))
        commands = self.run(back)
        assert commands[:2] == [restored("now", BOTH.definition, A), ("bring", ["qwen"], [])]
        assert commands[2:] == [("take up", "qwen")]
        back.facts["ComposeProject"] = back.project(there("coder"), there("qwen"))
        with pytest.raises(HostError, match="taken back already"):
            self.run(back)

    def test_one_that_was_cut_off_on_its_way_still_takes_back_what_was_deployed(
        self, back: Back
    ) -> None:
        back.facts["WayBackFound"] = WayBack(A, BOTH, ONE, Undone(B, AT), GUARDED)
        assert self.run(back)[0] == restored("before", ONE.definition, B)

    @pytest.mark.parametrize(("present", "noted"), [(C, C), ("", "0" * 64)])
    def test_what_was_never_healthy_is_noted(self, back: Back, present: str, noted: str) -> None:
        back.facts["WayBackFound"] = WayBack(present, BOTH, ONE, Undone(A, AT), GUARDED)
        assert self.run(back)[0] == restored("now", BOTH.definition, noted)

    def test_without_an_edge_nothing_is_taken_up(self, back: Back) -> None:
        back.facts["EdgeRuns"] = False
        assert ("take up", "qwen") not in self.run(back)

    def test_an_edge_that_answered_has_to_do_so_again(self, back: Back) -> None:
        same = stored(B, agents=[QWEN])
        back.facts["WayBackFound"] = WayBack(B, same, ONE, None, GUARDED)
        assert self.run(back)[-1] == self.moved()
        back.again = False
        with pytest.raises(HostError, match="the edge, which answered before, reports that"):
            self.run(back)
        assert back.said("say") == []
        # It did not before, or may ask for an agent that is gone.
        back.up = False
        assert self.run(back)[-1] == self.moved()
        back.up = True
        back.facts["WayBackFound"] = WayBack(B, BOTH, ONE, None, GUARDED)
        assert self.run(back)[-1] == self.moved()

    def test_those_that_were_healthy_last_are_put_back(
        self, back: Back, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(way_back, "put_back", lambda way, why: f"{way.directory} {why}")
        self.run(back)
        assert back.put_back("why") == f"{OPT} why" == back.agents.put_back("why")

    def test_before_it_is_confirmed_its_effects_are_said(self, back: Back) -> None:
        back.executing, back.turn = False, "the turn"
        back.facts["ComposeProject"] = back.project(there("qwen", "2"))
        self.run(back, together=True)
        assert back.said("leads_to") == [
            f"agents go back to those of {AT}, from {IMAGE}",
            "agent qwen is recreated (its definition changed); it is down for minutes, while its"
            " model loads",
            "agent coder is removed; the edge answers for it with 502 until it is deployed",
        ]
        # Turns are announced while a run executes, and the edge is left alone until then.
        assert back.done == [("wait", OPT, ["qwen"], 9)]
        back.again = False
        self.run(back)

    def test_without_a_turn_none_is_waited_for(self, back: Back) -> None:
        self.run(back)
        assert back.done == [("wait", OPT, ["qwen"], 9)]
        back.turn = "the turn"
        self.run(back, together=True)
        assert back.done[0] == ("turn", "the turn", True)
