"""What stands below pyinfra's table before a run: refused hosts, and what the changes lead to."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.fakes import LocalHost, inspect_line
from tests.unit.projects import AGENT, Project
from tests.unit.ssh_server import SshServer, ssh_server
from vllm_hosts.operations.foreseen import Changing, Foreseen
from vllm_hosts.project.outlook import effects

#: Preflight as it refuses, and operations behind it that would change things.
DEPLOY = """
from pyinfra.context import ctx_host
from vllm_hosts.errors import HostError
from vllm_hosts.operations.base import StringCommand, host_operation
from vllm_hosts.operations.checks import no_problems
from vllm_hosts.operations.foreseen import leads_to, may_have_changed, will_change

bad = {bad!r}

@host_operation
def touched(name):
    leads_to("nginx is reloaded")
    will_change(["/one"])
    yield StringCommand(f"touch {folder}/{{ctx_host.get().name}}-{{name}}")

@host_operation
def taken_up(paths):
    if may_have_changed(paths):
        yield StringCommand("true")

@host_operation
def odd():
    raise HostError("Docker does not answer")
    yield

no_problems(
    lambda: ["the disk is full; make room"] if ctx_host.get().name in bad else [],
    name="The host can take this deploy",
)
if {odd!r} == "first":
    odd(name="Zeroth")
touched("a", name="First")
taken_up(["/one"], name="Second")
taken_up(["/two"], name="Third")
if {odd!r} == "last":
    odd(name="Fourth")
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    with ssh_server(tmp_path_factory.mktemp("server")) as running:
        yield running


def project(
    folder: Path, server: SshServer, *bad: str, odd: str = "", **changes: object
) -> Project:
    made = Project(folder)
    (folder / "deploy.py").unlink()
    made.write("deploy.py", DEPLOY.format(bad=bad, folder=folder, odd=odd))
    hosts = [(name, server.data(number)) for number, name in enumerate(("gpu1", "gpu2"), 1)]
    hosts[1][1].update(changes)
    made.write("inventory/prod.py", f"gpu_hosts = {hosts!r}\n")
    return made


def row(output: str, name: str) -> list[str]:
    """A row of pyinfra's table: changes, conditional changes."""
    [line] = [line for line in output.splitlines() if line.strip().startswith(name)]
    return re.split(r"\s{2,}", line.strip())[1:]


def test_a_dry_run_refuses_a_host_and_shows_the_others(tmp_path: Path, server: SshServer) -> None:
    """O8."""
    made = project(tmp_path, server, "gpu2")
    done = made.run("pyinfra", "--dry", "inventory/prod.py", "deploy.py")
    assert done.returncode == 1, done.stdout
    assert (
        "--> gpu2 is refused, and will not be deployed to:\n    - the disk is full; make room\n"
        in (done.stdout)
    )
    table = done.stdout.partition("Detected changes:")[2].partition("-->")[0]
    assert "1 (gpu1)" in table
    assert "gpu2" not in table
    assert "gpu1: nginx is reloaded" in done.stdout
    assert "gpu2: nginx is reloaded" not in done.stdout
    assert list(tmp_path.glob("gpu*")) == []


def test_what_a_dry_run_as_json_says_of_a_refused_host(tmp_path: Path, server: SshServer) -> None:
    made = project(tmp_path, server, "gpu2")
    done = made.run("pyinfra", "--dry", "--json", "inventory/prod.py", "deploy.py")
    assert done.returncode == 1
    assert "gpu2 is refused" in done.stdout
    plan = json.loads(done.stdout[done.stdout.index("{") : done.stdout.rindex("}") + 1])["plan"]
    assert {host for one in plan for host in one["hosts_with_change"]} == {"gpu1"}


def test_a_dry_run_in_which_every_host_is_good(tmp_path: Path, server: SshServer) -> None:
    done = project(tmp_path, server).run("pyinfra", "--dry", "inventory/prod.py", "deploy.py")
    assert done.returncode == 0, done.stdout
    assert "refused" not in done.stdout


def test_a_run_asks_below_what_it_leads_to(tmp_path: Path, server: SshServer) -> None:
    """O15: without a terminal, its question ends in one sentence."""
    made = project(tmp_path, server, "gpu2")
    done = made.run("pyinfra", "inventory/prod.py", "deploy.py")
    assert done.returncode == 2
    before, asked, after = done.stdout.partition("Press enter to execute")
    assert asked
    assert "gpu1: nginx is reloaded" in before
    assert "--> gpu2 is refused" in before
    assert "confirmation is needed, and there is no terminal to ask on" in after
    assert "EOFError" not in done.stdout
    assert list(tmp_path.glob("gpu*")) == []


