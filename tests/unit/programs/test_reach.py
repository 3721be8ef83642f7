"""What stops the way to a host is one sentence for that host, in every command; others go on."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
from pyinfra.api.state import StateStage

from tests.unit.projects import ROOT, Project, own_lock
from tests.unit.ssh_server import SshServer, hanging_up, ssh_server, write_key
from vllm_hosts.connect.reach import Reaching
from vllm_hosts.project import pyinfra_command
from vllm_hosts.project.pyinfra_command import with_old_keys

#: Every command that goes to hosts.
COMMANDS = [
    ["vllm-hosts", "plan", "inventory/prod.py"],
    ["vllm-hosts", "doctor", "inventory/prod.py"],
    ["vllm-hosts", "agents", "inventory/prod.py", "status"],
    ["vllm-hosts", "agents", "inventory/prod.py", "start"],
    ["vllm-hosts", "agents", "inventory/prod.py", "stop", "--yes"],
    ["vllm-hosts", "agents", "inventory/prod.py", "restart"],
    ["vllm-hosts", "agents", "inventory/prod.py", "logs"],
    ["vllm-hosts", "images", "inventory/prod.py"],
    ["vllm-hosts", "images", "inventory/prod.py", "prune", "--yes"],
    ["vllm-hosts", "top", "inventory/prod.py", "--once"],
    ["vllm-hosts", "drift", "inventory/prod.py"],
    ["vllm-hosts", "verify", "inventory/prod.py", "--promise", "HOST-01"],
    ["pyinfra", "-y", "inventory/prod.py", "deploy.py"],
    ["pyinfra", "--dry", "inventory/prod.py", "deploy.py"],
    ["pyinfra", "-y", "inventory/prod.py", "keys.py"],
]


def _ids(words: list[str]) -> str:
    """Without what all have in common."""
    left = [word for word in words if word not in ("vllm-hosts", "inventory/prod.py", "--yes")]
    return "-".join(left)


class Reached(Project):
    """A project with both of pyinfra's files."""

    def __post_init__(self) -> None:
        super().__post_init__()
        (self.folder / "keys.py").symlink_to(ROOT / "keys.py")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    with ssh_server(tmp_path_factory.mktemp("ssh")) as running:
        # Whatever this machine has of them is none of these tests' business.
        running.program("docker", "echo 'there is no Docker here' >&2; exit 1")
        running.program("nginx", "exit 1")
        # This machine's own reads all package lists, each time.
        running.program("apt-mark", "exit 0")
        yield running


@pytest.fixture
def hang_up() -> Iterator[int]:
    with hanging_up() as port:
        yield port


def faults(server: SshServer, folder: Path, hang_up: int) -> dict[str, tuple[object, str]]:
    """By host name: what the inventory says of it, and the sentence that it must get."""
    (folder / "garbage").write_text("127.0.0.1 ssh-ed25519 not-base64!\n")
    (folder / "old").write_text(
        f"[127.0.0.9]:{server.port} ssh-ed25519"
        " AAAAC3NzaC1lZDI1NTE5AAAAIJ9YpLkbBvVqXrYzdAYm/Vm5Vda5uPOdZ4d9Mm2cT3kz\n"
    )
    (folder / "text").write_text("this is no key\n")
    (folder / "folder").mkdir()
    return {
        "no-key": (
            server.data(1, ssh_key="~/.ssh/no_such_key"),
            "the SSH key ~/.ssh/no_such_key does not exist; correct ssh_key",
        ),
        "text-for-a-key": (
            server.data(2, ssh_key=str(folder / "text")),
            f"the SSH key {folder / 'text'} cannot be read as a private key",
        ),
        "passphrase": (
            server.data(3, ssh_key=str(write_key(folder / "locked", b"secret"))),
            f"the SSH key {folder / 'locked'} has a passphrase, and there is no terminal to type it"
            " on",
        ),
        "wrong-passphrase": (
            server.data(4, ssh_key=str(folder / "locked"), ssh_key_password="wrong"),
            "ssh_key_password may be wrong",
        ),
        "another-key": (
            server.data(5, ssh_key=str(write_key(folder / "stranger"))),
            f"it does not let root in with the SSH key {folder / 'stranger'}",
        ),
        "known-hosts-is-a-folder": (
            server.data(6, ssh_known_hosts_file=str(folder / "folder")),
            f"{folder / 'folder'}, with the keys of known hosts, cannot be read (Is a directory)",
        ),
        "known-hosts-has-garbage": (
            server.data(7, ssh_known_hosts_file=str(folder / "garbage")),
            f"{folder / 'garbage'}, with the keys of known hosts, has a line that cannot be",
        ),
        "known-hosts-has-no-folder": (
            server.data(8, ssh_known_hosts_file=str(folder / "none" / "known_hosts")),
            "does not exist, so its key cannot be recorded; create the folder",
        ),
        "changed-host-key": (
            server.data(9, ssh_known_hosts_file=str(folder / "old")),
            "its SSH host key has changed",
        ),
        "unknown-host-key": (
            server.data(
                12, ssh_known_hosts_file=str(folder / "empty"), ssh_strict_host_key_checking="yes"
            ),
            f"its SSH host key is not in {folder / 'empty'}",
        ),
        "refused-port": (
            server.data(10, ssh_port=1),
            "127.0.0.10 refuses connections to port 1; is sshd running there",
        ),
        "no-such-name": (
            server.data(ssh_hostname="no-such-host.invalid"),
            "the name no-such-host.invalid does not resolve",
        ),
        "hangs-up": (
            server.data(ssh_port=hang_up),
            f"127.0.0.1 port {hang_up} closed the connection",
        ),
    }


