"""Each program of a host is asked and read in one place, which this table names."""

from __future__ import annotations

import ast
import re
import subprocess
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from tests.unit.doctor_hosts import healthy
from tests.unit.fakes import docker
from tests.unit.projects import ROOT
from tests.unit.samples import settings
from vllm_hosts.doctor import examine  # noqa: F401  registers all diagnoses
from vllm_hosts.doctor.diagnoses import diagnose
from vllm_hosts.doctor.seen import NginxSeen
from vllm_hosts.errors import HostError
from vllm_hosts.facts.compose import AgentLog
from vllm_hosts.facts.edge import EdgeRuns
from vllm_hosts.facts.nginx import NginxMainConf
from vllm_hosts.facts.units import Units
from vllm_hosts.host.nginx import MAIN_CONF, MainConf
from vllm_hosts.host.systemctl import Active, UnitState
from vllm_hosts.roles.nginx.worker_connections import connection_entries

#: Of a command: which modules have it. The suite reads for itself (decision 19).
COMMANDS = {
    r"\bss -[A-Z]": {"vllm_hosts/host/sockets.py"},
    r"nvidia-smi\b.*--(query|format)": {
        "vllm_hosts/host/nvidia_smi.py",
        "vllm_hosts/host/nvidia_apps.py",
        # Compared with itself, and not read.
        "vllm_hosts/operations/gpu.py",
    },
    # What Docker says of a container's state; other questions have no answer to read but one word.
    r"\.State\.(Status|Health|ExitCode|Error|OOMKilled)": {"vllm_hosts/host/containers.py"},
    r"docker stats": {"vllm_hosts/host/docker_stats.py"},
    # The watchdog asks by itself on its host: data/watchdog.sh.
    r"printf 'GET /metrics ": {"vllm_hosts/top/poll.py"},
    r"nft .*list table inet": {
        "vllm_hosts/facts/firewall.py",
        # Whether it is in force at all, by the exit code.
        "vllm_hosts/facts/way_back.py",
    },
    r"nginx -V": {"vllm_hosts/facts/nginx.py"},
    # With -q, systemctl's exit code is a condition in a script, and has no answer to read.
    r"systemctl (is-(active|enabled)|show)": {
        "vllm_hosts/host/systemctl.py",
        # The addresses that a socket is for.
        "vllm_hosts/facts/firewall.py",
    },
    # Of a path; sizes and times are numbers that scripts compare.
    r"%F.%a": {"vllm_hosts/host/stat.py"},
    r"mokutil --sb-state": {"vllm_hosts/host/mokutil.py"},
    r"dpkg-query": {
        "vllm_hosts/host/dpkg.py",
        # Compared with itself, and not read.
        "vllm_hosts/operations/gpu.py",
        # What each package needs, and which of nginx's files are as they came.
        "vllm_hosts/facts/remains.py",
        # Digests of files that came with a package, compared on the host.
        "vllm_hosts/facts/nginx_sites.py",
    },
    r"index\(\$?\w+, (value|secret)\)": {"vllm_hosts/host/masks.py"},
}
#: By type of what a program says: the one module with a class of that name.
TYPES = {
    "Container": "vllm_hosts/host/containers.py",
    "Standing": "vllm_hosts/host/containers.py",
    "Socket": "vllm_hosts/host/sockets.py",
    "Smi": "vllm_hosts/host/nvidia_smi.py",
    "Holder": "vllm_hosts/host/nvidia_apps.py",
    "Usage": "vllm_hosts/host/docker_stats.py",
    "Metrics": "vllm_hosts/host/vllm_metrics.py",
    "Active": "vllm_hosts/host/systemctl.py",
    "UnitState": "vllm_hosts/host/systemctl.py",
    "Found": "vllm_hosts/host/files.py",
}
#: Where deploys leave what others read: in the package, one module knows the paths.
PLACES = ("/var/lib/vllm-hosts", "/etc/vllm-hosts", "/etc/nginx/vllm-hosts")
#: Docker's words for health and state are compared where they are read, and shown elsewhere.
WORDS = {"healthy", "unhealthy", "restarting"}
#: So are those of systemctl and stat.
WORDS |= {"active", "reloading", "regular file", "regular empty file", "symbolic link"}


@cache
def modules() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "vllm_hosts/*.py", "vllm_hosts/**/*.py", "roles/**/*.py"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    paths = [ROOT / name for name in dict.fromkeys(listed.stdout.split())]
    # A sample of an image's own words is no question to a host.
    return [path for path in paths if path.is_file() and "rehearsal" not in path.parts]


@cache
def nodes(path: Path) -> list[ast.AST]:
    """All that a module consists of."""
    return [*ast.walk(ast.parse(path.read_text()))]