def test_a_dry_run_in_which_every_host_is_refused(tmp_path: Path, server: SshServer) -> None:
    made = project(tmp_path, server, "gpu1", "gpu2")
    done = made.run("pyinfra", "--dry", "inventory/prod.py", "deploy.py")
    assert done.returncode == 1
    assert done.stdout.count("is refused") == 2
    assert "Traceback" not in done.stdout
    assert "bug report" not in done.stdout
    # A run asks nothing where nothing is left to do.
    done = made.run("pyinfra", "inventory/prod.py", "deploy.py")
    assert done.returncode == 1
    assert "Every host was refused; no host was changed." in done.stdout
    assert "confirmation is needed" not in done.stdout


def test_a_dry_run_does_not_ask_about_hosts_out_of_reach(tmp_path: Path, server: SshServer) -> None:
    made = project(tmp_path, server, ssh_port=1)
    done = made.run("pyinfra", "--dry", "inventory/prod.py", "deploy.py")
    assert done.returncode == 1, done.stdout
    assert "confirmation is needed" not in done.stdout
    assert "gpu1: nginx is reloaded" in done.stdout


def test_a_run_with_y_refuses_a_host_and_changes_the_others(
    tmp_path: Path, server: SshServer
) -> None:
    made = project(tmp_path, server, "gpu2")
    done = made.run("pyinfra", "-y", "inventory/prod.py", "deploy.py")
    assert done.returncode == 1
    assert "the disk is full" in done.stdout
    assert [file.name for file in tmp_path.glob("gpu*")] == ["gpu1-a"]


@pytest.mark.parametrize("more", [(), ("-v",)])
def test_a_run_that_somebody_agrees_to_names_refused_hosts_at_its_end(
    tmp_path: Path, server: SshServer, more: tuple[str, ...]
) -> None:
    made = project(tmp_path, server, "gpu2")
    words = ("pyinfra", *more, "inventory/prod.py", "deploy.py")
    done = made.run(*words, apart=True, typed="\n")
    assert done.returncode == 1
    end = done.stderr.partition("--> Results:")[2]
    assert ("--> Refused before the run, and unchanged: gpu2" in end) == bool(more)
    assert ("[gpu2] was refused before the run, and not changed" in end) != bool(more)
    assert [file.name for file in tmp_path.glob("gpu*")] == ["gpu1-a"]


def test_what_depends_on_a_change_before_it_is_conditional(
    tmp_path: Path, server: SshServer
) -> None:
    """O2."""
    done = project(tmp_path, server).run("pyinfra", "--dry", "inventory/prod.py", "deploy.py")
    first, second, third = (row(done.stdout, name) for name in ("First", "Second", "Third"))
    assert first == ["2 (gpu1, gpu2)", "-"]
    assert second == ["-", "2 (gpu1, gpu2)"]
    assert third == ["-", "-"]


def test_what_cannot_be_told_before_the_run_is_said(tmp_path: Path, server: SshServer) -> None:
    made = project(tmp_path, server, odd="last")
    done = made.run("pyinfra", "--dry", "inventory/prod.py", "deploy.py")
    assert "gpu1: cannot be determined before the run: Docker does not answer" in done.stdout
    assert row(done.stdout, "Fourth") == ["-", "2 (gpu1, gpu2)"]


def test_what_would_fail_as_things_are_refuses_a_host(tmp_path: Path, server: SshServer) -> None:
    """Nothing before it changes anything that could repair it."""
    made = project(tmp_path, server, odd="first")
    done = made.run("pyinfra", "--dry", "inventory/prod.py", "deploy.py")
    assert done.returncode == 1, done.stdout
    assert (
        "--> gpu1 is refused, and will not be deployed to:\n    - Docker does not answer"
        in done.stdout
    )


#: A host whose agent runs as compose.yaml there says, with a hash that is the file's digest.
DOCKER = r"""
here=$(dirname "$0")/..
case "$*" in
    *"--file - "*"config --hash"*) echo "one $(sha256sum | cut -c 1-64)" ;;
    "ps -aq"*) echo id ;;
    "inspect --format"*)
        sum=$(cat "$here/opt/compose.yaml" 2>/dev/null | sha256sum | cut -c 1-64)
        sed "s/HASH/$sum/" "$here/inspected" ;;
esac
"""


