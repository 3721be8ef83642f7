"""What a deploy will do to agents: decided from what should be and what is there."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import SecretStr

from tests.unit.fakes import docker, inspect_line
from tests.unit.samples import QWEN, settings
from vllm_hosts.facts.base import END
from vllm_hosts.facts.compose import ComposeHashes, ComposeProject
from vllm_hosts.facts.docker import AgentsServed, Served
from vllm_hosts.host.agent_changes import (
    Change,
    Definition,
    changes,
    digest,
    half_replaced,
    sentences,
    serving,
    with_new_key,
)
from vllm_hosts.host.compose import ComposeFound
from vllm_hosts.host.containers import Container
from vllm_hosts.host.files import File
from vllm_hosts.host.services import compose_entry
from vllm_hosts.keys import HostKeys
from vllm_hosts.operations.outage import out_for
from vllm_hosts.roles.vllm.plan import variables

KEY = SecretStr("key-of-qwen-0123456789")
DEFINITION = Definition(
    File("/opt/vllm/compose.yaml", b"services: {}"),
    {"qwen": {"VLLM_API_KEY_QWEN": KEY}, "coder": {"VLLM_API_KEY_CODER": SecretStr("other")}},
)


def container(name: str, hash_: str = "new", status: str = "running") -> Container:
    return Container(name, status, service=name, config_hash=hash_)


def test_what_changes_and_why() -> None:
    found = ComposeFound(
        dict.fromkeys(("a", "b", "c", "d", "e"), "new"),
        (container("a"), container("b", "old"), container("c", status="exited"), container("e")),
        None,
    )
    assert changes(["a", "b", "c", "d", "e"], found, {"e"}) == [
        Change("b", "its definition changed", runs=True),
        Change("c", "it is exited", runs=False),
        Change("d", "it is new", runs=False),
        Change("e", "its key changed", runs=True),
    ]
    assert serving(["a", "b", "c"], found) == {"a", "b"}


@pytest.mark.parametrize(("status", "runs"), [("running", True), ("exited", False)])
def test_an_agent_whose_replacement_was_cut_off_is_recreated(status: str, runs: bool) -> None:
    """Whichever of the two Docker names first, and although one of them is as it should be."""
    new = replace(container("a", status="created"), name="6a145f9dbb26_a")
    # And one that is called like that from the beginning.
    wanted = {"a": "old", "b": "new", "6a145f9dbb26_b": "new"}
    others = (container("b"), container("6a145f9dbb26_b"))
    for two in ((container("a", "old", status), new), (new, container("a", "old", status))):
        found = ComposeFound(wanted, (*two, *others), None)
        assert changes([*wanted], found) == [Change("a", "its replacement was cut off", runs)]
        assert half_replaced(found) == {"a"}
    # The old one is gone by then.
    assert changes(["a"], ComposeFound({"a": ""}, (new,), None)) == [
        Change("a", "its replacement was cut off", runs=False)
    ]


def test_an_agent_that_is_not_up_may_still_be_taken_down() -> None:
    states = ("restarting", "paused", "created", "dead")
    found = ComposeFound(
        dict.fromkeys(states, "new"), tuple(container(one, status=one) for one in states), None
    )
    assert [one.runs for one in changes(states, found)] == [True, True, False, False]


def test_how_long_a_start_takes_is_rounded() -> None:
    def said(seconds: int) -> str:
        [sentence] = sentences([Change("a", "it is new", runs=False)], [], {"a": seconds}, {})
        return sentence.partition("takes about ")[2]

    assert [said(seconds) for seconds in (119, 120, 3600)] == ["119 s", "2 minutes", "60 minutes"]


def test_what_happens_is_said_in_words() -> None:
    changed = [
        Change("a", "its definition changed", runs=True),
        Change("b", "its key changed", runs=True),
        Change("c", "its definition changed", runs=True),
        Change("d", "it is new", runs=False),
        Change("e", "it is exited", runs=False),
    ]
    assert list(sentences(changed, ["z"], {"a": 58, "c": 300, "e": 300}, {"c": "twin"})) == [
        "agent a is recreated (its definition changed); it is down for about 58 s, as long as its"
        " last start took",
        "agent b is recreated (its key changed); it is down for minutes, while its model loads",
        "agent c is recreated (its definition changed); twin answers for it meanwhile",
        "agent d is started (it is new); that takes minutes: its model loads",
        "agent e is started (it is exited); that takes about 5 minutes",
        "agent z is removed: it is no longer in the settings",
    ]


def asked(folder: Path, script: str, env: str | None, **words: object) -> ComposeFound:
    """The fact, by this machine's own shell, with a docker that answers so."""
    fact = ComposeProject()
    command = fact.command(directory=str(folder / "opt"), project="vllm", **words)  # type: ignore[arg-type]
    return fact.process(said(folder, script, env, command))


