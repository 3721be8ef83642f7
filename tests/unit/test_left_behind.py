"""Hosts that were taken out of an inventory: what is remembered of them, and who says so."""

from __future__ import annotations

from pathlib import Path

import click
import pyrage
import pytest
from click.testing import CliRunner

from vllm_hosts.cli import common as cli_common
from vllm_hosts.cli.main import main
from vllm_hosts.errors import SettingsError
from vllm_hosts.keys import KeyStore, store_content
from vllm_hosts.keys.hosts import with_host
from vllm_hosts.keys.pki import utc_now
from vllm_hosts.keys.store_content import Content, DeployedHost
from vllm_hosts.project import left_behind
from vllm_hosts.project.inventory import LEFT, deployed, load, neighbours
from vllm_hosts.project.loaded import Project

_INVENTORY = """
from pathlib import Path
gpu_hosts = ([
    ("gpu1", {
        "ssh_hostname": "192.0.2.1", "ssh_port": 2222, "ssh_key": Path("~/.ssh/gpu"),
        "ssh_password": "pw-1", "ssh_key_password": "pw-2", "_sudo_password": "pw-3",
        "ssh_paramiko_connect_kwargs": {"passphrase": "pw-4"}, "edge": {"names": ["x.example.com"]},
    }),
    "gpu2",
], {"ssh_user": "admin", "_sudo": True})
neighbours = ["other"]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "inventory" / "prod.py"
    path.parent.mkdir()
    path.write_text(_INVENTORY)
    return path


def remembering(*names: str, data: dict[str, bool | int | str] | None = None) -> Content:
    content = store_content.new_content(utc_now())
    for name in names:
        content = with_host(content, name, DeployedHost(data=data or {}, agents=("one",)))
    return content


class TestTheWay:
    def test_all_that_a_connection_needs_and_no_password(self, file: Path) -> None:
        way = left_behind.way_to(load(file).get_host("gpu1"), ["qwen"])
        assert dict(way.data) == {
            "ssh_hostname": "192.0.2.1",
            "ssh_port": 2222,
            "ssh_key": "~/.ssh/gpu",
            "ssh_user": "admin",
            "_sudo": True,
        }
        assert way.agents == ("qwen",)
        assert "pw-" not in way.model_dump_json()

    def test_an_option_of_one_run_is_not_remembered(self, file: Path) -> None:
        inventory = load(file)
        inventory.override_data = {"ssh_user": "somebody"}
        assert left_behind.way_to(inventory.get_host("gpu2"), []).data["ssh_user"] == "admin"


class TestJoining:
    """What pyinfra's inventory is for a run of keys.py."""

    def test_they_are_reached_as_before_and_not_deployed_to(self, file: Path) -> None:
        inventory = load(file)
        way = DeployedHost(data={"ssh_hostname": "192.0.2.3", "_sudo": True}, agents=("one",))
        left_behind.join(inventory, with_host(remembering("gpu1"), "gpu3", way))
        assert [host.name for host in inventory.groups[LEFT]] == ["gpu3"]
        joined = inventory.get_host("gpu3")
        assert (joined.data.ssh_hostname, joined.data._sudo) == ("192.0.2.3", True)
        # Its group's data is not the inventory's group's.
        assert joined.data.get("ssh_user") is None
        assert [host.name for host in deployed(inventory)] == ["gpu1", "gpu2"]

    def test_this_machine(self, file: Path) -> None:
        inventory = load(file)
        left_behind.join(inventory, remembering("@local"))
        assert inventory.get_host("@local").connector_cls.__name__ == "LocalConnector"

    def test_what_is_no_way_has_no_meaning(self, file: Path) -> None:
        """Whoever writes the store has nothing run here by it."""
        inventory = load(file)
        data: dict[str, bool | int | str] = {"ssh_user": "a", "_shell_executable": "/tmp/x"}
        left_behind.join(inventory, remembering("gpu3", "@docker/x", "@vagrant", data=data))
        [joined] = inventory.groups[LEFT]
        assert joined.name == "gpu3"
        assert dict(inventory.host_data["gpu3"]) == {"ssh_user": "a"}

    def test_its_name_is_one_word_for_the_shell(self, file: Path) -> None:
        said = left_behind.sentence(["a;id\x1b[2J"], remembering("a;id\x1b[2J"), file)
        assert said.endswith(f"vllm-hosts hosts release {file} 'a;id'")
        assert "\x1b" not in said

    def test_one_that_is_a_neighbour_now(self, file: Path) -> None:
        inventory = load(file)
        left_behind.join(inventory, remembering("other"))
        assert [host.name for host in inventory.groups[LEFT]] == ["other"]
        assert left_behind.of(remembering("other"), load(file)) == ["other"]
        assert neighbours(inventory) == ["other"]

    def test_a_machine_that_has_another_name_now_is_not_reached_twice(self, file: Path) -> None:
        inventory = load(file)
        content = remembering("old-name", data={"ssh_hostname": "192.0.2.1", "ssh_port": 2222})
        left_behind.join(inventory, content)
        assert inventory.groups.get(LEFT) is None
        # Until it is released it is named.
        assert left_behind.of(content, inventory) == ["old-name"]

    def test_a_name_without_a_way_is_named_only(self, file: Path) -> None:
        """As in stores of earlier versions."""
        inventory = load(file)
        content = store_content.with_internal(remembering(), ["old"], utc_now())
        left_behind.join(inventory, content)
        assert "old" not in inventory.hosts
        assert left_behind.of(content, inventory) == ["old"]
        said = left_behind.sentence(["old"], content, file)
        assert "how to reach it is not recorded: put it back for a deploy" in said


