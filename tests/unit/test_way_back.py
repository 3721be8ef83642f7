"""What a host can go back to, and what stands against it."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import SecretStr

from tests.golden import FOLDER
from tests.unit.samples import CODER, QWEN, settings
from vllm_hosts.errors import HostError
from vllm_hosts.facts.base import END
from vllm_hosts.facts.way_back import WayBackFound
from vllm_hosts.host.paths import FIREWALL_RULES, WAY_BACK
from vllm_hosts.host.way_back import (
    Guarded,
    KeptDefinition,
    Stored,
    Target,
    Undone,
    WayBack,
    obstacles,
    strangers_to_the_edge,
    target,
)
from vllm_hosts.keys import HostKeys
from vllm_hosts.roles.secrets.plan import secret_entries
from vllm_hosts.settings.vllm import VLLM_FLOOR

ID = f"sha256:{'1' * 64}"
A, B, C = ("a" * 64, "b" * 64, "c" * 64)
AT = "2026-11-26 09:00:00 UTC"
TOKEN = SecretStr("hf_0123456789")


def definition(**changes: Any) -> KeptDefinition:
    return KeptDefinition.of(settings(**{"agents": [QWEN, CODER]} | changes), ID)


def stored(digest: str, **changes: Any) -> Stored:
    return Stored(definition(**changes), digest, AT)


NOW, BEFORE = stored(B), stored(A)
BY_TOKEN = QWEN | {
    "env": {"HF_HUB_OFFLINE": "0"},
    "egress": {"networks": ["192.0.2.0/24"], "tcp_ports": [443]},
}


class TestTarget:
    """Which of the definitions that a host keeps it goes back to."""

    @pytest.mark.parametrize(
        ("found", "name"),
        [
            (WayBack(B, NOW, BEFORE), "before"),
            # What runs was never seen healthy, or somebody has edited it.
            (WayBack(C, NOW, BEFORE), "now"),
            (WayBack(C, NOW), "now"),
            (WayBack("", NOW), "now"),
            # A way back that was cut off goes on where it was.
            (WayBack(A, NOW, BEFORE, Undone(B, AT)), "before"),
            # One whose agents did not become healthy can be tried once more.
            (WayBack(B, NOW, BEFORE, Undone(A, AT)), "before"),
            # A deploy after it was cut off as well.
            (WayBack(C, NOW, BEFORE, Undone(B, AT)), "now"),
        ],
    )
    def test_where_it_goes(self, found: WayBack, name: str) -> None:
        goal = target(found, unfinished=False)
        assert isinstance(goal, Target)
        assert (goal.name, goal.stored) == (name, BEFORE if name == "before" else NOW)

    @pytest.mark.parametrize(
        ("found", "words"),
        [
            (WayBack(B), "no deploy has left healthy agents here yet"),
            (WayBack(B, None, BEFORE), "no deploy has left healthy agents here yet"),
            (WayBack(B, NOW), "no other agents than these were healthy here"),
            (WayBack(B, NOW, BEFORE, Undone(C, AT)), f"was taken back already ({AT})"),
        ],
    )
    def test_where_there_is_nothing_it_says_what_to_do(self, found: WayBack, words: str) -> None:
        said = target(found, unfinished=False)
        assert isinstance(said, str)
        assert words in said
        assert "set back what you changed" in said

    def test_agents_that_were_not_brought_back_yet_are_brought(self) -> None:
        found = WayBack(B, NOW, BEFORE, Undone(C, AT))
        assert target(found, unfinished=True) == Target("now", NOW)


class TestObstacles:
    FITS: ClassVar[dict[str, Any]] = {
        "guarded": Guarded("198.18.0.0/16", frozenset({8001, 8002})),
        "directory": "/opt/vllm",
        "image_id": ID,
        "folders": {
            "/srv/models/coder",
            "/var/lib/vllm/huggingface/hub/models--Qwen--Qwen3-8B",
        },
        "token": False,
    }

    def found(self, wanted: KeptDefinition | None = None, **changes: Any) -> list[str]:
        return list(obstacles(wanted or definition(), **self.FITS | changes))

    def test_what_fits_is_put_back(self) -> None:
        assert self.found() == []

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"directory": "/srv/vllm"}, "vllm.directory was /opt/vllm for them; set it back"),
            (
                {"image_id": ""},
                "their image vllm/vllm-openai:v0.33.0 is no longer on the host; set",
            ),
            ({"image_id": ID.replace("1", "2")}, "is another image on the host than the one"),
            ({"folders": {"/srv/models/coder"}}, "the model of agent qwen is no longer in /var/"),
            # Local users would reach routes that ask for no key.
            (
                {"guarded": Guarded("198.18.0.0/16", frozenset({8001}))},
                "they were at ports 8002, which the firewall does not guard any more; set",
            ),
            (
                {"guarded": Guarded("198.19.0.0/16", frozenset({8001, 8002}))},
                "they were at 198.18.0.0/16, which the firewall does not guard any more; set",
            ),
            ({"guarded": Guarded()}, "is not in force; load it (systemctl restart vllm-"),
        ],
    )
    def test_what_stands_against_it(self, changes: dict[str, Any], words: str) -> None:
        [sentence] = self.found(**changes)
        assert words in sentence

    def test_a_vllm_with_a_way_around_its_key_does_not_come_back(self) -> None:
        assert self.found(definition().model_copy(update={"version": str(VLLM_FLOOR)})) == []
        for version in ("0.31.9", None, "nonsense"):
            [sentence] = self.found(definition().model_copy(update={"version": version}))
            assert "known vulnerabilities that bypass its key; set vllm.image" in sentence

    def test_a_token_that_was_withdrawn_does_not_come_back(self) -> None:
        named = {"secrets": {"hf_token_env": "HF_TOKEN"}}
        assert self.found(definition(**named)) == [], "no agent asks the hub"
        asks = definition(agents=[BY_TOKEN], **named)
        assert self.found(asks, token=True) == []
        [sentence] = self.found(asks)
        assert "they ask the hub with a token, and the settings no longer give one; set" in sentence

    def test_agents_that_the_edge_does_not_know(self) -> None:
        moved = definition(agents=[QWEN | {"port": 8009}, CODER])
        assert strangers_to_the_edge(moved, definition()) == ["qwen"]
        assert strangers_to_the_edge(definition(agents=[QWEN]), definition()) == []


class TestDefinition:
    def test_it_is_read_as_it_was_written(self) -> None:
        made = definition(vllm={"network": "198.19.0.0/20"})
        assert made.text.count("\n") == 1
        assert KeptDefinition.read(made.text) == made
        assert made.cells["coder"] == settings(
            agents=[QWEN, CODER], vllm={"network": "198.19.0.0/20"}
        ).cell("coder")
        assert (made.serves, made.cards) == (
            {"qwen": "qwen", "coder": "coder-14b"},
            {"qwen": (0,), "coder": (1, 2)},
        )

    def test_twins_are_known(self) -> None:
        twin = QWEN | {"name": "twin", "port": 8003, "gpus": [1], "served_model_name": "qwen"}
        assert definition(agents=[QWEN, twin, CODER | {"gpus": [2]}]).peers == {
            "qwen": ["twin"],
            "twin": ["qwen"],
            "coder": [],
        }

    def test_another_version_s_form_is_nothing(self) -> None:
        assert KeptDefinition.read(definition().text.replace('"format":1', '"format":2')) is None

    @pytest.mark.parametrize(
        ("one", "other"),
        [('"qwen"', '"qwen; reboot"'), ("/opt/vllm", "/opt/$(id)"), ("v0.33.0", "`id`"), ("}", "")],
    )
    def test_what_a_shell_would_read_otherwise_is_refused(self, one: str, other: str) -> None:
        text = definition().text
        assert one in text
        with pytest.raises(ValueError):
            KeptDefinition.read(text.replace(one, other))

    @pytest.mark.parametrize("word", ["x\n[gpu2] Success", "x\x1b[2K", "x\u2028y", "x\x9b1m"])
    def test_no_word_of_a_host_makes_lines_of_its_own(self, word: str) -> None:
        said = json.loads(definition().text)
        said["agents"][0]["serves"] = word
        with pytest.raises(ValueError, match="serves"):
            KeptDefinition.read(json.dumps(said))

    @pytest.mark.parametrize("token", [None, TOKEN])
    def test_env_is_what_a_deploy_of_then_would_write_with_the_keys_of_now(
        self, token: SecretStr | None
    ) -> None:
        named = {"secrets": {"hf_token_env": "HF_TOKEN"}} if token else {}
        then = settings(agents=[QWEN, CODER], **named)
        keys = HostKeys(SecretStr("internal"), (), token)
        by_agent = {name: keys.internal_of(name) for name in ("coder", "qwen", "another")}
        made = KeptDefinition.of(then, ID)
        assert made.env(by_agent, TOKEN) == secret_entries(then, keys)[-1]
        # A token that the settings no longer give is left out.
        assert b"HF_TOKEN" not in made.env(by_agent, None).content


class TestLook:
    """The fact's own script, run here."""

    @pytest.fixture
    def here(self, tmp_path: Path) -> Path:
        for name in ("now", "before", "opt"):
            (tmp_path / name).mkdir()
        (tmp_path / "opt/compose.yaml").write_text("services: {}\n")
        rules = (FOLDER / "firewall/exposed.nft").read_text()
        (tmp_path / "firewall.nft").write_text(rules)
        return tmp_path

    def look(self, here: Path, *, in_force: bool = True) -> WayBack:
        (here / "bin").mkdir(exist_ok=True)
        (here / "bin/nft").write_text(f"#!/bin/sh\nexit {0 if in_force else 1}\n")
        (here / "bin/nft").chmod(0o755)
        environment = {**os.environ, "PATH": f"{here}/bin:{os.environ['PATH']}"}
        script = WayBackFound().command(str(here / "opt"))
        script = script.replace(WAY_BACK, str(here))
        script = script.replace(FIREWALL_RULES, str(here / "firewall.nft"))
        done = subprocess.run(
            ["sh", "-c", script], capture_output=True, text=True, check=True, env=environment
        )
        assert done.stderr == ""
        return WayBackFound().process(done.stdout.splitlines())

    def keep(self, here: Path, name: str, content: str) -> None:
        (here / name / "compose.yaml").write_text(content)
        (here / name / "definition.json").write_text(definition().text)
        os.utime(here / name / "definition.json", (0, 1_000_000_000))

    def test_a_host_without_any(self, here: Path) -> None:
        found = self.look(here)
        assert (found.now, found.before, found.undone, found.good) == (None, None, None, False)
        assert len(found.present) == 64
        assert found.guarded == Guarded("198.18.0.0/16", frozenset({8001, 8002}))

    def test_rules_that_are_not_in_force_guard_nothing(self, here: Path) -> None:
        assert self.look(here, in_force=False).guarded == Guarded()

    def test_a_fresh_host(self, tmp_path: Path) -> None:
        assert self.look(tmp_path) == WayBack("")

    def test_what_is_kept(self, here: Path) -> None:
        self.keep(here, "now", "services: {}\n")
        self.keep(here, "before", "another\n")
        (here / "undone").write_text(f"{C}\n")
        os.utime(here / "undone", (0, 1_000_000_000))
        found = self.look(here)
        assert found.good
        assert found.now and found.before
        assert (found.now.definition, found.now.at) == (definition(), "2001-09-09 01:46:40 UTC")
        assert found.before.compose != found.now.compose
        assert found.undone == Undone(C, "2001-09-09 01:46:40 UTC")

    @pytest.mark.parametrize("gone", ["compose.yaml", "definition.json"])
    def test_half_of_one_is_no_way_back(self, here: Path, gone: str) -> None:
        self.keep(here, "now", "services: {}\n")
        (here / "now" / gone).unlink()
        assert self.look(here).now is None

    def test_one_that_is_damaged_is_said_to_be(self, here: Path) -> None:
        self.keep(here, "now", "services: {}\n")
        (here / "now/definition.json").write_text("{")
        with pytest.raises(HostError, match=rf"\(remove {WAY_BACK} to go on .* be understood"):
            self.look(here)

    def test_one_agent_in_the_firewall(self) -> None:
        lines = ["== present", "== now", "== before", "== undone", "== guarded", "ports 8001", END]
        assert WayBackFound().process(lines).guarded == Guarded("", frozenset({8001}))

    def test_what_is_noted_without_its_end_is_read(self, here: Path) -> None:
        (here / "undone").write_text(C)
        found = self.look(here).undone
        assert found is not None and found.compose == C

    @pytest.mark.parametrize("part", ["present", "undone"])
    def test_a_digest_that_is_none_is_named(self, part: str) -> None:
        lines = {name: [f"== {name}"] for name in ("present", "now", "before", "undone", "guarded")}
        text = f"{C}{'x' * 99}"
        lines[part] += [text, AT][: 1 if part == "present" else 2]
        with pytest.raises(HostError) as found:
            WayBackFound().process([*(line for one in lines.values() for line in one), END])
        assert str(found.value).endswith(f"could not be understood: ValueError({text[:100]!r})")

    def test_a_definition_without_end_ends_no_look(self, here: Path) -> None:
        self.keep(here, "now", "services: {}\n")
        text = definition().text
        (here / "now/definition.json").write_text(text.rstrip() + " " * (256 << 10))
        with pytest.raises(HostError, match="could not be understood"):
            self.look(here)
        assert f"head -c {256 << 10} definition.json" in WayBackFound().command("/opt/vllm")

    def test_it_is_true_until_somebody_changes_something(self) -> None:
        assert WayBackFound.steady is True
