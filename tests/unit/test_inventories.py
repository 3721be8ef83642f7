"""Inventories as people write them: a mistake is named where it is, with what would be right."""

from __future__ import annotations

import pytest

from tests.unit.projects import AGENT, Project
from vllm_hosts.errors import SettingsError
from vllm_hosts.project.inventory import load, validate
from vllm_hosts.settings import HostSettings


def hosts(project: Project, inventory: str) -> dict[str, HostSettings]:
    project.write("inventory/prod.py", inventory)
    # By its whole path: pyinfra remembers what it has loaded under a name.
    return validate(load(project.folder / "inventory" / "prod.py"))


def refused(project: Project, inventory: str) -> list[str]:
    with pytest.raises(SettingsError) as found:
        hosts(project, inventory)
    return found.value.problems


class TestGroups:
    """H16."""

    def test_other_hosts_beside_those_with_agents(self, project: Project) -> None:
        [problem] = refused(project, "gpu_hosts = ['a']\nbastions = ['b']\n")
        assert problem == (
            "the inventory: no agents for a host that is in the groups bastions, prod, and agents"
            " are set for the group gpu_hosts; every host but those of the group neighbours is"
            " deployed to: move it to gpu_hosts, or keep it in another inventory (on b)"
        )

    def test_each_group_is_named(self, project: Project) -> None:
        found = refused(project, "gpu_hosts = ['a']\nbastions = ['b', 'd']\nmonitoring = ['c']\n")
        assert len(found) == 2
        assert "group" in found[0]
        assert "(on b, d)" in found[0]
        assert "monitoring" in found[1]

    @pytest.mark.parametrize("group", ["hosts", "gpu_host", "servers"])
    def test_the_group_is_called_otherwise(self, project: Project, group: str) -> None:
        [problem] = refused(project, f"{group} = ['a']\n")
        assert f"{group}" in problem
        assert "agents are set for the group gpu_hosts" in problem
        assert "move it to gpu_hosts" in problem

    def test_nobody_has_agents(self, project: Project) -> None:
        project.write("group_data/gpu_hosts.py", "")
        [problem] = refused(project, "gpu_hosts = ['a']\n")
        assert problem.startswith("group_data/gpu_hosts.py: agents is missing; set it there")

    def test_neighbours_need_none(self, project: Project) -> None:
        assert list(hosts(project, "gpu_hosts = ['a']\nneighbours = ['b']\n")) == ["a"]


class TestNames:
    """H17."""

    @pytest.mark.parametrize(
        ("written", "right"),
        [
            ("gpu1.example.com:2222", "('gpu1.example.com', {\"ssh_port\": 2222})"),
            ("admin@gpu1", "('gpu1', {\"ssh_user\": 'admin'})"),
            ("admin@gpu1:2222", "('gpu1', {\"ssh_user\": 'admin', \"ssh_port\": 2222})"),
            ("ssh://admin@gpu1:22/", "('gpu1', {\"ssh_user\": 'admin', \"ssh_port\": 22})"),
            ("ssh://gpu1", "'gpu1'"),
            ("[2001:db8::7]:22", "('2001:db8::7', {\"ssh_port\": 22})"),
            ("[2001:db8::7]", "'2001:db8::7'"),
            (" gpu1 ", "'gpu1'"),
            ("192.0.2.7:22", "('192.0.2.7', {\"ssh_port\": 22})"),
        ],
    )
    def test_what_ssh_takes_and_a_name_is_not(
        self, project: Project, written: str, right: str
    ) -> None:
        [problem] = refused(project, f"gpu_hosts = [{written!r}]\n")
        assert problem.startswith(
            f"the inventory: {written!r} is not a DNS name or an IP address; write {right} (on"
        )

    @pytest.mark.parametrize(
        "written",
        [
            *("gpu1, gpu2", "gpu1 gpu2", "https://gpu1/v1", "gpu1/24"),
            # To write the same again would be no help.
            *("gpü.example.com", "gpu;1", "-gpu1", "admin@gpu;1"),
        ],
    )
    def test_what_nobody_can_read(self, project: Project, written: str) -> None:
        [problem] = refused(project, f"gpu_hosts = [{written!r}]\n")
        assert "is not a DNS name or an IP address; give its address as ssh_hostname" in problem

    def test_ssh_hostname_too(self, project: Project) -> None:
        [problem] = refused(project, "gpu_hosts = [('a', {'ssh_hostname': 'root@192.0.2.7:2'})]\n")
        assert "ssh_hostname 'root@192.0.2.7:2' of 'a' is not" in problem
        assert (
            "write ('a', {\"ssh_hostname\": '192.0.2.7', \"ssh_user\": 'root', \"ssh_port\": 2})"
            in problem
        )

    @pytest.mark.parametrize("name", ["gpu1", "gpu-1.example.com", "192.0.2.7", "2001:db8::7"])
    def test_good_ones(self, project: Project, name: str) -> None:
        assert hosts(project, f"gpu_hosts = [{name!r}]\n")[name].address == name


