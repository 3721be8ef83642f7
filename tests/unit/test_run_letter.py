"""What ``config.py`` does before anything is loaded, and what a role is told, to the letter."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
from pyinfra.api.config import Config
from pyinfra.api.exceptions import PyinfraError
from pyinfra.api.state import State
from pyinfra.context import ctx_config, ctx_host, ctx_state

from tests.unit.fleets import both
from tests.unit.samples import CODER, QWEN, settings
from vllm_hosts.connect import pyinfra_output, pyinfra_speed
from vllm_hosts.connect.lock import Purpose
from vllm_hosts.errors import HostError
from vllm_hosts.facts import ahead
from vllm_hosts.facts.answered_inside import AnsweredInside
from vllm_hosts.host import probe
from vllm_hosts.host.marks import DEPLOY_SINCE
from vllm_hosts.host.probe import Response
from vllm_hosts.keys.ownership import Claim
from vllm_hosts.keys.places import client_ca_file
from vllm_hosts.keys.store_content import DeployedHost
from vllm_hosts.operations import one_by_one
from vllm_hosts.operations.one_by_one import Serving
from vllm_hosts.operations.rotation import Rotation
from vllm_hosts.project import ending, outlook, pyinfra_command, run
from vllm_hosts.project.before import Run
from vllm_hosts.project.rotation import asked_inside
from vllm_hosts.project.run import AtHand, Current

STARTED = (
    "compiled_once",
    "pyinfra_output.install",
    "pyinfra_speed.install",
    "pyinfra_speed.few_collections",
)


class Begins:
    """The first moments of a run, with stand-ins for what they call."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.did: list[Any] = []
        self.state = State()
        self.given: dict[str, Any] = {}
        self.file = folder / "inventory/prod.py"
        self.file.parent.mkdir()
        self.file.touch()
        monkeypatch.setattr(sys, "path", [*sys.path])
        monkeypatch.setattr(run, "_run", None)
        monkeypatch.setattr(run, "_made", {"old": None})
        monkeypatch.delenv(DEPLOY_SINCE, raising=False)
        told = self.told
        for of, names in {
            ending: ("listen", "keep_code", "say_how_to_retry"),
            pyinfra_output: ("install",),
            pyinfra_speed: ("install", "few_collections"),
            pyinfra_command: ("check_options", "ask_somebody", "check_site",
                                  "say_who_has_old_keys"),
            outlook: ("install",),
            one_by_one: ("begin",),
            ahead: ("end",),
        }.items():  # fmt: skip
            for name in names:
                monkeypatch.setattr(of, name, told(f"{of.__name__.split('.')[-1]}.{name}"))
        monkeypatch.setattr(run, "compiled_once", told("compiled_once"))
        monkeypatch.setattr(run, "load_our_way", told("load_our_way"))
        monkeypatch.setattr(run, "initialise", told("initialise"))
        monkeypatch.setattr(run, "deploy_mark", lambda now: f"since {type(now).__name__}")

    def told(self, name: str) -> Callable[..., None]:
        def tell(*given: Any, **named: Any) -> None:
            self.did.append((name, *given, *([named] if named else [])))

        return tell

    def names(self) -> list[str]:
        return [one[0] for one in self.did]

    def install(self, project: Any = None, command: bool = True) -> Config:
        """Also what is done when pyinfra's command ends."""
        config = Config()
        with ctx_state.use(self.state), ctx_config.use(config):
            if not command:
                run.install(project)
                return config
            with click.Context(click.Command("pyinfra")) as context:
                context.params = self.given
                run.install(project)
                self.did.append(("ends",))
        return config


@pytest.fixture
def begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Begins]:
    yield Begins(tmp_path, monkeypatch)
    os.environ.pop(DEPLOY_SINCE, None)


