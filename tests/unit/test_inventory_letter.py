"""From an inventory to settings of its hosts, to the letter: who is what, and what is refused."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pyinfra
import pyinfra_cli
import pytest
from pyinfra.api.inventory import Inventory

from tests.unit.projects import AGENT, Project
from vllm_hosts.errors import SettingsError
from vllm_hosts.project import inventory as loading
from vllm_hosts.project.ending import StoppedError
from vllm_hosts.project.inventory import (
    deployed,
    gateways,
    load,
    load_problem,
    mirrors,
    neighbours,
    require_hosts,
    validate,
)
from vllm_hosts.project.layers import layers_of
from vllm_hosts.project.site import belongs_to

WHERE = "the inventory: "


def groups(data: dict[str, dict[str, Any]] | None = None, **hosts: list[str]) -> Inventory:
    """Groups of hosts by name; those of gpu_hosts have agents. ``data`` by host."""
    known: dict[str, Any] = {group: (names, {}) for group, names in hosts.items()}
    known["gpu_hosts"] = (hosts.get("gpu_hosts", []), {"agents": [AGENT]})
    names = list(dict.fromkeys(name for one in hosts.values() for name in one))
    made = Inventory(([(name, (data or {}).get(name, {})) for name in names], {}), **known)
    belongs_to(made, Path("inventory/prod.py"))
    return made


def problems(made: Inventory) -> list[str]:
    with pytest.raises(SettingsError) as found:
        validate(made)
    return found.value.problems


class TestGroups:
    MANY: dict[str, Any] = {  # noqa: RUF012
        "gpu_hosts": ["a", "b", "both", "gone"],
        "gateways": ["gw", "both", "old"],
        "mirror": ["b", "gone"],
        "neighbours": ["n", "gw2"],
        "left-behind": ["gone", "old"],
    }

    def test_who_is_what(self) -> None:
        made = groups(**self.MANY)
        assert [host.name for host in deployed(made)] == ["a", "b", "both", "gw"]
        assert gateways(made) == ["both", "gw"]
        assert mirrors(made) == ["b"]
        assert neighbours(made) == ["n", "gw2"]

    def test_a_gateway_with_gpus_runs_agents(self) -> None:
        a, both, gateway = "192.0.2.1", "192.0.2.2", "192.0.2.3"
        made = groups(gpu_hosts=[a, both], gateways=[both, gateway], mirror=[a])
        found = validate(made)
        assert [one.name for one in found[both].own_agents] == ["one"]
        assert found[gateway].own_agents == ()
        assert found[gateway].is_gateway and found[both].is_gateway
        assert [one.name for one in found[a].mirror_for] == [a, both]

    @pytest.mark.parametrize("group", ["gateways", "mirror"])
    def test_who_looks_from_outside_is_nothing_else(self, group: str) -> None:
        made = groups(gpu_hosts=["a"], neighbours=["n"], **dict[str, Any]({group: ["n"]}))
        assert problems(made) == [
            f"{WHERE}'n' is in the groups {group} and neighbours, and nothing is deployed to a"
            " neighbour, which scans the others from outside; leave it in one of them, and use"
            " another machine for the other"
        ]

    def test_what_contradicts_comes_after_what_is_wrong_with_one(self) -> None:
        odd = {"a": {"mirror": {"port": 0}}}
        assert problems(groups(odd, gpu_hosts=["a", "b"], mirror=["a", "b"])) == [
            f"{WHERE}mirror.port must be at least 1, not 0 (on a)"
        ]
        assert problems(groups(gpu_hosts=["a", "b"], mirror=["a", "b"])) == [
            f"{WHERE}the group mirror has 2 hosts (a, b), and one fetches for all others; leave one"
            " of them in it"
        ]

    def test_a_contradiction_of_gateways_comes_before_one_of_a_mirror(self) -> None:
        made = groups(gateways=["gw", "gw2"], mirror=["gw", "gw2"])
        [problem] = problems(made)
        assert problem.startswith(f"{WHERE}no host is behind the gateways gw, gw2")

    def test_a_mirror_s_problem_says_on_which_host(self) -> None:
        odd = {"192.0.2.1": {"mirror": {"port": 8001}}}
        hosts = ["192.0.2.1", "192.0.2.2"]
        [problem] = problems(groups(odd, gpu_hosts=hosts, mirror=hosts[:1]))
        assert problem.endswith("set one of them to another (on 192.0.2.1)")


class TestWhere:
    """On which hosts something is wrong."""

    def problem(self, wrong: int, well: int) -> str:
        odd = {f"a{number}": {"edge": {"burst": -1}} for number in range(wrong)}
        good = [f"b{number}" for number in range(well)]
        [found] = problems(groups(odd, gpu_hosts=[*odd, *good]))
        return found.removeprefix(f"{WHERE}edge.burst must be at least 0, not -1")

    @pytest.mark.parametrize(
        ("wrong", "well", "said"),
        [
            (1, 0, " (on a0)"),
            (2, 0, ""),
            (2, 1, " (on a0, a1)"),
            (3, 1, " (on a0, a1, a2)"),
            (4, 1, " (on a0, a1, a2 and 1 more)"),
            (6, 1, " (on a0, a1, a2 and 3 more)"),
        ],
    )
    def test_names(self, wrong: int, well: int, said: str) -> None:
        assert self.problem(wrong, well) == said


class TestController:
    """What settings point at here."""

    def host(self, **data: Any) -> Inventory:
        return groups({"a": data, "b": data}, gpu_hosts=["a", "b"])

    def test_folders_of_models(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: list[tuple[str, bool]] = []

        def local_model(folder: str, *, allow_pickle: bool) -> None:
            asked.append((folder, allow_pickle))
            if folder == "/none":
                raise SettingsError(["copy_from /none is odd"])

        monkeypatch.setattr(loading, "local_model", local_model)
        agent = AGENT | {"model": "/srv/models/x", "copy_from": "/none"}
        assert problems(self.host(agents=[agent])) == ["copy_from /none is odd"]
        assert asked == [("/none", False)]
        good = agent | {"copy_from": "/good", "allow_pickle": True}
        assert list(validate(self.host(agents=[good]))) == ["a", "b"]
        assert asked[1:] == [("/good", True)]

    def test_certificates(self, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: list[object] = []

        def check_files(certificate: str, key: str, names: object, now: object) -> list[str]:
            asked.append((certificate, key, names))
            return ["the key is odd"]

        def check_ca_file(ca_file: str) -> list[str]:
            asked.append(ca_file)
            return ["the CA is odd"]

        monkeypatch.setattr(loading, "check_files", check_files)
        monkeypatch.setattr(loading, "check_ca_file", check_ca_file)
        files = {"mode": "files", "certificate": "/c.pem", "key": "/k.pem"}
        made = self.host(tls=files, edge={"names": ["llm.example"]})
        assert problems(made) == ["the key is odd"]
        assert asked == [("/c.pem", "/k.pem", ("llm.example",))]
        edge = {"names": ["x.example"]}
        found = problems(self.host(tls=files | {"ca_file": "/ca.pem"}, edge=edge))
        assert found == ["the key is odd", "the CA is odd"]
        assert asked[1:] == [("/c.pem", "/k.pem", ("x.example",)), "/ca.pem"]
        del asked[:]
        assert validate(self.host())
        assert asked == []

    def test_sources_of_secrets(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(loading, "problems", lambda settings: [f"{settings.name} has none"])
        assert problems(self.host()) == ["a has none (on a)", "b has none (on b)"]


class TestLoading:
    def problem(self, project: Project, text: str, name: str = "prod") -> str:
        project.write(f"inventory/{name}.py", text)
        with pytest.raises(SettingsError) as found:
            load(project.folder / f"inventory/{name}.py")
        [problem] = found.value.problems
        return problem

    def test_what_is_not_there(self, project: Project) -> None:
        path = project.folder / "inventory/none.py"
        with pytest.raises(SettingsError) as found:
            load(path)
        said = f"{path} is not a file; name an inventory such as inventory/prod.py"
        assert found.value.problems == [said]
        with pytest.raises(SettingsError) as found:
            require_hosts(path, groups(neighbours=["n"]))
        assert found.value.problems == [said]
        require_hosts(path, groups(gpu_hosts=["a"]))

    def test_without_hosts(self, project: Project) -> None:
        problem = self.problem(project, "neighbours = ['n']\n")
        assert problem.endswith("prod.py has no hosts; add one to the group gpu_hosts")

    def test_the_line_that_stopped_it(self, project: Project) -> None:
        path = project.folder / "inventory/prod.py"
        problem = self.problem(project, "x = 1\ngpu_hosts = [\n")
        assert problem.startswith(f"{path}, line 2: '[' was")
        assert self.problem(project, "import os\nos.getpgid('x')\n") == (
            f"{path}, line 2: cannot be loaded: TypeError: 'str' object cannot be interpreted as"
            " an integer"
        )

    def test_the_line_in_a_file_that_it_imports(self, project: Project) -> None:
        project.write("racks_of_mine.py", "a = 1\nb = 1 / 0\n")
        project.write("group_data/gpu_hosts.py", "import racks_of_mine\n")
        assert self.problem(project, "gpu_hosts = ['a']\n") == (
            f"{project.folder}/racks_of_mine.py, line 2: cannot be loaded: ZeroDivisionError:"
            " division by zero"
        )

    def test_what_ends_the_program_is_a_sentence(self, project: Project) -> None:
        path = project.folder / "inventory/prod.py"
        problem = self.problem(project, "import sys\nsys.exit('no')\n")
        assert problem == f"{path}, line 2: cannot be loaded: SystemExit: no"

    @pytest.mark.parametrize("folder", ["site", "pyinfra", "my-pyinfra-site"])
    def test_the_line_that_called_what_failed(self, tmp_path: Path, folder: str) -> None:
        (tmp_path / folder).mkdir()
        path = tmp_path / folder / "inventory/prod.py"
        text = "def half(n):\n    return n / 0\n\ngpu_hosts = [half(1)]\n"
        assert self.problem(Project(tmp_path / folder), text).startswith(
            f"{path}, line 4: cannot be loaded: ZeroDivisionError"
        )

    @pytest.mark.parametrize("package", [pyinfra, pyinfra_cli])
    def test_no_line_of_pyinfra_s_own(self, project: Project, package: ModuleType) -> None:
        inside = str(Path(str(package.__file__)).parent / "x.py")
        text = f"a = 1\nexec(compile('1 / 0', {inside!r}, 'exec'))\n"
        assert "prod.py, line 2: cannot be loaded: " in self.problem(project, text)

    def test_somebody_who_stops_it_is_no_mistake_in_it(self, project: Project) -> None:
        text = "from vllm_hosts.project.ending import StoppedError\nraise StoppedError(15)\n"
        project.write("inventory/stopped.py", text)
        with pytest.raises(StoppedError):
            load(project.folder / "inventory/stopped.py")

    def test_without_a_line_the_inventory_is_named(self) -> None:
        path = Path("inventory/prod.py")
        said = "inventory/prod.py: cannot be loaded: ValueError: odd"
        assert load_problem(path, ValueError("odd")) == said
        nameless = SyntaxError("odd", (None, 7, None, None))
        assert load_problem(path, nameless) == "inventory/prod.py, line 7: odd"

    def test_a_loaded_inventory_knows_its_site(
        self, project: Project, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir("/")
        made = load(project.folder / "inventory/prod.py")
        [host] = made
        assert next(layers_of(host)).source == f"{project.folder}/group_data/all.py"
