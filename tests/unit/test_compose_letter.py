"""What a host is asked about a compose project, and what its answers mean, to the letter."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from tests.unit.fakes import inspect_line
from tests.unit.here import Here
from vllm_hosts.errors import HostError
from vllm_hosts.facts.base import END, HostFact
from vllm_hosts.facts.compose import (
    AgentLog,
    AgentStates,
    ComposeHashes,
    ComposeProject,
    HealthChecks,
)
from vllm_hosts.host.compose import Hashes, Network
from vllm_hosts.host.containers import CHECKS, INSPECT
from vllm_hosts.host.paths import STARTS

#: What it was asked goes to a file; what it answers is in others.
DOCKER = """
printf '%s\\n' "$*" >>asked
case $* in
*"config --hash"*) env | LC_ALL=C sort >environment; case $* in *" --file - "*) cat >given ;; esac
    cat hashes; echo level=warning of it >&2; exit $(cat code) ;;
"ps -aq "*) printf 'id1\\nid2\\n' ;;
"inspect "*) cat containers; [ ! -e gone ] ;;
"network ls "*) printf 'net1\\n' ;;
"network inspect "*) cat networks ;;
"logs "*) cat log; cat errors >&2 ;;
esac
"""


class Project:
    """A host with a project's folder, and a Docker that answers from files."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.directory = folder, folder / "opt"
        self.directory.mkdir()
        (folder / "starts").mkdir()
        (folder / "bin").mkdir()
        self.here = Here(folder / "bin")
        self.here.program("docker", f"cd {folder}\n{DOCKER}")
        self.write("opt/compose.yaml", "services: {}\n")
        self.write("opt/.env", "A_KEY=one\nlower=no\n# B=no\nB_KEY=two=2\nNOTHING\n")
        self.write("starts/qwen", "73\n")
        self.write("containers", f"{inspect_line('qwen')}\n")
        self.write("networks", "qwen vllm_qwen 198.18.0.0/29 vllm-1 qwen\n")
        self.write("hashes", "qwen abc\n")
        self.write("code", "0\n")

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)

    def read(self, name: str) -> str:
        return (self.folder / name).read_text()

    @property
    def asked(self) -> list[str]:
        found = self.folder / "asked"
        return found.read_text().splitlines() if found.exists() else []

    def says(self, fact: HostFact[Any], **given: Any) -> Any:
        script = str(fact.command(**given)).replace(STARTS, str(self.folder / "starts"))
        done = self.here.run(f"cd {self.folder}; {script}")
        assert done.stderr == "", done.stderr
        return fact.process(done.stdout.splitlines())

    def project(self, **given: Any) -> Any:
        return self.says(ComposeProject(), directory=str(self.directory), project="p", **given)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def test_all_of_it(project: Project) -> None:
    found = project.project()
    assert (found.wanted, found.error) == ({"qwen": "abc"}, None)
    assert [one.name for one in found.containers] == ["qwen"]
    assert found.networks == (Network("qwen", "vllm_qwen", "198.18.0.0/29", "vllm-1", ("qwen",)),)
    assert (found.env, found.starts) == ({}, {"qwen": 73})
    label = "label=com.docker.compose.project=p"
    asked = project.asked
    assert asked[0] == f"compose --project-directory {project.directory} config --hash *"
    assert asked[1:3] == [f"ps -aq --filter {label}", f"inspect --format {INSPECT} id1 id2"]
    assert asked[3] == f"network ls -q --filter {label}"
    assert asked[4] == (
        'network inspect --format {{index .Labels "com.docker.compose.network"}} {{.Name}}'
        " {{range .IPAM.Config}}{{.Subnet}}{{end}}"
        ' {{with index .Options "com.docker.network.bridge.name"}}{{.}}{{else}}-{{end}}'
        "{{range .Containers}} {{.Name}}{{end}} net1"
    )
    assert len(asked) == 5


