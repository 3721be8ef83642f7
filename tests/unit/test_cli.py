"""The command vllm-hosts, as people and scripts use it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import click
import pytest

from tests.stores import made
from tests.unit import samples
from tests.unit.projects import AGENT, BIN, Project
from vllm_hosts.cli.main import main
from vllm_hosts.keys import KeyStore
from vllm_hosts.project.endpoints import endpoints

PROD = "inventory/prod.py"


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = Project(tmp_path)
    project.group(agents=[AGENT, dict(AGENT, name="two", port=8002, gpus=[1])])
    return project


@pytest.mark.parametrize("name", ["vllm-hosts", "pyinfra"])
def test_the_installed_programs_start(name: str) -> None:
    """Elsewhere commands are forks of one process: see started.py."""
    words = [str(BIN / name), "--version"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert name in done.stdout
    assert done.stderr == ""


def test_help_names_every_command(project: Project) -> None:
    done = project.run("vllm-hosts", "--help")
    assert done.returncode == 0
    for name in (
        "agents",
        "ca",
        "check",
        "doctor",
        "drift",
        "endpoints",
        "hosts",
        "images",
        "keys",
        "plan",
        "tls",
        "top",
        "verify",
    ):
        assert f"  {name} " in done.stdout
        assert project.run("vllm-hosts", name, "-h").returncode == 0


def test_misuse_is_exit_code_2(project: Project) -> None:
    assert project.run("vllm-hosts", "check").returncode == 2
    assert project.run("vllm-hosts", "no-such-command").returncode == 2


def test_every_command_takes_the_same_options() -> None:
    """Those that several commands have are spelt, typed and described alike."""
    seen: dict[str, set[tuple[object, ...]]] = {}
    names = {"--host", "--yes", "--identity"}

    def collect(command: click.Command) -> None:
        for option in command.params:
            if isinstance(option, click.Option) and names & {*option.opts}:
                alike = (*sorted(option.opts), option.help, option.metavar, option.multiple)
                seen.setdefault(str(option.name), set()).add(alike)
        if isinstance(command, click.Group):
            for one in command.commands.values():
                collect(one)

    collect(main)
    assert {name: len(alike) for name, alike in seen.items()} == dict.fromkeys(seen, 1), seen
    assert set(seen) == {"hosts", "yes", "identity"}


@pytest.mark.parametrize(
    "words",
    [
        ("agents", PROD, "status"),
        ("doctor", PROD),
        ("drift", PROD),
        ("images", PROD),
        ("plan", PROD),
        ("tls", PROD, "status"),
        ("top", PROD),
        ("verify", PROD),
    ],
)
def test_a_host_that_is_not_there_is_misuse(project: Project, words: tuple[str, ...]) -> None:
    done = project.run("vllm-hosts", *words, "--host", "gpu9")
    assert done.returncode == 2
    assert f"Error: {PROD} has no host gpu9; it has 192.0.2.1" in done.stdout
    assert project.run("vllm-hosts", "hosts", "adopt", PROD, "gpu9").returncode == 2


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--promise", "NET-01", "--skip", "NET-01"], "nothing is left"),
        (["--report", "/proc/nowhere/report"], "--report /proc/nowhere/report cannot be written: "),
        (["--promis", "NET-01"], "unrecognized arguments: --promis"),
    ],
)
def test_verify_is_misused(project: Project, words: list[str], sentence: str) -> None:
    done = project.run("vllm-hosts", "verify", PROD, *words)
    assert done.returncode == 2
    assert sentence in done.stdout


def test_what_is_to_be_typed_next_is_quoted(project: Project) -> None:
    project.write("inventory/my prod.py", "gpu_hosts = ['192.0.2.1']\n")
    for words in (("add",), ("rotate",), ("revoke",)):
        done = project.run("vllm-hosts", "keys", *words, "inventory/my prod.py", "alice")
        assert "pyinfra -y 'inventory/my prod.py' keys.py" in done.stdout
    done = project.run("vllm-hosts", "keys", "rotate-internal", "inventory/my prod.py")
    assert "pyinfra 'inventory/my prod.py' deploy.py" in done.stdout


def test_check_lists_hosts_and_agents(project: Project) -> None:
    done = project.check()
    assert done.returncode == 0
    assert "1 host and 2 agents: all settings are valid" in done.stdout
    assert not (project.folder / "inventory" / ".vllm-hosts").exists()


def test_check_shows_accepted_risks(project: Project) -> None:
    risky = {"extra_args": ["--trust-remote-code"], "accepted_risks": ["--trust-remote-code"]}
    project.group(agents=[AGENT | risky])
    done = project.check()
    assert done.returncode == 0
    assert (
        "  agent 'one' has an accepted risk: --trust-remote-code lets the model's authors run"
        " their code in the agent\n"
    ) in done.stdout


def test_endpoints_as_json(project: Project) -> None:
    done = project.run("vllm-hosts", "endpoints", "inventory/prod.py", "--json")
    assert done.returncode == 0
    first, second = json.loads(done.stdout)
    assert first == {
        "host": "192.0.2.1",
        "agent": "one",
        "base_url": "https://192.0.2.1/one/v1",
        "ca_file": str(project.folder / "inventory/.vllm-hosts/prod/ca.pem"),
        "served_model_name": "one",
        "client": "default",
        "key_command": first["key_command"],
    }
    shown = f"vllm-hosts keys show --force {project.folder / 'inventory/prod.py'} default"
    assert first["key_command"].endswith(shown)
    assert second["base_url"] == "https://192.0.2.1/two/v1"


def test_what_endpoints_prints_holds_in_any_folder(project: Project, tmp_path: Path) -> None:
    made(KeyStore(project.folder / "inventory/prod.py"))
    words = ["vllm-hosts", "endpoints", "inventory/prod.py", "--json"]
    [first, _] = json.loads(project.run(*words).stdout)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = project.shell(first["key_command"], elsewhere)
    assert (done.returncode, len(done.stdout.strip())) == (0, 43), done.stdout
    files = {"mode": "files", "certificate": "a.pem", "key": "a.key", "ca_file": "own.pem"}
    host = samples.settings(tls=files)
    [own, *_] = endpoints({host.name: host}, project.folder, "show", "default")
    assert own.ca_file is not None
    assert Path(own.ca_file).is_absolute()


def test_another_port_and_public_certificates(project: Project) -> None:
    project.group(edge={"names": ["llm.example.com"], "https_port": 8443})
    [found] = json.loads(
        project.run("vllm-hosts", "endpoints", "inventory/prod.py", "--json").stdout
    )
    assert found["base_url"] == "https://llm.example.com:8443/one/v1"


def test_no_other_command_shows_a_key(project: Project) -> None:
    made(KeyStore(project.folder / "inventory/prod.py"))
    key = project.run(
        "vllm-hosts", "keys", "show", "--force", "inventory/prod.py", "default"
    ).stdout
    assert len(key) == 43
    for words in (["check"], ["endpoints"], ["endpoints", "--json"], ["keys", "list"]):
        assert key not in project.run("vllm-hosts", *words, "inventory/prod.py").stdout


def test_completion_for_bash(project: Project) -> None:
    project.environment = {"_VLLM_HOSTS_COMPLETE": "bash_source"}
    assert "complete" in project.run("vllm-hosts").stdout