def inventory(project: Project, hosts: Mapping[str, object]) -> None:
    project.group(edge={"names": ["llm.example.com"]})
    # Other tests deploy on this machine meanwhile.
    own = own_lock(project.folder)
    project.write("inventory/prod.py", f"{own}gpu_hosts = {list(hosts.items())!r}\n")


def one_line(text: str) -> str:
    """Without the ends of lines, which tables and narrow terminals put anywhere."""
    return " ".join(text.replace("│", " ").split())


@pytest.mark.parametrize("words", COMMANDS, ids=_ids)
def test_every_fault_on_the_way_is_a_sentence_of_its_host(
    tmp_path: Path, server: SshServer, hang_up: int, words: list[str]
) -> None:
    project = Reached(tmp_path)
    wrong = faults(server, tmp_path, hang_up)
    inventory(project, {name: data for name, (data, _) in wrong.items()})
    done = project.run(*words)
    said = one_line(done.stdout)
    assert done.returncode == 1, done.stdout
    assert "Traceback" not in said
    assert "INTERNALERROR" not in said
    assert "bug report" not in said
    if words[1] in ("doctor", "top"):
        # What does not fit a line is cut there; --json has all of it.
        done = project.run(*words, "--json")
        said = one_line(done.stdout)
    for name, (_, sentence) in wrong.items():
        assert sentence in said, f"{name}: {done.stdout}"


#: The other host is this machine: nothing may be written there. Nor is anything restarted while a
#: host is out of reach.
OTHERS_GO_ON = [
    words for words in COMMANDS if "keys.py" not in words and "restart" not in words
] + [["pyinfra", "--dry", "inventory/prod.py", "keys.py"]]


@pytest.mark.parametrize("words", OTHERS_GO_ON, ids=_ids)
def test_the_other_hosts_go_on(tmp_path: Path, server: SshServer, words: list[str]) -> None:
    project = Reached(tmp_path)
    inventory(
        project,
        {"lost": server.data(ssh_key="/no/such/key"), "found": server.data(2)},
    )
    done = project.run(*words)
    said = one_line(done.stdout)
    assert "the SSH key /no/such/key does not exist" in said
    assert "Traceback" not in said, done.stdout
    assert "found" in said or "1 kept, 1 not checked" in said, done.stdout
    assert "found cannot be reached" not in said
    assert "found: cannot be reached" not in said


@pytest.mark.parametrize("words", COMMANDS, ids=_ids)
def test_a_login_that_cannot_become_root(tmp_path: Path, words: list[str]) -> None:
    project = Reached(tmp_path)
    with ssh_server(tmp_path / "ssh") as server:
        server.program("sudo", "echo 'root is not in the sudoers file.' >&2; exit 1")
        server.program("id", "echo 1000")
        inventory(project, {"no-sudo": server.data(), "sudo-refuses": server.data(2, _sudo=True)})
        done = project.run(*words)
    said = one_line(done.stdout)
    assert done.returncode == 1, done.stdout
    assert "Traceback" not in said
    assert "bug report" not in said
    assert "root is not in the sudoers file." in said
    assert "set _sudo" in said


def test_a_sudo_that_asks_for_a_password_where_nobody_is(tmp_path: Path) -> None:
    project = Project(tmp_path)
    with ssh_server(tmp_path / "ssh") as server:
        server.program("sudo", "echo 'sudo: a password is required' >&2; exit 1")
        inventory(project, {"gpu1": server.data(_sudo=True)})
        done = project.run("vllm-hosts", "drift", "inventory/prod.py")
    assert done.returncode == 1
    assert "sudo asks for a password, and there is no terminal to type it on" in done.stdout