class TestSshConfiguration:
    """H18. pyinfra remembers what it has read of a file, so each test has one of its own."""

    @pytest.fixture
    def config(self, project: Project) -> str:
        path = project.folder / "ssh_config"
        path.write_text(
            "Host big\n  HostName 192.0.2.7\n  ProxyJump bastion\n"
            "Host far\n  ProxyJump bastion\nHost *\n  User admin\n"
        )
        return str(path)

    @pytest.mark.parametrize(("name", "how"), [("big", "HostName 192.0.2.7"), ("far", "ProxyJump")])
    def test_a_name_that_only_ssh_knows(
        self, project: Project, config: str, name: str, how: str
    ) -> None:
        data = {"ssh_config_file": config}
        [problem] = refused(project, f"gpu_hosts = [({name!r}, {data!r})]\n")
        assert f"{name!r} is a name of your SSH configuration only ({how})" in problem
        assert '"edge": {"names": [' in problem

    @pytest.mark.parametrize(("name", "address"), [("big", "192.0.2.7"), ("far", "llm.example")])
    def test_with_the_name_that_clients_use(
        self, project: Project, config: str, name: str, address: str
    ) -> None:
        data = {"ssh_config_file": config, "edge": {"names": ["llm.example"]}}
        found = hosts(project, f"gpu_hosts = [({name!r}, {data!r})]\n")[name]
        assert found.address == address
        assert found.edge_names == ("llm.example",)

    def test_with_an_address(self, project: Project, config: str) -> None:
        data = {"ssh_config_file": config, "ssh_hostname": "192.0.2.9"}
        assert hosts(project, f"gpu_hosts = [('big', {data!r})]\n")["big"].address == "192.0.2.9"

    @pytest.mark.parametrize("content", [b"\xff\xfe\x00", b'Host gpu1\n  HostName = "a\n', None])
    def test_a_configuration_that_cannot_be_read(
        self, project: Project, content: bytes | None
    ) -> None:
        path = project.folder / "broken"
        path.mkdir() if content is None else path.write_bytes(content)
        inventory = f"gpu_hosts = [('gpu1', {{'ssh_config_file': {str(path)!r}}})]\n"
        [problem] = refused(project, inventory)
        assert str(path) in problem or "SSH configuration only" in problem

    def test_a_name_that_ssh_says_nothing_of(self, project: Project, config: str) -> None:
        data = {"ssh_config_file": config}
        assert hosts(project, f"gpu_hosts = [('gpu1', {data!r})]\n")["gpu1"].address == "gpu1"


class TestTwice:
    """H19."""

    @pytest.mark.parametrize(
        "inventory",
        [
            "gpu_hosts = [('a', {'ssh_hostname': '::7'}), ('b', {'ssh_hostname': '::7'})]",
            "gpu_hosts = ['192.0.2.7', ('b', {'ssh_hostname': '192.0.2.7'})]",
            "gpu_hosts = ['gpu1', 'GPU1']",
            "gpu_hosts = ['gpu1.example.com', 'gpu1.example.com.']",
            "gpu_hosts = ['gpu1', ('b', {'ssh_hostname': 'gpu1', 'ssh_port': 22})]",
        ],
    )
    def test_one_machine_under_two_names(self, project: Project, inventory: str) -> None:
        [problem] = refused(project, inventory + "\n")
        assert "are the same machine" in problem
        assert "leave one of them out, or correct its ssh_hostname" in problem

    def test_two_machines_behind_one_address(self, project: Project) -> None:
        one = {"ssh_hostname": "192.0.2.7", "ssh_port": 2201}
        other = {"ssh_hostname": "192.0.2.7", "ssh_port": 2202}
        assert len(hosts(project, f"gpu_hosts = [('a', {one!r}), ('b', {other!r})]\n")) == 2


