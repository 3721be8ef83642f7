"""Between pyinfra's inventory and its first connection: who is chosen, and what stops a run."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import pyinfra_cli.cli
import pyinfra_cli.util
import pytest
from pyinfra.api.config import Config
from pyinfra.api.host import Host
from pyinfra.api.inventory import Inventory
from pyinfra.api.state import State

from tests.stores import made
from tests.unit.projects import Project
from vllm_hosts.connect import sudo
from vllm_hosts.connect.reach import Reaching
from vllm_hosts.facts import ahead
from vllm_hosts.keys import KeyStore
from vllm_hosts.keys.hosts import with_host
from vllm_hosts.keys.pki import LocalCa, utc_now
from vllm_hosts.keys.store_content import DeployedHost
from vllm_hosts.operations.locked import Releasing
from vllm_hosts.operations.one_by_one import Ending
from vllm_hosts.project import before, deploy_output, ending
from vllm_hosts.project.before import Run, initialise, load_our_way
from vllm_hosts.project.inventory import LEFT, load
from vllm_hosts.project.left_behind import join

INVENTORY = "gpu_hosts = ['192.0.2.1', '192.0.2.2']\nneighbours = ['192.0.2.9']\n"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    project = Project(tmp_path)
    project.write("inventory/prod.py", INVENTORY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sudo, "_typed", None)
    monkeypatch.setattr(ahead, "_run", None)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield project
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@dataclass
class Begun:
    """A run that has come to its first connection, or not so far."""

    file: Path
    run: Run
    inventory: Inventory
    state: State = field(init=False)
    #: What pyinfra's own step was given, and what stood in its configuration then.
    initialised: list[tuple[Any, ...]] = field(default_factory=list)

    def begin(self, *, limit: list[str] | None = None, password: str | None = None) -> None:
        config = Config(SUDO_PASSWORD=password)
        # As pyinfra's command has it by now.
        self.state = State()
        hosts = None if limit is None else [self.inventory.get_host(name) for name in limit]

        def original(*given: object, initial_limit: list[Host], **named: object) -> None:
            names = [host.name for host in initial_limit]
            self.initialised.append((*given, names, named, config.PARALLEL))
            self.state.init(self.inventory, config, initial_limit=initial_limit)

        words = (self.run, self.state, original, self.inventory, config, "more")
        initialise(*words, initial_limit=hosts, named="too")

    @property
    def chosen(self) -> list[str]:
        return [host.name for host in self.run.chosen]

    @property
    def watching(self) -> list[type]:
        """What follows the run, in pyinfra's own list."""
        return [type(one) for one in self.state.callback_handlers]


def begun(project: Project, *, dry: bool = False, ours: bool = False, **known: Any) -> Begun:
    file = project.folder / "inventory/prod.py"
    # pyinfra keeps what it has read by its path.
    pyinfra_cli.util.PYTHON_CODES.clear()
    return Begun(file, Run(file, dry=dry, ours=ours, **known), load(file))


def typed(**options: object) -> click.Context:
    context = click.Context(click.Command("pyinfra"))
    context.params = options
    return context


def refused(one: Begun, capsys: pytest.CaptureFixture[str], **how: Any) -> str:
    """Why a run does not begin."""
    with pytest.raises(SystemExit) as stopped:
        one.begin(**how)
    assert stopped.value.code == 2
    assert one.run.chosen == ()
    return capsys.readouterr().err