@pytest.mark.parametrize("cut_after", [0, 1])
@pytest.mark.parametrize("words", COMMANDS, ids=_ids)
def test_a_host_that_hangs_up_in_the_middle(
    tmp_path: Path, words: list[str], cut_after: int
) -> None:
    project = Reached(tmp_path)
    with ssh_server(tmp_path / "ssh", cut_after=cut_after) as server:
        server.program("id", "echo 0")
        inventory(project, {"gpu1": server.data()})
        done = project.run(*words)
    assert done.returncode == 1, done.stdout
    assert "Traceback" not in done.stdout
    assert "INTERNALERROR" not in done.stdout
    assert "internal error" not in done.stdout, done.stdout
    # Nothing more is asked of it.
    assert done.stdout.count("could not load fact") <= 1, done.stdout


def test_fifty_hosts_and_none_of_them_there(tmp_path: Path, server: SshServer) -> None:
    project = Project(tmp_path)
    inventory(project, {f"gpu{n}": server.data(n + 1, ssh_port=1) for n in range(50)})
    done = project.run("vllm-hosts", "doctor", "inventory/prod.py", "--json")
    found = json.loads(done.stdout)
    assert len(found) == 50
    assert all("refuses connections" in host["could_not_look"][0] for host in found.values())


def test_without_a_terminal_pyinfra_s_questions_end_in_a_sentence(
    tmp_path: Path, server: SshServer
) -> None:
    """O15."""
    project = Project(tmp_path)
    data = {"lost": server.data(ssh_key="/no/such/key"), "found": server.data(2)}
    inventory(project, data)
    done = project.run("pyinfra", "inventory/prod.py", "deploy.py")
    assert done.returncode == 2, done.stdout
    assert "confirmation is needed, and there is no terminal to ask on" in done.stdout, done.stdout
    assert "EOFError" not in done.stdout
    assert "Traceback" not in done.stdout
    assert "bug report" not in done.stdout


def test_keys_that_were_not_taken_are_the_last_words(tmp_path: Path, server: SshServer) -> None:
    """O6."""
    project = Reached(tmp_path)
    inventory(project, {"gpu1": server.data(ssh_port=1), "gpu2": server.data(2, ssh_port=1)})
    done = project.run("pyinfra", "-y", "inventory/prod.py", "keys.py")
    assert done.returncode == 1
    # pyinfra's own error, where no host is left, is the only line behind it.
    assert done.stdout.splitlines()[-4:-1] == [
        "--> Still with their old keys: gpu1, gpu2",
        "    Revoked keys still work there, and new ones do not. To finish, run:",
        "    pyinfra -y --limit gpu1 --limit gpu2 inventory/prod.py keys.py",
    ]
    # On a new machine there is no file of known hosts, and nothing wrong with that.
    assert "known_hosts" not in done.stdout
    done = project.run("pyinfra", "-y", "--limit", "gpu2", "inventory/prod.py", "keys.py")
    assert "--> Still with their old keys: gpu2\n" in done.stdout
    # Neither a deploy nor a dry run is about keys alone.
    for words in (
        ["-y", "inventory/prod.py", "deploy.py"],
        ["--dry", "inventory/prod.py", "keys.py"],
    ):
        assert "old keys" not in project.run("pyinfra", *words).stdout


def test_they_are_named_in_red(monkeypatch: pytest.MonkeyPatch) -> None:
    """O6."""
    said: list[tuple[str, object]] = []
    monkeypatch.setattr(click, "secho", lambda text, **style: said.append((text, style.get("fg"))))
    host: Any = _Named("down")
    state: Any = SimpleNamespace(current_stage=StateStage.Connect)
    pyinfra_command.say_who_has_old_keys((host,), state, Path("inventory/prod.py"))
    assert said == [("--> Still with their old keys: down", "red")]


def test_who_has_old_keys() -> None:
    hosts: list[Any] = [_Named("good"), _Named("failed"), _Named("never")]
    state: Any = SimpleNamespace(
        current_stage=StateStage.Disconnect, failed_hosts={hosts[1]}, activated_hosts=set(hosts[:2])
    )
    assert with_old_keys(hosts, state) == ["failed", "never"]
    state.current_stage = StateStage.Prepare
    assert with_old_keys(hosts, state) == ["good", "failed", "never"]


@dataclass(frozen=True)
class _Named:
    name: str


def test_a_host_that_answers_nothing_any_more_is_given_up() -> None:
    """One that lost its power; TCP alone would wait for a command's end for ever."""
    asked: list[int] = []
    listener = socket.create_server(("127.0.0.1", 0))
    sock = socket.create_connection(listener.getsockname())
    transport = SimpleNamespace(sock=sock, set_keepalive=asked.append)
    client = SimpleNamespace(get_transport=lambda: transport)
    host = SimpleNamespace(connector=SimpleNamespace(client=client))
    Reaching.host_connect(None, host)  # type: ignore[arg-type]
    assert asked == [15]
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 90_000
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
    # Between two signs of life, and not ten times a second, as paramiko has it.
    assert 1 <= (sock.gettimeout() or 0) <= asked[0] / 2