@cache
def commands(path: Path) -> str:
    """All strings of a module that are no docstring, one after the other."""
    said = {
        id(node.body[0].value)
        for node in nodes(path)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    return "\n".join(
        node.value
        for node in nodes(path)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in said
    )


@pytest.mark.parametrize("pattern", COMMANDS)
def test_a_program_is_asked_in_one_place(pattern: str) -> None:
    found = {
        str(path.relative_to(ROOT))
        for path in modules()
        if re.search(pattern, commands(path), re.MULTILINE)
    }
    # What the doctor shows of a program is a sentence for people.
    found = {name for name in found if "/doctor/doctors_" not in name}
    assert found == COMMANDS[pattern]


@pytest.mark.parametrize("place", PLACES)
def test_paths_that_several_modules_use_stand_in_one(place: str) -> None:
    paths = [path for path in modules() if path.is_relative_to(ROOT / "vllm_hosts")]
    found = {str(path.relative_to(ROOT)) for path in paths if place in commands(path)}
    assert found == {"vllm_hosts/host/paths.py"}


@pytest.mark.parametrize("name", TYPES)
def test_what_a_program_says_has_one_type(name: str) -> None:
    found = {
        str(path.relative_to(ROOT))
        for path in modules()
        for node in nodes(path)
        if isinstance(node, ast.ClassDef) and node.name == name
    }
    assert found == {TYPES[name]}


def test_one_module_decides_what_serves() -> None:
    found = {
        str(path.relative_to(ROOT))
        for path in modules()
        for node in nodes(path)
        if isinstance(node, ast.Compare)
        for part in ast.walk(node)
        if isinstance(part, ast.Constant) and part.value in WORDS
    }
    assert found == set()


def test_the_doctor_s_script_asks_with_what_it_is_given() -> None:
    script = (ROOT / "vllm_hosts/data/doctor.sh").read_text()
    asked = ("ss -H", "--query-gpu=index", ".State.Status", "index($0, secret)")
    for words in (*asked, "systemctl is-active", "systemctl show", "--sb-state"):
        assert words not in script


@pytest.mark.parametrize("word", ["reloading", "refreshing"])
def test_a_unit_that_reads_its_files_again_runs(word: str) -> None:
    """As systemctl's own exit code has it. A client's key that expires reloads nginx."""
    assert EdgeRuns().parse(["== edge", word])
    state = ["== enabled nginx.service", "enabled", "== active nginx.service", word]
    assert Units().parse(state) == {"nginx.service": UnitState(enabled=True, active=True)}
    seen = replace(healthy(), nginx=NginxSeen(Active(word), ""))
    assert [found.identifier for found in diagnose(settings(), seen)] == []


@pytest.mark.parametrize("answer", [["Failed to connect to bus"], ["active", "inactive"]])
def test_an_answer_that_is_none_of_systemd_s_words_is_not_taken_for_a_no(answer: list[str]) -> None:
    with pytest.raises(ValueError, match="systemctl reports"):
        Units().parse(["== enabled a.timer", "enabled", "== active a.timer", *answer])
    with pytest.raises(ValueError, match="systemctl reports"):
        Units().parse(["== enabled a.timer", *answer, "== active a.timer", "active"])


def test_an_empty_file_is_a_regular_file_wherever_it_is_asked_about() -> None:
    line = f"regular empty file|644|root|0|root|0|{MAIN_CONF}"
    found = NginxMainConf().parse(["== stat", line, "== content"])
    assert found == MainConf("f", b"", 0o644, "root", "root")
    with pytest.raises(HostError) as error:
        connection_entries(settings().edge, found)
    assert "regular" not in str(error.value)


def test_the_last_lines_of_an_agent_show_no_key(tmp_path: Path) -> None:
    """Neither the part of a value behind an equals sign, nor a client's key."""
    edge = tmp_path / "edge"
    edge.mkdir()
    (tmp_path / ".env").write_text("# ours\nHF_TOKEN=hf_0123=4567890==\nSHORT=abc\n")
    (edge / "clients.map").write_text('"Bearer client.Key~4711" "x Bearer client.Key~4711";\n')
    (tmp_path / "log").write_text("a hf_0123=4567890== b\nc client.Key~4711 d abc\n*MASKED*\n")
    script = AgentLog().command("qwen", str(tmp_path), 30)
    script = script.replace("/etc/nginx/vllm-hosts", str(edge))
    done = subprocess.run(
        ["sh", "-c", script], capture_output=True, text=True, check=True, timeout=20,
        env=docker(tmp_path, f"cat {tmp_path}/log"),
    )  # fmt: skip
    assert AgentLog().process(done.stdout.splitlines()) == (
        "a *MASKED* b",
        "c *MASKED* d abc",
        "*MASKED*",
    )


def test_a_key_that_is_a_part_of_the_mask_ends_as_well(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("HF_TOKEN=*MASKED*\n")
    script = AgentLog().command("qwen", str(tmp_path), 30)
    done = subprocess.run(
        ["sh", "-c", script], capture_output=True, text=True, check=True, timeout=20,
        env=docker(tmp_path, "echo 'it is *MASKED*'"),
    )  # fmt: skip
    assert "it is *MASKED*" in done.stdout