def said(folder: Path, script: str, env: str | None, command: str) -> list[str]:
    opt = folder / "opt"
    opt.mkdir(exist_ok=True)
    if env is not None:
        (opt / ".env").write_text(env)
    done = subprocess.run(
        ["sh", "-c", command], capture_output=True, text=True, check=True,
        env=docker(folder, script),
    )  # fmt: skip
    assert KEY.get_secret_value() not in done.stdout
    return done.stdout.splitlines()


#: Compose reads the file from standard input, and needs every variable.
COMPOSE = """
case "$*" in
    *"config --hash"*)
        case "$*" in *"--file - "*) cat ;; *) cat "$(dirname "$0")/../opt/compose.yaml" ;; esac
        grep -qs ^VLLM_API_KEY_CODER= "$(dirname "$0")/../opt/.env" ||
            [ -n "$VLLM_API_KEY_CODER" ] ||
            { echo 'required variable VLLM_API_KEY_CODER is missing'; exit 1; } ;;
esac
"""


def test_compose_is_asked_about_a_file_that_lies_elsewhere(tmp_path: Path) -> None:
    """With what .env has now, and a value in the place of what it lacks."""
    (tmp_path / "opt").mkdir()
    (tmp_path / "opt/compose.yaml").write_text("qwen now\n")
    (tmp_path / "before.yaml").write_text("qwen old\ncoder old\n")
    words = {"path": str(tmp_path / "before.yaml"), "names": ["VLLM_API_KEY_CODER"]}
    found = asked(tmp_path, COMPOSE, "VLLM_API_KEY_QWEN=1\n", **words)
    assert (found.wanted, found.error) == ({"qwen": "old", "coder": "old"}, None)
    assert asked(tmp_path, COMPOSE, "VLLM_API_KEY_CODER=1\n").wanted == {"qwen": "now"}


def test_compose_is_asked_about_the_file_that_there_will_be(tmp_path: Path) -> None:
    (tmp_path / "opt").mkdir()
    (tmp_path / "opt/compose.yaml").write_text("qwen 0123\n")
    env = f"VLLM_API_KEY_QWEN={KEY.get_secret_value()}\n"
    # The file that is there; Compose says no hash where a variable is missing.
    assert asked(tmp_path, COMPOSE, env).error is not None
    found = asked(tmp_path, COMPOSE, env, file="qwen 4567\ncoder 89ab\n", names=DEFINITION.names)
    assert found.wanted == {"qwen": "4567", "coder": "89ab"}
    assert found.env == {}
    # A dollar, a quote and a percent sign reach Compose as they are.
    odd = "qwen 4567\nx: '$$HOME %s \"`id`\"'\n"
    found = asked(tmp_path, COMPOSE + "\ntrue", env, file=odd, names=DEFINITION.names)
    assert found.wanted == {"qwen": "4567"}


@pytest.mark.parametrize("env", ["VLLM_API_KEY_CODER=1\n", None], ids=["whole", "without a key"])
def test_hashes_alone_are_the_same(tmp_path: Path, env: str | None) -> None:
    """And whoever has them asks Compose nothing any more."""
    (tmp_path / "opt").mkdir()
    (tmp_path / "opt/compose.yaml").write_text("qwen now\n")
    whole = asked(tmp_path, COMPOSE, env)
    command = ComposeHashes().command(directory=str(tmp_path / "opt"))
    found = ComposeHashes().process(said(tmp_path, COMPOSE, env, command))
    assert (found.wanted, found.error) == (whole.wanted, whole.error)
    assert bool(found.error) is (env is None)
    never = 'case "$*" in *compose*config*) exit 9 ;; esac'
    without = asked(tmp_path, never, env, hashes=False)
    assert (without.wanted, without.error) == ({}, None)
    assert replace(whole, wanted={}, error=None) == without


