"""`vllm-hosts agents INVENTORY drain` and `undrain`, with this machine as the gateway."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.unit.projects import AGENT, Project, own_lock
from vllm_hosts.settings.fleet import host_label

#: HAProxy's runtime socket: it knows two hosts with one agent, and does what it is told.
SOCAT = """#!/bin/sh
cd {folder}; read -r words
case $words in
    'show stat'*)
        echo '# pxname,svname,scur,status,check_status,check_desc'
        while read -r name status admin; do echo "one,$name,0,$status,L7OK,"; done <servers ;;
    'show servers state')
        echo 1; echo '# be_name srv_name srv_admin_state'
        while read -r name status admin; do echo "one $name $admin"; done <servers ;;
    'show proc') ;;
    *)
        echo "$words" >>told
        case $words in *drain*) new=8 ;; *) new=0 ;; esac
        while read -r name status admin; do
            case $words in *"one/$name state"*) admin=$new ;; esac; echo "$name $status $admin"
        done <servers >servers.$$; mv servers.$$ servers ;;
esac
echo
"""
ONE, TWO = (f"one.{host_label(name)}" for name in ("gpu1", "gpu2"))


class Gateway:
    """A project with two hosts that do not answer, behind a gateway that is this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "project").mkdir()
        (folder / "bin").mkdir()
        self.project = Project(folder / "project")
        self.project.environment = {
            "PATH": f"{folder}/bin:{os.environ['PATH']}",
            "HOME": str(folder),
        }
        hosts = [
            (f"gpu{n}", {"ssh_hostname": f"127.0.0.{n}", "ssh_port": 1, "edge": {"https_port": 9}})
            for n in (1, 2)
        ]
        networks = {"ssh_hostname": "127.0.0.9", "gateway": {"networks": ["192.0.2.1/32"]}}
        self.project.write(
            "inventory/prod.py",
            f"{own_lock(folder)}"
            "from vllm_hosts.facts import rotation as _facts\n"
            "from vllm_hosts.host import rotation as _words\n"
            "from vllm_hosts.operations import rotation as _steps\n"
            "from vllm_hosts.host import balancer as _haproxy\n"
            "_haproxy.SAVE_SCRIPT = 'true'\n"
            f"_facts.DRAINED = _words.DRAINED = {str(folder / 'drained')!r}\n"
            "_steps._ASKED = 1\n"
            f"gateways = [('@local', {networks!r})]\n"
            f"gpu_hosts = {hosts!r}\n",
        )
        self.project.group(agents=[AGENT])
        self.program("systemctl", "#!/bin/sh\nexit 0\n")
        self.program("socat", SOCAT.format(folder=folder))
        self.servers(f"{ONE} UP 0\n{TWO} UP 0\n")

    def program(self, name: str, text: str) -> None:
        path = self.folder / "bin" / name
        path.write_text(text)
        path.chmod(0o755)

    def servers(self, text: str) -> None:
        (self.folder / "servers").write_text(text)

    def told(self) -> list[str]:
        path = self.folder / "told"
        return path.read_text().splitlines() if path.exists() else []

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        done = self.project.run("vllm-hosts", "agents", "inventory/prod.py", *words)
        assert "Traceback" not in done.stdout, done.stdout
        return done


@pytest.fixture
def gateway(tmp_path: Path) -> Gateway:
    return Gateway(tmp_path)


def test_a_host_is_drained_though_it_does_not_answer(gateway: Gateway) -> None:
    done = gateway.run("drain", "one", "--host", "gpu1")
    assert done.returncode == 0, done.stdout
    assert gateway.told() == [f"set server one/{ONE} state drain"]
    assert "[gpu1]       @local: no new requests to one" in done.stdout
    assert "[gpu1]       one: no request runs, after 0 s" in done.stdout
    assert (gateway.folder / "drained" / ONE).exists(), "no deploy puts it back"
    # What is shown of it:
    rows = gateway.run("status", "--json").stdout
    _, _, rows = rows.partition("[\n")
    found = json.loads(f"[{rows.partition(chr(10) + ']')[0]}]")
    assert [(row["host"], row["drained"]) for row in found if row["host"] != "@local"] == [
        ("gpu1", ["@local"]),
        ("gpu2", []),
    ]
    # Its edge does not answer either.
    done = gateway.run("undrain", "one", "--host", "gpu1")
    assert done.returncode == 1
    assert "gpu1: agent one gets no requests from gateways" in done.stdout
    assert len(gateway.told()) == 1


def test_what_is_not_drained_is_no_reason_to_fail(gateway: Gateway) -> None:
    done = gateway.run("undrain", "--host", "gpu1")
    assert (done.returncode, gateway.told()) == (0, [])
    assert "gpu1: one is not drained" in done.stdout


@pytest.mark.parametrize(
    ("words", "servers"),
    [
        (("--host", "gpu1", "--host", "gpu2"), f"{ONE} UP 0\n{TWO} UP 0\n"),
        (("--host", "gpu1"), f"{ONE} UP 0\n{TWO} DOWN 0\n"),
        (("--host", "gpu1"), f"{ONE} UP 0\n{TWO} UP 8\n"),
    ],
)
def test_the_last_ones_are_drained_only_on_purpose(
    gateway: Gateway, words: tuple[str, ...], servers: str
) -> None:
    gateway.servers(servers)
    done = gateway.run("drain", "one", *words)
    assert (done.returncode, gateway.told()) == (1, [])
    assert "no other agent answers for one at @local, and its clients would get 503" in done.stdout
    assert "Nothing was drained.\nTo drain them nevertheless, add --last" in done.stdout
    assert gateway.run("drain", "one", *words, "--last").returncode == 0
    assert any(f"one/{ONE} state drain" in line for line in gateway.told())


def test_agents_that_no_gateway_knows_are_not_said_to_be_drained(gateway: Gateway) -> None:
    gateway.servers(f"{TWO} UP 0\n")
    done = gateway.run("drain", "one", "--host", "gpu1")
    assert done.returncode == 1
    assert "gpu1: no gateway knows one, so there is nothing to drain; deploy" in done.stdout


def test_every_agent_is_asked_about(gateway: Gateway) -> None:
    done = gateway.run("drain", "--host", "gpu1")
    assert (done.returncode, gateway.told()) == (2, [])
    assert gateway.run("drain", "--host", "gpu1", "--yes").returncode == 0
    assert len(gateway.told()) == 1


def test_without_gateways_there_is_nobody_to_tell(tmp_path: Path) -> None:
    project = Project(tmp_path)
    for command in ("drain", "undrain"):
        done = project.run("vllm-hosts", "agents", "inventory/prod.py", command, "one")
        assert done.returncode == 2
        assert "no gateway is in front of 192.0.2.1" in done.stdout
        assert "add a group gateways to the inventory, or stop agents" in done.stdout
