"""pyinfra's own command line: what is refused before anything is loaded, and what is said then."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
from pyinfra.api.host import Host
from pyinfra.api.inventory import Inventory
from pyinfra.api.state import StateStage
from pyinfra_cli.exceptions import CliError

from vllm_hosts.project import ending, pyinfra_command
from vllm_hosts.project.pyinfra_command import (
    check_chosen,
    check_limit,
    check_options,
    check_site,
    data_again,
    only_keys,
    only_removal,
    options,
    say_who_has_old_keys,
    with_old_keys,
    without_config,
)

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def refused(capsys: Captured) -> Callable[..., str]:
    """The one sentence with which something ends before it has begun."""

    def of(what: Callable[..., object], *given: object) -> str:
        with pytest.raises(SystemExit) as error:
            what(*given)
        said = capsys.readouterr()
        assert (error.value.code, said.out) == (2, "")
        assert said.err.startswith("--> ") and said.err.endswith("\n")
        return said.err.removeprefix("--> ").removesuffix("\n")

    return of


class TestOptions:
    @pytest.mark.parametrize(
        ("given", "sentence"),
        [
            ({"no_wait": True}, "--no-wait exits with 0 after failures; leave it out"),
            (
                {"dry": True, "yes": True},
                "--dry with -y (or PYINFRA_YES) checks nothing, and so reports nothing; leave -y"
                " out",
            ),
            (
                {"data": ("a=b", "models", "other")},
                "--data models has no value; write it as --data NAME=VALUE",
            ),
            *(
                (
                    {"inventory": f"x/{name}", "operations": ("prod.py", "b")},
                    f"the inventory comes first; run: pyinfra prod.py x/{name}",
                )
                for name in ("deploy.py", "keys.py", "rollback.py", "remove.py")
            ),
        ],
    )
    def test_with_which_failures_would_go_unnoticed(
        self, refused: Callable[..., str], given: dict[str, Any], sentence: str
    ) -> None:
        assert refused(check_options, given) == sentence

    @pytest.mark.parametrize(
        "given",
        [
            {},
            {"dry": True, "yes": False, "no_wait": False, "data": None},
            {"yes": True, "data": ("a=",), "inventory": "prod.py", "operations": ("deploy.py",)},
            # A fact of one host, or a host's own name.
            {"inventory": "deploy.py", "operations": ()},
            {"inventory": None, "operations": None},
        ],
    )
    def test_that_are_well(self, given: dict[str, Any], capsys: Captured) -> None:
        check_options(given)
        assert capsys.readouterr().err == ""

    def test_are_those_of_pyinfra_s_command(self) -> None:
        assert options() == {}
        with click.Context(click.Command("pyinfra")) as context:
            context.params = {"dry": True}
            assert options() == {"dry": True}

    def test_data_that_was_given_is_typed_again(self) -> None:
        given = {"data": ("models=delete", "a=b c")}
        assert data_again(given) == "--data models=delete --data 'a=b c' "
        assert data_again({}) == "" == data_again({"data": None})

    def test_what_a_run_is_of(self) -> None:
        for only, name in ((only_keys, "keys.py"), (only_removal, "remove.py")):
            assert only([f"x/{name}"]) and only([Path(name)])
            for files in ([], [name, name], ["deploy.py"], ["deploy.py", name], [f"{name}x"]):
                assert not only(files)


class TestSites:
    @pytest.fixture
    def site(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        for name in ("a", "b"):
            for file in ("inventory/prod.py", "deploy.py", "keys.py", "tasks/own.py", "config.py"):
                path = tmp_path / name / file
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
        monkeypatch.chdir(tmp_path)
        return tmp_path

    def test_one_s_files_with_another_s_hosts(
        self, site: Path, refused: Callable[..., str]
    ) -> None:
        for files in (["b/deploy.py"], ["a/keys.py", "b/deploy.py"], ["gone.py", "b/deploy.py"]):
            said = refused(check_site, {"operations": files}, Path("a/inventory/prod.py"))
            assert said == (
                "b/deploy.py is not of the site that a/inventory/prod.py belongs to, which is"
                f" {site}/a; type cd {site}/a && pyinfra inventory/prod.py deploy.py"
            )

    def test_what_is_of_the_same_or_of_none(self, site: Path, capsys: Captured) -> None:
        (site / "own.py").touch()
        (site / "c").symlink_to("a")
        (site / "d").mkdir()
        (site / "d/prod.py").touch()
        for inventory, *files in (
            ("a/inventory/prod.py",),
            ("a/inventory/prod.py", "a/deploy.py", "a/tasks/own.py", "c/deploy.py"),
            # Somebody's own, and what pyinfra itself will not find.
            ("a/inventory/prod.py", "own.py", "b/tasks/own.py", "gone/deploy.py"),
            # Hosts by their names, and an inventory of no site.
            ("gpu1,gpu2", "b/deploy.py"),
            ("a/inventory/gone.py", "b/deploy.py"),
            ("d/prod.py", "b/deploy.py"),
        ):
            check_site({"operations": files or None}, Path(inventory))
        assert capsys.readouterr().err == ""

    @pytest.fixture
    def typed(self, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
        def of(*words: str) -> str:
            monkeypatch.setattr(sys, "argv", ["pyinfra", *words])
            return without_config()

        import pyinfra_cli.cli  # noqa: F401  as where its command runs

        return of

    SAID = "pyinfra has not loaded config.py, so nothing was validated, and nothing was changed"

    def test_a_run_from_another_folder(self, site: Path, typed: Callable[..., str]) -> None:
        assert typed("-y", "a/inventory/prod.py", "a/deploy.py", "a/b c.py") == (
            f"{self.SAID}; run it in the site's own folder: cd {site}/a &&"
            " pyinfra inventory/prod.py deploy.py 'b c.py'"
        )
        # The inventory is of no site, and the file is.
        (site / "hosts.py").touch()
        assert typed("hosts.py", "b/deploy.py") == (
            f"{self.SAID}; run it in the folder that has it: cd {site}/b && pyinfra"
            f" {site}/hosts.py deploy.py"
        )

    @pytest.mark.parametrize(
        "words", [("a/inventory/gone.py",), ("gpu1", "deploy.py"), ("inventory/prod.py", "own.py")]
    )
    def test_a_run_that_leaves_it_out(
        self, site: Path, typed: Callable[..., str], words: tuple[str, ...]
    ) -> None:
        assert typed(*words) == (
            f"{self.SAID}; leave --config out, or run it in the folder that has config.py"
        )

    def test_a_run_in_the_site_itself(
        self, site: Path, typed: Callable[..., str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(site / "a")
        assert "leave --config out" in typed("inventory/prod.py", "deploy.py")
        (site / "a/config.py").unlink()
        monkeypatch.chdir(site)
        assert "leave --config out" in typed("a/inventory/prod.py", "a/deploy.py")

    def test_where_pyinfra_s_command_does_not_run(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delitem(sys.modules, "pyinfra_cli.cli", raising=False)
        assert pyinfra_command._typed() == {}


class TestHosts:
    INVENTORY = Inventory(
        (["gpu1", "gpu2", "near1", "old1"], {}),
        neighbours=(["near1"], {}),
        rack=(["gpu2", "near1"], {}),
        **{"left-behind": (["old1"], {})},
    )
    FILE = Path("prod.py")

    @pytest.mark.parametrize("pattern", ["gpu3", "gp", "near1", "near*", "neighbours", "", "GPU1"])
    def test_a_limit_that_is_no_host_s(self, refused: Callable[..., str], pattern: str) -> None:
        given = {"limit": ("gpu1", pattern)}
        assert refused(check_limit, given, self.INVENTORY, self.FILE) == (
            f"--limit {pattern} names no host that prod.py deploys to; it has gpu1, gpu2, old1."
            " No host was changed"
        )

    @pytest.mark.parametrize("pattern", ["gpu3", "gp", ""])
    def test_an_exclusion_that_is_no_host_s(
        self, refused: Callable[..., str], pattern: str
    ) -> None:
        given = {"exclude": ("gpu1", pattern)}
        assert refused(check_limit, given, self.INVENTORY, self.FILE) == (
            f"--exclude {pattern} names no host of prod.py; it has gpu1, gpu2, old1."
            " No host was changed"
        )

    def test_those_that_are(self, capsys: Captured) -> None:
        for given in (
            {},
            {"limit": None, "exclude": None},
            {"limit": ("gpu1", "gpu*", "rack", "old1", "left-behind")},
            {"exclude": ("near1", "neighbours", "*")},
        ):
            check_limit(given, self.INVENTORY, self.FILE)
        assert capsys.readouterr().err == ""

    def test_none_is_left(self, refused: Callable[..., str], capsys: Captured) -> None:
        assert refused(check_chosen, []) == (
            "--limit and --exclude leave no host to deploy to; no host was changed"
        )
        check_chosen([*self.INVENTORY])
        assert capsys.readouterr().err == ""

    def state(self, stage: StateStage, *, failed: str, active: tuple[str, ...]) -> Any:
        host = self.INVENTORY.get_host
        return SimpleNamespace(
            current_stage=stage,
            failed_hosts={host(failed)} if failed else set(),
            activated_hosts={host(one) for one in active},
        )

    @pytest.mark.parametrize(
        ("stage", "old"),
        [
            (StateStage.Prepare, ["gpu1", "gpu2", "old1"]),
            (StateStage.Execute, ["gpu2", "old1"]),
            (StateStage.Disconnect, ["gpu2", "old1"]),
        ],
    )
    def test_who_has_old_keys(self, stage: StateStage, old: list[str], capsys: Captured) -> None:
        chosen: list[Host] = [self.INVENTORY.get_host(one) for one in ("gpu1", "gpu2", "old1")]
        state = self.state(stage, failed="gpu2", active=("gpu1", "gpu2"))
        assert with_old_keys(chosen, state) == old
        say_who_has_old_keys(chosen, state, self.FILE)
        limits = " ".join(f"--limit {one}" for one in old)
        said = capsys.readouterr()
        assert (said.out, said.err) == (
            "",
            f"--> Still with their old keys: {', '.join(old)}\n"
            "    Revoked keys still work there, and new ones do not. To finish, run:\n"
            f"    pyinfra -y {limits} prod.py keys.py\n",
        )

    def test_nobody_has(self, capsys: Captured) -> None:
        state = self.state(StateStage.Disconnect, failed="", active=("gpu1",))
        say_who_has_old_keys([self.INVENTORY.get_host("gpu1")], state, self.FILE)
        assert capsys.readouterr() == ("", "")


class TestConfirmation:
    @pytest.fixture
    def cli(self, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
        made = SimpleNamespace(_do_confirm=lambda question: question == "yes?")
        monkeypatch.setitem(sys.modules, "pyinfra_cli.cli", made)
        monkeypatch.setattr(ending, "declined", lambda: (_ for _ in ()).throw(SystemExit(1)))
        return made

    def test_somebody_says_yes_or_no(self, cli: SimpleNamespace) -> None:
        pyinfra_command.ask_somebody()
        ask = cli._do_confirm
        assert ask("yes?") is True
        with pytest.raises(SystemExit) as error:
            ask("no?")
        assert error.value.code == 1
        # Once.
        pyinfra_command.ask_somebody()
        assert cli._do_confirm is ask

    def test_nobody_is_there(self, cli: SimpleNamespace, capsys: Captured) -> None:
        def nobody(question: str) -> bool:
            raise EOFError

        cli._do_confirm = nobody
        pyinfra_command.ask_somebody()
        with pytest.raises(CliError) as error:
            cli._do_confirm("yes?")
        assert error.value.exit_code == 2
        assert error.value.message == (
            "confirmation is needed, and there is no terminal to ask on; nothing more was"
            " changed. Add -y to go on without being asked, even if hosts cannot be reached"
        )
        assert error.value.__suppress_context__
        # pyinfra's question stands in its line.
        assert capsys.readouterr().err == "\n"

    def test_a_pyinfra_that_asks_in_another_way(self, monkeypatch: pytest.MonkeyPatch) -> None:
        other = SimpleNamespace()
        monkeypatch.setitem(sys.modules, "pyinfra_cli.cli", other)
        pyinfra_command.ask_somebody()
        assert vars(other) == {}
        monkeypatch.delitem(sys.modules, "pyinfra_cli.cli")
        pyinfra_command.ask_somebody()