def test_keys_are_compared_without_being_said(tmp_path: Path) -> None:
    env = f"# for people\n\nVLLM_API_KEY_QWEN={KEY.get_secret_value()}\nVLLM_API_KEY_CODER=was\n"
    words = {"file": "", "names": DEFINITION.names, "salt": "ab12"}
    found = asked(tmp_path, COMPOSE, env, **words)
    assert found.env["VLLM_API_KEY_QWEN"] == digest("ab12", "VLLM_API_KEY_QWEN", KEY)
    assert with_new_key(DEFINITION, found, "ab12") == {"coder"}
    assert with_new_key(DEFINITION, found, "cd34") == {"qwen", "coder"}
    # A variable that is not there yet, or a host without the file.
    found = asked(tmp_path, COMPOSE, env.partition("VLLM_API_KEY_CODER")[0], **words)
    assert with_new_key(DEFINITION, found, "ab12") == {"coder"}
    (tmp_path / "opt/.env").unlink()
    found = asked(tmp_path, COMPOSE, None, **words)
    assert with_new_key(DEFINITION, found, "ab12") == {"qwen", "coder"}


def test_variables_of_an_agent_are_those_that_its_definition_asks_for() -> None:
    host = settings(
        agents=[QWEN, QWEN | {"name": "folder", "port": 8002, "gpus": [1], "model": "/srv/m"}]
    )
    keys = HostKeys(SecretStr("x" * 40), (), None)
    found = variables(host, keys)
    assert {agent: set(values) for agent, values in found.items()} == {
        "qwen": {"VLLM_API_KEY_QWEN"},
        "folder": {"VLLM_API_KEY_FOLDER"},
    }
    text = compose_entry(host, 64 << 30).content.decode()
    assert all("${" + name + ":?}" in text for values in found.values() for name in values)


def test_how_long_the_last_start_took() -> None:
    found = ComposeProject().process(
        ["== hashes", "exit 0", "== containers", "== starts"]
        + ["/var/lib/vllm-hosts/starts/qwen:58", "== networks", END]
    )
    assert found.starts == {"qwen": 58}


def test_who_is_out_while_docker_restarts(tmp_path: Path) -> None:
    script = """
        case "$1" in
            info) echo 'WARNING: no swap limit support' >&2; echo true ;;
            ps) echo 1; echo 2; echo 3 ;;
            inspect) cat "$(dirname "$0")/../inspected" ;;
        esac"""
    there = [
        inspect_line("qwen"),
        inspect_line("somebody-else"),
        inspect_line("loads", health="starting"),
    ]
    (tmp_path / "inspected").write_text("".join(f"{line}\n" for line in there))
    done = subprocess.run(
        ["sh", "-c", AgentsServed().command()], capture_output=True, text=True, check=True,
        env=docker(tmp_path, script),
    )  # fmt: skip
    found = AgentsServed().process(done.stdout.splitlines())
    assert (found.answers, found.live_restore) == (True, True)
    assert found.well == ("qwen", "somebody-else")
    done = subprocess.run(
        ["sh", "-c", AgentsServed().command()], capture_output=True, text=True, check=True,
        env=docker(tmp_path, "exit 1"),
    )  # fmt: skip
    assert AgentsServed().process(done.stdout.splitlines()).answers is False
    served = Served(True, False, ("a", "b"), {"a": 58, "b": 61})
    assert out_for(["a", "b"], served) == (
        "; a, b are down for about 61 s after it, while models load"
    )
    assert out_for(["a"], Served(True, False, ("a",), {})) == (
        "; a is down for minutes after it, while models load"
    )
    assert out_for([], served) == ""
