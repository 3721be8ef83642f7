"""From the layers of an inventory to settings, to the letter: what counts, and what does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pyinfra.api.inventory import Inventory

from tests.unit.projects import AGENT, Project
from vllm_hosts.errors import SettingsError
from vllm_hosts.project.layers import SECTIONS, SETTINGS, Layer, host_settings, layers_of
from vllm_hosts.project.site import belongs_to
from vllm_hosts.settings import HostSettings

WHERE = "the inventory: "


def inventory(
    given: dict[str, Any] | None = None,
    *,
    name: str = "gpu1",
    groups: dict[str, dict[str, Any]] | None = None,
    everybody: dict[str, Any] | None = None,
    of_the_run: dict[str, Any] | None = None,
) -> Inventory:
    """A host with agents, in groups of this order, each with its data."""
    known = {"gpu_hosts": {"agents": [AGENT]}} if groups is None else groups
    made = Inventory(
        ([(name, given or {})], everybody or {}),
        override_data=of_the_run,
        **{group: ([name], data) for group, data in known.items()},
    )
    belongs_to(made, Path("inventory/prod.py"))
    return made


def of(given: dict[str, Any] | None = None, *, gateway: bool = False, **more: Any) -> HostSettings:
    [host] = inventory(given, **more)
    return host_settings(host, gateway=gateway)


def refused(given: dict[str, Any] | None = None, **more: Any) -> list[str]:
    with pytest.raises(SettingsError) as found:
        of(given, **more)
    return found.value.problems


class TestLayers:
    def test_each_is_stronger_than_those_before(self) -> None:
        layers: dict[str, Any] = {
            "everybody": {"edge": {"burst": 1, "connections": 1, "timeout": 61}},
            "groups": {
                "gpu_hosts": {"agents": [AGENT], "edge": {"burst": 2, "connections": 2}},
                "rack": {"edge": {"burst": 3, "timeout": 63}},
            },
            "given": {"edge": {"burst": 4}},
        }
        edge = of(**layers).edge
        assert (edge.burst, edge.timeout) == (4, 63)
        assert edge.connections == 2
        assert of(**layers, of_the_run={"edge": {"burst": 5}}).edge.burst == 5

    def test_where_each_is_edited(self, project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
        [host] = inventory({"x_a": 1}, everybody={"x_b": 2}, of_the_run={"x_c": 3})
        assert list(layers_of(host)) == [
            Layer("group_data/all.py", {"x_b": 2}),
            Layer("group_data/gpu_hosts.py", {"agents": [AGENT]}),
            Layer("the inventory", {"x_a": 1}),
            Layer("--data", {"x_c": 3}),
        ]
        (project.folder / "elsewhere").mkdir()
        monkeypatch.chdir(project.folder / "elsewhere")
        first, second, *_ = layers_of(host)
        assert first.source == f"{project.folder}/group_data/all.py"
        assert second.source == f"{project.folder}/group_data/gpu_hosts.py"

    @pytest.mark.parametrize("section", SECTIONS)
    def test_sections_merge_name_by_name(self, section: str) -> None:
        """Each has a name that the other layer's does not take away."""
        [problem] = refused(
            {section: {}}, groups={"gpu_hosts": {"agents": [AGENT], section: {"odd": 1}}}
        )
        assert problem.startswith(f"group_data/gpu_hosts.py: unknown setting {section}.odd")

    def test_agents_are_replaced(self) -> None:
        assert [one.name for one in of({"agents": [AGENT | {"name": "own"}]}).agents] == ["own"]

    def test_a_problem_names_the_strongest_layer_that_has_the_name(self) -> None:
        weak = {"edge": {"burst": -1, "timeout": -1}}
        assert refused({"edge": {"burst": -2}}, everybody=weak) == [
            "group_data/all.py: edge.timeout must be at least 10, not -1",
            f"{WHERE}edge.burst must be at least 0, not -2",
        ]

    @pytest.mark.parametrize("value", [7, None])
    def test_what_is_no_section_is_where_it_is_written(self, value: object) -> None:
        [problem] = refused({"edge": value}, everybody={"edge": {"burst": 1}})
        assert problem == f"{WHERE}edge must be a dictionary, not {value}"

    def test_paths_start_from_the_site(self, project: Project, tmp_path: Path) -> None:
        made = inventory({"tls": {"mode": "files", "certificate": "c.pem", "key": "k.pem"}})
        belongs_to(made, tmp_path / "other/inventory/prod.py")
        [host] = made
        found = host_settings(host).tls
        assert Path(str(found.certificate)).is_absolute()