class TestOneMachine:
    """H30."""

    def test_it_has_to_have_the_address_that_clients_use(self, project: Project) -> None:
        [problem] = refused(project, "gpu_hosts = ['@local']\n")
        assert 'write (\'@local\', {"ssh_hostname": "192.0.2.7"})' in problem

    def test_with_one_it_is_a_host(self, project: Project) -> None:
        found = hosts(project, "gpu_hosts = [('@local', {'ssh_hostname': '192.0.2.7'})]\n")
        assert found["@local"].address == "192.0.2.7"

    def test_nobody_sees_there_whether_a_key_gets_in(self, project: Project) -> None:
        data = {"ssh_hostname": "192.0.2.7", "ssh_hardening": {"enabled": True}}
        [problem] = refused(project, f"gpu_hosts = [('@local', {data!r})]\n")
        assert problem.startswith("the inventory: ssh_hardening.enabled needs a login over SSH")
        assert "enter this machine by its address, with ssh_user and ssh_key" in problem


class TestTypos:
    """O18: names that are nearly pyinfra's."""

    @pytest.mark.parametrize(
        ("typo", "meant"),
        [
            ("ssh_usr", "ssh_user"),
            ("ssh_prot", "ssh_port"),
            ("sudo", "_sudo"),
            ("sudo_user", "_sudo_user"),
            ("_suod", "_sudo"),
            ("ssh_host_name", "ssh_hostname"),
            ("agent", "agents"),
        ],
    )
    def test_did_you_mean(self, project: Project, typo: str, meant: str) -> None:
        [problem] = refused(project, f"gpu_hosts = [('a', {{{typo!r}: 'x'}})]\n")
        assert f"did you mean {meant!r}?" in problem

    @pytest.mark.parametrize("own", ["_rack", "_networks", "x_sudo"])
    def test_names_of_ones_own(self, project: Project, own: str) -> None:
        assert hosts(project, f"gpu_hosts = [('a', {{{own!r}: 'x'}})]\n")

    def test_two_agents_with_one_port_are_named(self, project: Project) -> None:
        project.group(agents=[AGENT, dict(AGENT, name="two", gpus=[1])])
        [problem] = refused(project, "gpu_hosts = ['a']\n")
        assert problem.startswith(
            "group_data/gpu_hosts.py: agents 'one' and 'two' both have port 8001;"
        )


@pytest.mark.parametrize(
    ("written", "tokens"),
    [
        ("16k", 16_000),
        ("16K", 16_384),
        ("1.5k", 1500),
        ("1m", 10**6),
        ("1M", 1 << 20),
        ("32768", 32_768),
        (" 8k ", 8000),
        (4096, 4096),
        ("auto", "auto"),
        (None, None),
    ],
)
def test_context_lengths_as_vllm_takes_them(
    project: Project, written: object, tokens: object
) -> None:
    """H22."""
    project.group(agents=[dict(AGENT, max_model_len=written)])
    assert hosts(project, "gpu_hosts = ['a']\n")["a"].agents[0].max_model_len == tokens


@pytest.mark.parametrize(
    "changes",
    [
        {"extra_args": ["--hf-overrides", '{"a": 1, "b": 2}']},
        {"extra_args": ['--hf-overrides={"a": 1}']},
        {"gpus": [0, 1, 2, 3], "tensor_parallel_size": 2, "extra_args": ["-pp", "2"]},
        {"gpus": [0, 1], "tensor_parallel_size": 1, "extra_args": ["--data_parallel_size=2"]},
        {"gpus": [0, 1, 2]},
    ],
)
def test_what_looks_like_a_mistake_and_is_none(
    project: Project, changes: dict[str, object]
) -> None:
    """H23."""
    project.group(agents=[AGENT | changes])
    assert hosts(project, "gpu_hosts = ['a']\n")


@pytest.mark.parametrize("inventory", ["", "gpu_hosts = []\n", "neighbours = ['n']\n"])
def test_no_host_at_all(project: Project, inventory: str) -> None:
    [problem] = refused(project, inventory)
    assert "has no hosts; add one to the group gpu_hosts" in problem


def test_fifty_hosts_with_one_mistake_get_one_sentence(project: Project) -> None:
    names = [f"gpu{n}" for n in range(50)]
    project.group(agents=[dict(AGENT, port=80)])
    [problem] = refused(project, f"gpu_hosts = {names!r}\n")
    assert problem == "group_data/gpu_hosts.py: agents[0].port must be at least 1024, not 80"


def test_a_host_without_gpus(project: Project) -> None:
    project.group(agents=[dict(AGENT, gpus=[])])
    assert not hosts(project, "gpu_hosts = ['a']\n")["a"].needs_gpu