class TestInstall:
    def test_a_deploy(self, begins: Begins) -> None:
        file = begins.file
        begins.given = {"inventory": str(file), "operations": ("x/deploy.py", "b.py"),
                        "data": ("a=b",)}  # fmt: skip
        original = begins.state.init
        config = begins.install()
        made = run._run
        assert made is not None
        assert (made.file, made.dry, made.ours, made.project) == (file, False, False, None)
        assert (made.what, made.keys_only, made.removal) == ("deploy.py+b.py", False, False)
        assert run._made == {}
        *ends, (_, chosen, *retry), closed, code = begins.did[-4:]
        assert ends == [("ends",)]
        assert chosen() == () and retry == [begins.state, file, "deploy.py b.py", ""]
        assert [closed, code] == [("ahead.end", begins.state), ("ending.keep_code",)]
        assert begins.did[:-4] == [
            ("ending.listen", begins.state),
            *((name,) for name in STARTED),
            ("pyinfra_command.check_options", begins.given),
            ("pyinfra_command.ask_somebody",),
            ("one_by_one.begin",),
            ("pyinfra_command.check_site", begins.given, file),
            ("outlook.install", {"dry": False}),
            ("load_our_way", made),
        ]
        assert begins.state.cwd == str(file.parents[1])
        begins.did.clear()
        begins.state.init("inventory", x=1)  # type: ignore[call-arg, arg-type]
        assert begins.did == [("initialise", made, begins.state, original, "inventory", {"x": 1})]
        # What it leaves at work is known by this.
        assert os.environ[DEPLOY_SINCE] == "since datetime"
        assert config.INHERIT_ENV[-1] == DEPLOY_SINCE

    def test_one_that_only_looks(self, begins: Begins) -> None:
        begins.given = {"inventory": str(begins.file), "operations": ("deploy.py",), "dry": True}
        config = begins.install()
        assert run._run is not None and run._run.dry
        assert ("outlook.install", {"dry": True}) in begins.did
        assert DEPLOY_SINCE not in os.environ and DEPLOY_SINCE not in config.INHERIT_ENV
        assert begins.names()[-3:] == ["ends", "ahead.end", "ending.keep_code"]

    def test_one_about_keys(self, begins: Begins) -> None:
        begins.given = {"inventory": str(begins.file), "operations": ("keys.py",)}
        begins.install()
        made = run._run
        assert made is not None and made.keys_only and not made.removal
        assert begins.did[-4:] == [
            ("ends",),
            ("pyinfra_command.say_who_has_old_keys", (), begins.state, begins.file),
            ("ahead.end", begins.state),
            ("ending.keep_code",),
        ]
        begins.did.clear()
        begins.given["dry"] = True
        begins.install()
        assert begins.names()[-3:] == ["ends", "ahead.end", "ending.keep_code"]

    def test_a_removal_says_again_what_it_was_told(self, begins: Begins) -> None:
        begins.given = {"inventory": str(begins.file), "operations": ("remove.py",),
                        "data": ("models=delete",)}  # fmt: skip
        begins.install()
        assert run._run is not None and run._run.removal and not run._run.keys_only
        [retry] = [one for one in begins.did if one[0] == "ending.say_how_to_retry"]
        assert retry[4:] == ("remove.py", "--data models=delete ")

    def test_one_of_a_single_command(self, begins: Begins) -> None:
        """``pyinfra INVENTORY exec -- uptime`` runs no file, and is no deploy."""
        begins.given = {"inventory": str(begins.file)}
        begins.install()
        assert run._run is not None and run._run.what == "deploy.py"
        assert DEPLOY_SINCE not in os.environ

    def test_a_command_of_ours(self, begins: Begins) -> None:
        """It says itself what it does, and ends with codes of its own."""
        project: Any = SimpleNamespace(file=begins.file)
        for command in (False, True):
            begins.did.clear()
            begins.given = {"operations": ("deploy.py",), "dry": True}
            begins.install(project, command)
            made = run._run
            assert made is not None and made.ours and made.project is project
            assert (made.file, made.what) == (begins.file, "deploy.py")
            rest = begins.names()[len(STARTED) :]
            checks = ["pyinfra_command.check_options", "pyinfra_command.ask_somebody"]
            assert rest[:3] == [*checks, "one_by_one.begin"]
            assert rest[3:] == (["ends", "ahead.end"] if command else [])

    def test_an_inventory_that_is_no_file(self, begins: Begins) -> None:
        """Names of hosts, which pyinfra takes as well."""
        before = begins.state.cwd
        begins.given = {"inventory": "gpu1,gpu2", "operations": ("deploy.py",)}
        begins.install()
        assert begins.state.cwd == before

    def test_none_at_all(self, begins: Begins, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as error:
            begins.install(command=False)
        assert error.value.code == 2
        assert capsys.readouterr().err == (
            "--> the inventory's file is not known; run pyinfra INVENTORY deploy.py\n"
        )
        assert run._run is None


class TestCurrent:
    HOST = settings(
        agents=[QWEN, CODER],
        vllm={"directory": "/opt/v", "health_timeout": 77, "change_together": True,
              "roll_back": False},
        rolling={"batch": 3},
    )  # fmt: skip

    def current(self, known: Any = None, **more: Any) -> Current:
        keys: Any = SimpleNamespace(internal_of="key of", hf_token="token")
        store: Any = SimpleNamespace(folder=Path("/the/store"))
        return Current(known or self.HOST, keys, store, **more)

    def test_what_other_hosts_may_serve(self) -> None:
        gates = Rotation("gpu1")
        [qwen, coder] = [agent.client_model_name for agent in self.HOST.agents]
        made = self.current(on_hosts={qwen: 5}, in_front=lambda: gates)
        assert made.serving == Serving(
            # Who serves a model alone changes by itself.
            {"qwen": qwen, "coder": coder}, "/opt/v", 77, True, {qwen: 3, coder: 1},
        )  # fmt: skip
        assert made.rotation is gates is made.serving.rotation

    def test_the_way_back(self) -> None:
        made = self.current()
        way: Any = made.way
        assert (way.directory, way.key_of, way.token) == ("/opt/v", "key of", "token")
        assert (way.serving, way.automatic) == (made.serving, False)
        assert way.edge_is_up == made.edge_is_up
        with pytest.raises(FrozenInstanceError):
            made.keys = made.keys  # type: ignore[misc]

    def test_the_edge_as_clients_see_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        made = self.current()
        asked: list[Any] = []
        answer: list[Any] = [Response(200, {}, b"")]

        def get(*given: Any, **named: Any) -> Response:
            asked.append((given, named))
            if isinstance(answer[0], OSError):
                raise answer[0]
            found: Response = answer[0]
            return found

        monkeypatch.setattr(probe, "get", get)
        assert made.edge_is_up() is True
        assert asked == [
            (
                ("192.0.2.11", self.HOST.edge.https_port, "/health"),
                {"name": self.HOST.edge_names[0], "ca_file": made.ca_file},
            )
        ]
        assert made.ca_file == client_ca_file(self.HOST, Path("/the/store"))
        for answer[0] in (Response(503, {}, b""), OSError()):
            assert made.edge_is_up() is False

    def test_the_edge_of_a_machine_that_is_both(self, monkeypatch: pytest.MonkeyPatch) -> None:
        [one, *_] = both().values()
        found: list[Any] = []

        def look(fact: type, **asked: Any) -> Any:
            assert fact is AnsweredInside
            assert asked == asked_inside(one, one.agents[0].name, "/v1/models")
            if isinstance(found[0], HostError):
                raise found[0]
            return found[0]

        monkeypatch.setattr(run, "look", look)
        monkeypatch.setattr(probe, "get", lambda *_, **__: Response(200, {}, b""))
        for answer, up in (
            (Response(200, {}, b""), True),
            (Response(500, {}, b""), False),
            (ConnectionRefusedError(), False),
            (HostError("lost"), False),
        ):
            found[:] = [answer]
            assert self.current(one).edge_is_up() is up


class Project:
    """What a run has loaded."""

    def __init__(self) -> None:
        self.file = Path("inventory/prod.py")
        self.settings = {"gpu1": settings()}
        self.keys: Any = {"gpu1": SimpleNamespace(clients=("alice",))}
        self.way = DeployedHost(data={}, agents=("old",))
        self.opened: Any = SimpleNamespace(
            content=SimpleNamespace(hosts={"gone": self.way}),
            client_keys=lambda name: (f"client of {name}",),
        )
        self.on_hosts = {"qwen": 2}

    def claim(self, name: str) -> Any:
        return SimpleNamespace(host=name, way=DeployedHost(data={}, agents=("qwen",)))


class TestAtHand:
    @pytest.fixture
    def project(self, monkeypatch: pytest.MonkeyPatch) -> Project:
        made = Project()
        begun = Run(made.file, dry=False, ours=False, what="keys.py", project=made)  # type: ignore[arg-type]
        monkeypatch.setattr(run, "_run", begun)
        monkeypatch.setattr(run, "_made", {})
        return made

    def at(self, name: str, what: Callable[[], Any]) -> Any:
        with ctx_host.use(SimpleNamespace(name=name)):
            return what()

    def test_a_role_s_host(self, project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(run, "rotation_of", lambda *given: given)
        found = self.at("gpu1", run.current)
        assert (found.settings, found.keys) == (project.settings["gpu1"], project.keys["gpu1"])
        assert (found.store, found.on_hosts) == (project.opened, project.on_hosts)
        assert found.rotation == (project, "gpu1")
        # What one role works out is found by another, until another project is loaded.
        assert self.at("gpu1", run.current) is found
        assert run._run is not None
        run._run = replace(run._run, project=Project())  # type: ignore[arg-type]
        assert self.at("gpu1", run.current) is not found

    def test_a_host_of_the_inventory(self, project: Project) -> None:
        found = self.at("gpu1", run.at_hand)
        assert (found.listed, found.clients, found.agents) == (True, ("alice",), ("qwen",))
        assert found.claim.host == "gpu1"
        with pytest.raises(FrozenInstanceError):
            found.listed = False

    def test_one_that_only_the_store_remembers(self, project: Project) -> None:
        found = self.at("gone", run.at_hand)
        clients: Any = ("client of gone",)
        claim = Claim("gone", project.file, project.opened, project.way)
        assert found == AtHand(claim, clients, False)
        assert found.agents == ("old",)

    def test_what_hosts_are_held_for(
        self, project: Project, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(run, "held_for", lambda what, file: Purpose(what, str(file)))
        assert run.purpose() == Purpose("keys.py", "inventory/prod.py")

    @pytest.mark.parametrize("what", [run.current, run.at_hand, run.purpose])
    def test_without_config_nothing_is_known(
        self, project: Project, monkeypatch: pytest.MonkeyPatch, what: Callable[[], Any]
    ) -> None:
        monkeypatch.setattr(pyinfra_command, "without_config", lambda: "not loaded")
        assert run._run is not None
        for none in (None, replace(run._run, project=None)):
            monkeypatch.setattr(run, "_run", none)
            with pytest.raises(PyinfraError, match="^not loaded$"):
                self.at("gpu1", what)