class TestNames:
    @pytest.mark.parametrize("name", ["_sudo_password", "_use_sudo_password", "_su_password"])
    def test_a_password_in_arguments_is_refused_where_it_is_set(self, name: str) -> None:
        assert of({name: None}).name == "gpu1"
        [problem] = refused(everybody={name: "secret"})
        assert problem.startswith(f"group_data/all.py: {name} would stand in process arguments")
        assert "secret'" not in problem

    @pytest.mark.parametrize("value", [True, False])
    def test_what_a_run_is_told(self, value: bool) -> None:
        assert of(of_the_run={"remove_models": value}).name == "gpu1"

    def test_what_a_run_is_told_is_in_no_file(self) -> None:
        assert refused({"remove_models": True}) == [
            f"{WHERE}remove_models is for one run of remove.py; take it out here, and give it"
            " there: --data remove_models=true"
        ]
        assert refused(of_the_run={"remove_models": "yes"}) == [
            "--data: remove_models is 'yes'; give it as --data remove_models=true or"
            " remove_models=false"
        ]

    def test_what_is_like_nothing_gets_the_whole_list(self) -> None:
        assert refused({"zzzzzz": 1}) == [
            f"{WHERE}unknown setting 'zzzzzz'; there is {', '.join(SETTINGS)}"
            " (data of your own: start it with x_)"
        ]

    @pytest.mark.parametrize(
        ("name", "hint"),
        [
            ("sudo", "unknown setting 'sudo'; did you mean '_sudo'?"),
            ("edgee", "unknown setting 'edgee'; did you mean 'edge'?"),
            ("ssh_usr", "unknown setting 'ssh_usr'; did you mean 'ssh_user'?"),
            ("_sudo_usr", "unknown '_sudo_usr'; did you mean '_sudo_user'?"),
        ],
    )
    def test_nearly_one(self, name: str, hint: str) -> None:
        [problem] = refused({name: 1})
        assert problem.removesuffix(" (data of your own: start it with x_)") == f"{WHERE}{hint}"

    def test_names_of_connectors_and_of_commands_are_pyinfra_s(self) -> None:
        own = {"docker_identifier": "x", "_shell_executable": "sh", "x_rack": 7, "_rack": 7}
        assert of(own).name == "gpu1"

    def test_a_name_that_is_none(self) -> None:
        [problem] = refused({7: 1})  # type: ignore[dict-item]
        assert problem == f"{WHERE}7 is no name of a setting; write it as text in quotes"


class TestHosts:
    def test_everything_is_said_at_once(self) -> None:
        found = refused({"ssh_port": "many", "edge": {"burst": -1}, "foo": 1})
        assert len(found) == 3
        assert found[0].startswith(f"{WHERE}unknown setting 'foo'")
        assert found[1].startswith(f"{WHERE}ssh_port of 'gpu1'")
        assert found[2].startswith(f"{WHERE}edge.burst")

    def test_agents_that_are_missing_are_said_with_the_rest(self, project: Project) -> None:
        found = refused({"foo": 1}, groups={"gpu_hosts": {}})
        assert len(found) == 2
        said = "group_data/gpu_hosts.py: agents is missing; set it there, at least one agent"
        assert found[1] == said

    def test_this_machine_has_no_login_that_hardening_could_see(self) -> None:
        here = {"ssh_hostname": "192.0.2.7", "ssh_hardening": {"enabled": True}}
        [problem] = refused(here, name="@local")
        assert problem == (
            f"{WHERE}ssh_hardening.enabled needs a login over SSH with a key that was seen to"
            " work, and @local has none; enter this machine by its address, with ssh_user and"
            " ssh_key, or leave ssh_hardening out for it"
        )
        here["ssh_hardening"] = {"enabled": False}
        assert of(here, name="@local").address == "192.0.2.7"
        assert of({"ssh_hardening": {"enabled": True}}).ssh_hardening.enabled

    def test_this_machine_has_no_address_of_its_own(self) -> None:
        first, second = refused({"foo": 1}, name="@local")
        assert first.startswith(f"{WHERE}unknown setting 'foo'")
        assert second == (
            f"{WHERE}'@local' has no address that clients can use; write"
            ' (\'@local\', {"ssh_hostname": "192.0.2.7"}) with its own'
        )

    def test_a_name_that_only_ssh_knows(self, project: Project) -> None:
        path = project.folder / "ssh_config"
        path.write_text("Host far\n  ProxyJump bastion\n")
        way = {"ssh_config_file": str(path)}
        [problem] = refused(way, name="far")
        assert problem.startswith(f"{WHERE}'far' is a name of your SSH configuration only")
        assert of(way | {"edge": {"names": ["llm.example"]}}, name="far").address == "llm.example"

    def test_a_gateway_has_no_agents(self) -> None:
        found = of(gateway=True, groups={"gateways": {"edge": {"burst": 3}}})
        assert (found.agents, found.edge.burst) == ((), 3)
        assert of(gateway=True, groups={"gateways": {"agents": []}}).agents == ()
        [problem] = refused(gateway=True, groups={"gateways": {"agents": [AGENT]}})
        assert problem == (
            "group_data/gateways.py: agents are set for a host of the group gateways, which runs"
            " none unless it is in gpu_hosts as well; set them in group_data/gpu_hosts.py, for the"
            " hosts of that group"
        )
