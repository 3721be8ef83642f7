"""What a store remembers of the way to a host, name by name, and what is said of those left."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.test_left_behind import remembering
from vllm_hosts.project import left_behind
from vllm_hosts.project.inventory import LEFT, load

FILE = Path("inventory/prod.py")
#: A name that is forgotten here is a host that nobody reaches any more.
WAY: dict[str, bool | int | str] = {
    "ssh_hostname": "192.0.2.1",
    "ssh_port": 2222,
    "ssh_user": "admin",
    "ssh_key": "~/.ssh/gpu",
    "ssh_config_file": "~/.ssh/gpus",
    "ssh_known_hosts_file": "~/.ssh/known",
    "ssh_strict_host_key_checking": "yes",
    "ssh_allow_agent": False,
    "ssh_look_for_keys": False,
    "ssh_forward_agent": True,
    "_sudo": True,
    "_sudo_user": "ops",
    "_use_sudo_login": True,
    "_su_user": "root",
    "_dzdo": True,
    "_dzdo_user": "root",
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "inventory" / "prod.py"
    path.parent.mkdir()
    path.write_text(f"gpu_hosts = [('gpu1', {WAY!r})]\nneighbours = ['other']\n")
    return path


def test_the_whole_way_is_remembered_and_used(file: Path) -> None:
    assert dict(left_behind.way_to(load(file).get_host("gpu1"), []).data) == WAY
    inventory = load(file)
    way: dict[str, bool | int | str] = {**WAY, "ssh_hostname": "192.0.2.3"}
    left_behind.join(inventory, remembering("gpu3", data=way))
    assert dict(inventory.host_data["gpu3"]) == way


def test_another_port_of_an_address_is_another_machine(file: Path) -> None:
    inventory = load(file)
    behind: dict[str, bool | int | str] = {"ssh_hostname": "192.0.2.1", "ssh_port": 2223}
    left_behind.join(inventory, remembering("gpu3", data=behind))
    left_behind.join(inventory, remembering("gpu4", data=WAY))
    assert [host.name for host in inventory.groups[LEFT]] == ["gpu3"]


def test_nothing_is_left_behind_of_no_store(file: Path) -> None:
    assert left_behind.of(None, load(file)) == []


def test_a_neighbour_that_was_joined_is_still_left_behind(file: Path) -> None:
    inventory, content = load(file), remembering("other")
    left_behind.join(inventory, content)
    assert LEFT in inventory.get_host("other").groups
    assert left_behind.of(content, inventory) == ["other"]


def test_hosts_of_a_version_that_remembered_none(file: Path) -> None:
    """It made internal keys for hosts, and for neighbours too."""
    inventory, content = load(file), remembering()
    key = next(iter(remembering("x").clients.values())).keys[0]
    internal = {name: {"value": key.value, "created": key.created} for name in ("gone", "other")}
    content = type(content).model_validate(content.model_dump() | {"internal": internal})
    assert left_behind.of(content, inventory) == ["gone"]


@pytest.mark.parametrize(
    ("names", "known", "said"),
    [
        (
            ["a"], ["a"],
            "a is no longer in inventory/prod.py, and still accepts the keys of its last deploy:"
            " keys.py still reaches it, until you run:"
            " vllm-hosts hosts release inventory/prod.py a",
        ),
        (
            ["a", "b", "c"], ["a"],
            "a, b, c are no longer in inventory/prod.py, and still accept the keys of their last"
            " deploy: keys.py still reaches them (but not b, c: put it back for a deploy), until"
            " you run: vllm-hosts hosts release inventory/prod.py HOST",
        ),
        (
            ["a", "b"], [],
            "a, b are no longer in inventory/prod.py, and still accept the keys of their last"
            " deploy: how to reach them is not recorded: put them back for a deploy, until you run:"
            " vllm-hosts hosts release inventory/prod.py HOST",
        ),
    ],
)  # fmt: skip
def test_what_every_command_says(names: list[str], known: list[str], said: str) -> None:
    assert left_behind.sentence(names, remembering(*known), FILE) == said