def test_secrets_of_a_login_are_none_of_the_project_s(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_API_KEY_QWEN", "of somebody")
    for given in ({}, {"file": "x"}):
        project.project(**given)
        assert "VLLM_API_KEY_QWEN" not in project.read("environment")


def test_hashes_are_left_out_where_nobody_wants_them(project: Project) -> None:
    found = project.project(hashes=False)
    assert (found.wanted, found.error) == ({}, None)
    assert [one.name for one in found.containers] == ["qwen"]
    assert not [line for line in project.asked if "config --hash" in line]


@pytest.mark.parametrize("salt", ["", "s4lt"])
def test_what_env_holds_is_said_by_digests(project: Project, salt: str) -> None:
    found = project.project(salt=salt)
    assert found.env == {
        name: hashlib.sha256(f"{salt}{name}={value}".encode()).hexdigest()
        for name, value in (("A_KEY", "one"), ("B_KEY", "two=2"))
    }
    (project.directory / ".env").unlink()
    assert project.project(salt=salt).env == {}


def test_a_file_that_there_will_be(project: Project) -> None:
    """With variables that it asks for before they are there."""
    (project.directory / "compose.yaml").unlink()
    text = "services: {'a': 1}\n%s \\n\n"
    assert project.project(file=text, names=["A_KEY", "C_KEY"]).wanted == {"qwen": "abc"}
    assert project.read("given") == text
    assert project.asked[0] == (
        f"compose --file - --project-directory {project.directory} config --hash *"
    )
    assert "C_KEY=none\n" in project.read("environment")
    assert "A_KEY" not in project.read("environment"), "it is in .env"
    assert project.project(file="").wanted == {"qwen": "abc"}
    assert project.read("given") == ""


def test_a_file_that_lies_elsewhere_on_the_host(project: Project) -> None:
    (project.directory / "compose.yaml").unlink()
    project.write("it's here", "text\n")
    found = project.project(path=str(project.folder / "it's here"))
    assert (found.wanted, project.read("given")) == ({"qwen": "abc"}, "text\n")


def test_without_a_file_or_without_docker_there_is_no_hash(project: Project) -> None:
    (project.directory / "compose.yaml").unlink()
    found = project.project()
    assert (found.wanted, found.error) == ({}, "")
    hashes = project.says(ComposeHashes(), directory=str(project.directory))
    assert hashes == Hashes({}, "")
    assert not [line for line in project.asked if "config --hash" in line]
    project.write("opt/compose.yaml", "services: {}\n")
    project.write("asked", "")
    script = ComposeProject().command(directory=str(project.directory), project="p")
    script = script.replace("command -v docker", "command -v no-such-docker")
    done = project.here.run(script.replace(STARTS, str(project.folder / "starts")))
    found = ComposeProject().process(done.stdout.splitlines())
    assert (found.wanted, found.error, found.containers, found.networks) == ({}, "", (), ())
    assert project.asked == []


def test_hashes_alone(project: Project) -> None:
    project.write("hashes", "warning: two words\nqwen-3.b_c 0a1\nQwen abc\nqwen ab\ncoder def\n")
    found = project.says(ComposeHashes(), directory=str(project.directory))
    assert found == Hashes({"qwen-3.b_c": "0a1", "coder": "def"}, None)
    assert len(project.asked) == 1
    project.write("code", "15\n")
    project.write("hashes", "not\nwell\n")
    found = project.says(ComposeHashes(), directory=str(project.directory))
    assert found == Hashes({}, "not well level=warning of it")


def test_no_hash_among_words_is_no_empty_project() -> None:
    with pytest.raises(HostError) as refused:
        ComposeHashes().process(["== hashes", "one odd line", "x" * 400, "exit 0", END])
    assert str(refused.value) == (
        "Compose's hashes of the agents could not be understood: ValueError(\"Compose says no hash:"
        f" 'one odd line {'x' * 287}'\")"
    )
    assert ComposeHashes().process(["== hashes", "exit 0", END]) == Hashes({}, None)
    with pytest.raises(HostError, match="the agents' containers could not be understood"):
        ComposeProject().process(["== hashes", "exit 0", END])


def test_states_of_agents_that_have_to_be_there(project: Project) -> None:
    project.write("containers", f"{inspect_line('qwen')}\n{inspect_line('coder')}\n")
    found = project.says(AgentStates(), agents=["qwen", "coder"])
    assert {name: one.name for name, one in found.items()} == {"qwen": "qwen", "coder": "coder"}
    assert project.asked == [f"inspect --format {INSPECT} qwen coder"]
    project.write("gone", "")
    with pytest.raises(HostError, match="the agents' health could not be read: .* cut short"):
        project.says(AgentStates(), agents=["qwen"])


def test_checks_that_docker_cannot_make(project: Project) -> None:
    failed = '"OCI runtime exec failed: no shell"'
    project.write(
        "containers",
        f'{{"name":"/qwen","checks":[{failed},{failed},{failed},null]}}\n'
        '{"name":"/coder","checks":[null]}\n',
    )
    found = project.says(HealthChecks(), agents=["qwen", "coder"])
    assert found == {"qwen": "OCI runtime exec failed: no shell", "coder": ""}
    assert project.asked == [f"inspect --format {CHECKS} qwen coder"]
    project.write("gone", "")
    with pytest.raises(HostError, match="the agents' health checks could not be read"):
        project.says(HealthChecks(), agents=["qwen"])


def test_an_agent_s_last_lines_have_no_key(project: Project) -> None:
    project.write("opt/.env", "VLLM_API_KEY_QWEN=a-long-secret\n")
    project.write("log", "== log\n\nthe key a-long-secret is here\n== other\n")
    project.write("errors", "an error with a-long-secret\n")
    found = project.says(AgentLog(), agent="qwen", directory=str(project.directory), lines=7)
    assert len(found) == 4
    assert (found[0], found[2]) == ("== log", "== other")
    assert "a-long-secret" not in "".join(found)
    assert found[3].startswith("an error with ")
    assert project.asked == ["logs --tail 7 qwen"]