def test_a_dry_run_names_the_agent_that_is_recreated(tmp_path: Path) -> None:
    """O2."""
    host = LocalHost.make(tmp_path)
    made = host.project
    (made.folder / "deploy.py").unlink()
    made.write("deploy.py", "from vllm_hosts.roles.vllm import vllm\n\nvllm()\n")
    host.program("docker", f"#!/bin/sh\n{DOCKER}")
    host.file("inspected", inspect_line("one", hash="HASH") + "\n")
    vllm = {"directory": str(host.folder / "opt"), "cache_directory": str(tmp_path / "cache")}

    def dry(**changes: object) -> str:
        made.group(agents=[AGENT | changes], vllm=vllm)
        done = made.run("pyinfra", "--dry", "inventory/prod.py", "deploy.py")
        assert done.returncode == 0, done.stdout
        return done.stdout

    found = dry()
    assert (
        "@local: agent one is recreated (its definition changed); it is down for minutes" in found
    )
    assert row(found, "vLLM | The agents run as in compose.yaml")[0] == "1 (@local)"
    assert not (host.folder / "opt/compose.yaml").exists(), "a dry run wrote a file"
    # As a deploy leaves it: file and keys are there.
    (tmp_path / "as_deployed.py").write_text(
        "from pathlib import Path; from vllm_hosts.project.inventory import load, validate;"
        " from vllm_hosts.keys import KeyStore; from vllm_hosts.facts.system import HostMemory;"
        " from vllm_hosts.host.services import compose_file;"
        " from vllm_hosts.roles.secrets.plan import secret_entries;"
        " import sys; path = Path('inventory/prod.py'); host = validate(load(path))['@local'];"
        " from vllm_hosts.keys.store_content import new_content, with_internal;"
        " from vllm_hosts.keys.pki import utc_now; store = KeyStore(path);"
        " store.update(lambda content: with_internal(content, ['@local'], utc_now()),"
        " start=new_content(utc_now()));"
        " keys = store.host_keys(host); out = Path(host.vllm.directory);"
        " (out / 'compose.yaml').write_text(compose_file(host, int(sys.argv[1])));"
        " (out / '.env').write_bytes(secret_entries(host, keys)[1].content)"
    )
    memory = str(host_memory())
    done = made.run(str(tmp_path / "as_deployed.py"), memory)
    assert done.returncode == 0, done.stdout
    found = dry()
    assert "@local: nothing is restarted, recreated or reloaded" in found
    assert row(found, "vLLM | The agents run as in compose.yaml")[0] == "-"
    found = dry(max_model_len=512)
    assert "@local: agent one is recreated (its definition changed)" in found
    env = host.folder / "opt/.env"
    env.write_text(env.read_text().replace("=", "=another", 1))
    assert "@local: agent one is recreated (its key changed)" in dry()


def host_memory() -> int:
    [line] = [line for line in Path("/proc/meminfo").read_text().splitlines() if "MemTotal" in line]
    return int(line.split()[1]) * 1024


def test_a_host_to_which_nothing_happens_is_named() -> None:
    assert list(effects({"gpu1": Foreseen()})) == [
        "gpu1: nothing is restarted, recreated or reloaded"
    ]


def test_who_changes_first_is_said() -> None:
    both = Changing(frozenset({"m"}), frozenset({"m"}))
    idle = Changing(frozenset({"m"}), frozenset())
    hosts = {name: Foreseen(changing=both) for name in ("a", "b")}
    assert list(effects(hosts))[-1] == ("b: its agents change after those of a: same model")
    # The one that serves nothing may be repaired by it, and so goes first.
    hosts["c"] = Foreseen(changing=idle)
    said = list(effects(hosts))
    assert "a: its agents change after those of c: same model" in said
    assert "b: its agents change after those of c, a: same model" in said
    # Fresh hosts do not wait, nor those that are told not to.
    fresh = {name: Foreseen(changing=idle) for name in ("a", "b")}
    assert not any("after" in line for line in effects(fresh))
    free = Changing(frozenset({"m"}), frozenset({"m"}), together=True)
    assert not any(
        "after" in line for line in effects(dict.fromkeys("ab", Foreseen(changing=free)))
    )
