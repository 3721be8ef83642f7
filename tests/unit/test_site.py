"""`vllm-hosts init`, and what a newer version says to the settings that it wrote."""

from __future__ import annotations

import os
import runpy
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.unit.projects import AGENT, ROOT, Project
from tests.unit.test_documents import commands, parse
from vllm_hosts.cli.main import main
from vllm_hosts.errors import SettingsError
from vllm_hosts.keys.places import pyinfra_line, site_of
from vllm_hosts.project.inventory import load, validate
from vllm_hosts.project.new_site import site_above


def typed(*words: str) -> Result:
    return CliRunner().invoke(main, words)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "home" / ".ssh").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LOGNAME", "alice")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


class TestInit:
    def test_a_site_passes_the_check_as_it_is(self, home: Path) -> None:
        done = typed("init", "my-site")
        assert done.exit_code == 0, done.output
        words = [line.strip() for line in done.stdout.partition("Then type:\n")[2].splitlines()]
        assert words[:2] == ["cd my-site", "vllm-hosts check inventory/prod.py"]
        os.chdir("my-site")
        done = typed("check", "inventory/prod.py")
        assert "all settings are valid" in done.stdout, done.output

    def test_it_finds_out_who_logs_in_and_with_which_key(self, home: Path) -> None:
        (home / ".ssh" / "id_ecdsa").touch()
        assert typed("init", "one").exit_code == 0
        [(_, data)] = runpy.run_path("one/inventory/prod.py")["gpu_hosts"]
        assert data == {"ssh_user": "alice", "ssh_key": "~/.ssh/id_ecdsa", "_sudo": True}

    def test_root_needs_no_sudo(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LOGNAME", "root")
        assert typed("init", "one").exit_code == 0
        [(_, data)] = runpy.run_path("one/inventory/prod.py")["gpu_hosts"]
        assert data == {"ssh_user": "root"}

    def test_a_folder_with_something_in_it_is_refused_and_left(self, home: Path) -> None:
        Path("mine").mkdir()
        Path("mine", ".hidden").touch()
        done = typed("init", "mine")
        assert done.exit_code == 1
        [problem] = [line for line in done.output.splitlines() if line.startswith("  - ")]
        assert "mine is not empty (it has .hidden); name a folder" in problem
        assert [path.name for path in Path("mine").iterdir()] == [".hidden"]
        Path("file").touch()
        assert "name a folder that you may write" in typed("init", "file").output

    def test_an_empty_folder_will_do(self, home: Path) -> None:
        Path("here").mkdir()
        os.chdir("here")
        done = typed("init", ".")
        assert done.exit_code == 0
        assert "  cd " not in done.stdout

    def test_misuse(self, home: Path) -> None:
        assert typed("init").exit_code == 2
        assert typed("init", "new", "--write").exit_code == 2
        assert not Path("new").exists()

    def test_vllm_does_not_upgrade_with_the_toolkit(self, home: Path) -> None:
        typed("init", "one")
        settings = validate(load(Path("one/inventory/prod.py")))["gpu1.example.com"]
        set_here = runpy.run_path("one/group_data/gpu_hosts.py")["vllm"]
        assert set_here == {"image": settings.vllm.image}

    def test_commands_of_its_readme_exist(self) -> None:
        said = list(commands(ROOT / "templates" / "site" / "README.md.j2"))
        assert len(said) > 5
        assert [wrong for one in said if (wrong := parse(one.split()))] == []

    def test_it_runs_what_the_checkout_runs(self) -> None:
        for name in ("deploy.py", "keys.py", "rollback.py"):
            assert (ROOT / "vllm_hosts" / "steps" / name).resolve() == ROOT / name
        site_config = (ROOT / "templates" / "site" / "config.py.j2").read_text()
        assert site_config == (ROOT / "config.py").read_text()


class TestAnyFolder:
    """Group data and paths are found from the inventory, never from the current folder."""

    @pytest.fixture
    def two(self, tmp_path: Path) -> tuple[Project, Project]:
        for name in ("mine", "other"):
            (tmp_path / name).mkdir()
        mine, other = Project(tmp_path / "mine"), Project(tmp_path / "other")
        other.group(agents=[AGENT | {"name": "of-the-other-site"}])
        return mine, other

    def test_the_other_site_s_settings_count_for_nothing(
        self, two: tuple[Project, Project]
    ) -> None:
        mine, other = two
        said = other.run("vllm-hosts", "check", str(mine.folder / "inventory/prod.py")).stdout
        assert "one " in said
        assert "of-the-other-site" not in said

    def test_a_problem_names_the_file_that_has_it(self, two: tuple[Project, Project]) -> None:
        mine, other = two
        mine.group(agents=[AGENT | {"port": 80}])
        inventory = str(mine.folder / "inventory/prod.py")
        there = mine.folder / "group_data/gpu_hosts.py"
        assert f"  - {there}: agents[0].port" in other.run("vllm-hosts", "check", inventory).stdout
        assert "  - group_data/gpu_hosts.py: agents[0].port" in mine.check().stdout

    def test_relative_paths_start_from_the_site(self, two: tuple[Project, Project]) -> None:
        mine, other = two
        files = {"mode": "files", "certificate": "tls/a.pem", "key": "tls/a.key"}
        mine.group(tls=files, agents=[AGENT | {"model": "/srv/x", "copy_from": "models/x"}])
        said = other.run("vllm-hosts", "check", str(mine.folder / "inventory/prod.py")).stdout
        assert f"{mine.folder}/tls/a.pem" in said
        assert f"copy_from {mine.folder}/models/x is not a folder" in said

    def test_pyinfra_is_told_where_to_stand(self, two: tuple[Project, Project]) -> None:
        """H29. Another site's deploy.py is refused before anything connects."""
        mine, other = two
        inventory = str(mine.folder / "inventory/prod.py")
        done = other.run("pyinfra", "--dry", inventory, "deploy.py")
        assert done.returncode == 2
        typed = f"cd {mine.folder} && pyinfra inventory/prod.py deploy.py"
        assert typed in done.stdout
        assert "Connecting" not in done.stdout

    def test_with_its_config_pyinfra_runs_from_anywhere(
        self, two: tuple[Project, Project], tmp_path: Path
    ) -> None:
        mine, _ = two
        mine.group(agents=[AGENT | {"port": 80}])
        here = Project.__new__(Project)
        here.folder, here.environment = tmp_path, {}
        words = ("--config", str(mine.folder / "config.py"), str(mine.folder / "inventory/prod.py"))
        done = here.run("pyinfra", "--dry", *words, str(mine.folder / "deploy.py"))
        assert f"{mine.folder}/group_data/gpu_hosts.py: agents[0].port" in done.stdout
        assert "Connecting" not in done.stdout

    def test_without_config_the_line_to_type_is_said(
        self, two: tuple[Project, Project], tmp_path: Path
    ) -> None:
        """As pyinfra has it: it has connected by then, here to this machine itself."""
        mine, _ = two
        mine.write("inventory/prod.py", "gpu_hosts = [('@local', {'ssh_hostname': '192.0.2.7'})]\n")
        here = Project.__new__(Project)
        here.folder, here.environment = tmp_path, {}
        words = (str(mine.folder / "inventory/prod.py"), str(mine.folder / "deploy.py"))
        done = here.run("pyinfra", "-y", *words)
        assert done.returncode != 0
        assert f"own folder: cd {mine.folder} && pyinfra inventory/prod.py deploy.py" in done.stdout
        assert "Traceback" not in done.stdout

    def test_drift_needs_a_deploy(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        lone = tmp_path / "lone"
        lone.mkdir()
        text = f"gpu_hosts = (['192.0.2.1'], {{'agents': [{AGENT!r}]}})\n"
        (lone / "prod.py").write_text(text)
        done = typed("drift", "lone/prod.py")
        assert done.exit_code == 1
        assert "deploy.py, and so nothing that a deploy of lone/prod.py would do" in done.output


class TestSiteOf:
    def made(self, folder: Path, *names: str) -> Path:
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).touch()
        return folder

    def test_the_nearest_deploy(self, tmp_path: Path) -> None:
        self.made(tmp_path, "deploy.py", "inventory/eu/prod.py", "prod.py")
        assert site_of(tmp_path / "inventory/eu/prod.py") == tmp_path
        assert site_of(tmp_path / "prod.py") == tmp_path

    def test_group_data_where_there_is_no_deploy(self, tmp_path: Path) -> None:
        self.made(tmp_path, "a/group_data/all.py", "a/prod.py", "b/inventory/prod.py")
        assert site_of(tmp_path / "a/prod.py") == tmp_path / "a"
        assert site_of(tmp_path / "b/inventory/prod.py") == tmp_path / "b"

    def test_a_folder_that_all_can_write_is_nobody_s_site(self, tmp_path: Path) -> None:
        self.made(tmp_path, "deploy.py", "x/inventory/prod.py")
        tmp_path.chmod(0o1777)
        assert site_of(tmp_path / "x/inventory/prod.py") == tmp_path / "x"

    def test_a_folder_of_somebody_else_s_is_not_ours(self, tmp_path: Path) -> None:
        """Its owner could put a deploy.py there, which we would run."""
        (tmp_path / "deploy.py").touch()
        (tmp_path / "group_data").mkdir()
        (tmp_path / "x" / "inventory").mkdir(parents=True)
        assert site_of(tmp_path / "x/inventory/prod.py") == tmp_path
        assert site_above(tmp_path / "x") == tmp_path
        with pytest.MonkeyPatch.context() as patch:
            real = Path.stat

            def stat(path: Path, **options: bool) -> os.stat_result:
                found = list(real(path, **options))
                found[4] = 4321 if path == tmp_path else found[4]
                return os.stat_result(found)

            patch.setattr(Path, "stat", stat)
            assert site_of(tmp_path / "x/inventory/prod.py") == tmp_path / "x"
            with pytest.raises(SettingsError):
                site_above(tmp_path / "x")

    def test_what_to_type(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made(tmp_path, "my site/deploy.py", "my site/inventory/prod.py")
        inventory = tmp_path / "my site/inventory/prod.py"
        monkeypatch.chdir(tmp_path / "my site")
        assert pyinfra_line(Path("inventory/prod.py"), options="-y") == (
            "pyinfra -y inventory/prod.py deploy.py"
        )
        monkeypatch.chdir(tmp_path)
        line = pyinfra_line(inventory, "keys.py")
        assert line == f"cd '{tmp_path}/my site' && pyinfra inventory/prod.py keys.py"
        # What is printed is good in a shell.
        done = subprocess.run(
            ["sh", "-c", line.replace("pyinfra", "ls", 1)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert "inventory/prod.py" in done.stdout