@pytest.mark.parametrize(
    "words",
    [
        ["check"],
        ["endpoints"],
        ["verify"],
        ["drift"],
        ["plan"],
        ["doctor"],
        ["ca"],
        ["top", "--once"],
        ["agents", "status"],
        ["agents", "logs"],
        ["agents", "start"],
        ["agents", "stop", "--yes"],
        ["agents", "restart"],
        ["images"],
        ["images", "prune"],
        ["tls", "status"],
        ["tls", "renew"],
        ["keys", "init"],
        ["keys", "list"],
        ["keys", "new-ca", "--yes"],
        ["keys", "recipients", "list"],
        ["keys", "recipients", "add", "age1x"],
        ["keys", "recipients", "remove", "age1x"],
        ["keys", "add", "alice"],
        ["keys", "show", "--force", "default"],
        ["keys", "rotate", "default"],
        ["keys", "extend", "default", "--expires", "1d"],
        ["keys", "rotate-internal"],
        ["keys", "revoke", "default"],
        ["hosts", "list"],
        ["hosts", "adopt", "gpu1"],
        ["hosts", "release", "gpu9"],
    ],
    ids=" ".join,
)
def test_every_command_names_them(
    file: Path, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    KeyStore(file).update(lambda content: content, start=remembering("gpu1", "gpu2", "gone"))

    def enough(*args: object) -> None:
        raise SettingsError(["said by now"])

    def stop(project: Project) -> None:
        say(project)
        enough()

    say = cli_common.name_left
    monkeypatch.setattr(cli_common, "name_left", stop)
    group = 2 if words[0] in ("keys", "hosts") else 1
    group += "recipients" in words
    done = CliRunner().invoke(main, [*words[:group], str(file), *words[group:]])
    # Clients and keys are shown without an inventory that loads.
    others = {"keys list": 0, "keys show": 0, "hosts release": 2}
    assert done.exit_code in (1, others.get(" ".join(words[:2]))), done.output
    assert done.stderr.count("gone is no longer in ") == 1, done.output


class TestNaming:
    def named(self, file: Path, identity: Path | None = None) -> str:
        @click.command()
        def command() -> None:
            cli_common.opened(file, identity)
            cli_common.opened(file, identity)

        return CliRunner().invoke(command).stderr

    def test_one_line_once(self, file: Path) -> None:
        KeyStore(file).update(lambda content: content, start=remembering("gone", "gpu1"))
        assert self.named(file).count("\n") == 1
        assert f"vllm-hosts hosts release {file} gone" in self.named(file)
        KeyStore(file).update(lambda content: with_host(content, "more", DeployedHost()))
        assert self.named(file).startswith("gone, more are no longer in ")
        assert f"vllm-hosts hosts release {file} HOST" in self.named(file)

    def test_from_an_encrypted_store_that_opens(
        self, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        identity = pyrage.x25519.Identity.generate()
        (tmp_path / "identity").write_text(f"{identity}\n")
        KeyStore(file).update(lambda content: content, start=remembering("gone"))
        KeyStore(file, tmp_path / "identity").encrypt([str(identity.to_public())])
        assert "gone is no longer in " in self.named(file, tmp_path / "identity")
        # Whoever cannot open it is not told, and not stopped either.
        assert self.named(file) == ""

    def test_nothing_where_there_is_no_store(self, file: Path) -> None:
        assert self.named(file) == ""
        assert [path.name for path in file.parent.iterdir() if path.name != "__pycache__"] == [
            "prod.py"
        ]