class TestWho:
    def test_all_that_are_deployed_to_and_no_neighbour(self, project: Project) -> None:
        one = begun(project)
        one.begin()
        assert one.chosen == ["192.0.2.1", "192.0.2.2"]
        [(inventory, config, more, names, named, parallel)] = one.initialised
        assert (inventory, names) == (one.inventory, one.chosen)
        # Whatever else pyinfra gives is passed on.
        assert (config, more, named) == (one.state.config, "more", {"named": "too"})
        # Not one host after the other: a run waits for them most of the time.
        assert parallel == 2

    def test_those_that_somebody_chose(self, project: Project) -> None:
        one = begun(project)
        one.begin(limit=["192.0.2.2", "192.0.2.9"])
        assert one.chosen == ["192.0.2.2"]

    def test_those_that_were_taken_out_as_well(self, project: Project) -> None:
        one = begun(project, keys_only=True)
        content = made(KeyStore(one.file))
        join(one.inventory, with_host(content, "192.0.2.3", DeployedHost()))
        one.begin()
        assert one.chosen == ["192.0.2.1", "192.0.2.2", "192.0.2.3"]

    def test_only_such(self, project: Project) -> None:
        """The last host of an inventory was taken out, and still has to lose its keys."""
        project.write("inventory/prod.py", "gpu_hosts = ['192.0.2.1']\n")
        one = begun(project, keys_only=True)
        join(one.inventory, with_host(made(KeyStore(one.file)), "192.0.2.3", DeployedHost()))
        del one.inventory.hosts["192.0.2.1"]
        one.begin()
        assert one.chosen == ["192.0.2.3"]

    def test_nobody(self, project: Project, capsys: pytest.CaptureFixture[str]) -> None:
        one = begun(project)
        for name in ("192.0.2.1", "192.0.2.2"):
            del one.inventory.hosts[name]
        assert refused(one, capsys) == (
            "--> The settings cannot be deployed:\n"
            f"    - {one.file} has no hosts; add one to the group gpu_hosts\n"
            "    No host was changed.\n"
        )
        assert one.initialised == []

    def test_a_name_that_is_none(
        self, project: Project, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with typed(limit=["nobody"]):
            said = refused(begun(project), capsys)
            assert "--limit nobody names no host" in said
            # A command of ours has said so before, in its own words.
            begun(project, ours=True).begin()

    def test_nobody_is_left(self, project: Project, capsys: pytest.CaptureFixture[str]) -> None:
        one = begun(project)
        assert "leave no host to deploy to" in refused(one, capsys, limit=[])
        assert one.initialised == []
        ours = begun(project, ours=True)
        ours.begin(limit=[])
        assert ours.chosen == []


class TestWhatStopsIt:
    """Before the first connection, with a sentence."""

    def test_settings(self, project: Project, capsys: pytest.CaptureFixture[str]) -> None:
        project.group(edge={"burst": -1}, docker={"sourc": 1})
        said = refused(begun(project), capsys).splitlines()
        assert said[0] == "--> The settings cannot be deployed:"
        assert len(said) == 4
        assert "edge.burst must be at least 0" in said[1] + said[2]

    def test_a_damaged_store(self, project: Project, capsys: pytest.CaptureFixture[str]) -> None:
        store = KeyStore(project.folder / "inventory/prod.py")
        made(store)
        store.path.write_text("{")
        assert "keys.json is damaged" in refused(begun(project), capsys)

    def test_a_damaged_ca_where_one_is_needed(
        self, project: Project, capsys: pytest.CaptureFixture[str]
    ) -> None:
        store = KeyStore(project.folder / "inventory/prod.py")
        made(store)
        store.local_ca()
        (store.folder / "ca.key").write_text("no key")
        assert "ca.key are damaged or one is missing" in refused(begun(project, dry=True), capsys)
        # Of certificates that somebody else has signed nothing is missing.
        issued = LocalCa.create("x", utc_now()).issue(["192.0.2.1", "192.0.2.2"], 90, utc_now())
        (project.folder / "c.pem").write_bytes(issued.certificate_pem)
        (project.folder / "c.key").write_bytes(issued.key_pem.get_secret_value())
        project.group(tls={"mode": "files", "certificate": "c.pem", "key": "c.key"})
        one = begun(project, dry=True)
        one.begin()
        assert len(one.chosen) == 2


class TestWhatIsReady:
    def test_a_password_that_was_typed_is_ours_and_not_pyinfra_s(self, project: Project) -> None:
        """pyinfra would put it into arguments on hosts."""
        one = begun(project)
        one.begin(password="pw-1")
        assert one.state.config.SUDO_PASSWORD is None
        assert sudo._typed is not None and sudo._typed.get_secret_value() == "pw-1"

    def test_there_are_files_enough_for_many_hosts(self, project: Project) -> None:
        _, allowed = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (1024, allowed))
        begun(project).begin()
        now, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        assert now == (65536 if allowed == resource.RLIM_INFINITY else min(65536, allowed))

    def test_hosts_are_reached_our_way_and_set_free_at_the_end(self, project: Project) -> None:
        one = begun(project)
        one.begin()
        assert one.watching == [Reaching, Ending, Releasing]

    def test_its_output_is_ours_where_pyinfra_runs_files(
        self, project: Project, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        installed: list[State] = []
        monkeypatch.setattr(deploy_output, "install", installed.append)
        one = begun(project)
        one.begin()
        assert installed == [one.state]

    def test_what_was_asked_last_time_is_asked_ahead(self, project: Project) -> None:
        one = begun(project, what="keys.py")
        one.begin()
        assert ahead._run is not None
        state = KeyStore(one.file).folder
        assert (ahead._run.file, ahead._run.name) == (state / "asked.json", "keys.py")

    @pytest.mark.parametrize(
        ("dry", "ours", "asked"), [(False, False, 1), (True, False, 0), (False, True, 0)]
    )
    def test_git_is_asked_once_before_hosts_are_changed_side_by_side(
        self, project: Project, monkeypatch: pytest.MonkeyPatch, dry: bool, ours: bool, asked: int
    ) -> None:
        times: list[Path] = []
        monkeypatch.setattr(before, "commit_of", times.append)
        one = begun(project, dry=dry, ours=ours)
        one.begin()
        assert times == [one.file] * asked

    @pytest.mark.parametrize("dry", [True, False])
    def test_a_run_that_shows_something_goes_on_without_a_host(
        self, project: Project, dry: bool
    ) -> None:
        one = begun(project, dry=dry)
        one.begin()
        ask = one.state.should_raise_failed_hosts
        assert (ask is not None and ask(one.state) is False) is dry

    @pytest.mark.parametrize(
        ("dry", "ours", "who"),
        [(False, False, "this run"), (True, False, "a deploy"), (False, True, "a deploy")],
    )
    def test_who_makes_the_store(
        self,
        project: Project,
        capsys: pytest.CaptureFixture[str],
        dry: bool,
        ours: bool,
        who: str,
    ) -> None:
        one = begun(project, dry=dry, ours=ours)
        one.begin()
        said = f"--> There is no key store yet; {who} creates one in inventory/.vllm-hosts/prod\n"
        assert capsys.readouterr() == ("", said)
        # Not before a host takes it.
        assert not (project.folder / "inventory/.vllm-hosts").exists()

    @pytest.mark.parametrize(
        ("dry", "ours", "there"), [(False, False, True), (True, False, False), (False, True, False)]
    )
    def test_the_file_for_clients_is_brought_up_to_date_by_a_run_alone(
        self, project: Project, dry: bool, ours: bool, there: bool
    ) -> None:
        store = KeyStore(project.folder / "inventory/prod.py")
        made(store)
        store.local_ca()
        file = store.folder / "ca.pem"
        file.write_bytes(file.read_bytes() * 2)
        twice = file.read_bytes()
        begun(project, dry=dry, ours=ours).begin()
        assert (file.read_bytes() != twice) is there

    def test_hosts_that_were_taken_out_are_named(
        self, project: Project, capsys: pytest.CaptureFixture[str]
    ) -> None:
        store = KeyStore(project.folder / "inventory/prod.py")
        made(store)
        store.update(lambda content: with_host(content, "gone", DeployedHost()))
        begun(project).begin()
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("--> gone is no longer in ")
        assert f"vllm-hosts hosts release {project.folder}/inventory/prod.py gone\n" in err
        # A command of ours has named it.
        begun(project, ours=True).begin()
        assert capsys.readouterr().err == ""


Making = Callable[..., Inventory]


class TestLoading:
    """In the place of pyinfra's own step."""

    @pytest.fixture
    def file(self, project: Project, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setattr(pyinfra_cli.cli, "make_inventory", self.makes(load))
        file = project.folder / "inventory/prod.py"
        store = KeyStore(file)
        made(store)
        store.update(lambda content: with_host(content, "192.0.2.3", DeployedHost()))
        return file

    @staticmethod
    def makes(how: Callable[[Path], Inventory]) -> Making:
        def make(file: Path, *, further: str) -> Inventory:
            assert further == "x"
            return how(file)

        return make

    def loaded(self, run: Run) -> Inventory:
        load_our_way(run)
        found: Inventory = pyinfra_cli.cli.make_inventory(run.file, further="x")
        return found

    def test_keys_are_for_hosts_that_were_taken_out_as_well(self, file: Path) -> None:
        inventory = self.loaded(Run(file, dry=False, ours=False, keys_only=True))
        assert [host.name for host in inventory.groups[LEFT]] == ["192.0.2.3"]

    def test_a_deploy_is_not(self, file: Path) -> None:
        # Whatever the run before this one in the same process was.
        load_our_way(Run(file, dry=False, ours=False, keys_only=True))
        run = Run(file, dry=False, ours=False)
        assert not self.loaded(run).groups.get(LEFT)
        # It is known from here on, with what was loaded.
        assert run.project is not None and run.project.file == file

    def test_without_a_store_there_are_no_such_hosts(self, file: Path) -> None:
        KeyStore(file).path.unlink()
        inventory = self.loaded(Run(file, dry=False, ours=False, keys_only=True))
        assert not inventory.groups.get(LEFT)

    @pytest.mark.parametrize("error", [RuntimeError("no vault"), SystemExit("no vault")])
    def test_a_file_that_cannot_be_loaded_is_one_sentence(
        self,
        file: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        error: BaseException,
    ) -> None:
        def fails(_: Path) -> Inventory:
            raise error

        monkeypatch.setattr(pyinfra_cli.cli, "make_inventory", self.makes(fails))
        with pytest.raises(SystemExit) as stopped:
            self.loaded(Run(file, dry=False, ours=False))
        assert stopped.value.code == 2
        assert capsys.readouterr().err.splitlines()[1] == (
            f"    - {file}: cannot be loaded: {type(error).__name__}: no vault"
        )

    def test_a_signal_is_no_mistake_of_the_file(
        self, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def stopped(_: Path) -> Inventory:
            raise ending.StoppedError(130)

        monkeypatch.setattr(pyinfra_cli.cli, "make_inventory", self.makes(stopped))
        with pytest.raises(ending.StoppedError) as found:
            self.loaded(Run(file, dry=False, ours=False))
        assert found.value.code == 130

    def test_another_pyinfra_is_left_alone(
        self, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delattr(pyinfra_cli.cli, "make_inventory")
        load_our_way(Run(file, dry=False, ours=False))
        assert not hasattr(pyinfra_cli.cli, "make_inventory")
        monkeypatch.delitem(sys.modules, "pyinfra_cli.cli")
        load_our_way(Run(file, dry=False, ours=False))


def test_a_project_is_loaded_once_for_an_inventory(project: Project) -> None:
    one = begun(project)
    first = one.run.loaded(one.inventory)
    assert one.run.loaded(one.inventory) is first
    assert (first.file, first.inventory, first.store.path) == (
        one.file,
        one.inventory,
        KeyStore(one.file).path,
    )
    # Relative paths in its settings start from its own site.
    del one.inventory.site  # type: ignore[attr-defined]
    other = load(one.file)
    del other.site  # type: ignore[attr-defined]
    second = one.run.loaded(other)
    assert second is not first and second.inventory is other
    assert other.site == project.folder  # type: ignore[attr-defined]
