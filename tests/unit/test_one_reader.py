"""Each program of a host is asked and read in one place, which this table names."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

from tests.unit.fakes import docker
from tests.unit.projects import ROOT
from vllm_hosts.facts.compose import AgentLog

#: Of a command: which modules have it. The suite reads for itself (decision 19).
COMMANDS = {
    r"\bss -[A-Z]": {"vllm_hosts/host/sockets.py"},
    r"nvidia-smi\b.*--(query|format)": {
        "vllm_hosts/host/nvidia_smi.py",
        # Compared with itself, and not read.
        "vllm_hosts/operations/gpu.py",
    },
    # What Docker says of a container's state; other questions have no answer to read but one word.
    r"\.State\.(Status|Health|ExitCode|Error|OOMKilled)": {"vllm_hosts/host/containers.py"},
    r"docker stats": {"vllm_hosts/host/docker_stats.py"},
    r"printf 'GET /metrics ": {"vllm_hosts/top/look.py"},
    r"nft .*list table inet": {"vllm_hosts/facts/firewall.py"},
    r"nginx -V": {"vllm_hosts/facts/nginx.py"},
    r"index\(\$?\w+, (value|secret)\)": {"vllm_hosts/host/masks.py"},
}
#: By type of what a program says: the one module with a class of that name.
TYPES = {
    "Container": "vllm_hosts/host/containers.py",
    "Standing": "vllm_hosts/host/containers.py",
    "Socket": "vllm_hosts/host/sockets.py",
    "Smi": "vllm_hosts/host/nvidia_smi.py",
    "Usage": "vllm_hosts/host/docker_stats.py",
    "Metrics": "vllm_hosts/host/vllm_metrics.py",
}
#: Docker's words for health and state are compared where they are read, and shown elsewhere.
WORDS = {"healthy", "unhealthy", "restarting"}


def modules() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "vllm_hosts/*.py", "vllm_hosts/**/*.py", "roles/**/*.py"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    paths = [ROOT / name for name in dict.fromkeys(listed.stdout.split())]
    # A sample of an image's own words is no question to a host.
    return [path for path in paths if path.is_file() and "rehearsal" not in path.parts]


def commands(path: Path) -> str:
    """All strings of a module that are no docstring, one after the other."""
    tree = ast.parse(path.read_text())
    said = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    return "\n".join(
        node.value
        for node in ast.walk(tree)
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


@pytest.mark.parametrize("name", TYPES)
def test_what_a_program_says_has_one_type(name: str) -> None:
    found = {
        str(path.relative_to(ROOT))
        for path in modules()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef) and node.name == name
    }
    assert found == {TYPES[name]}


def test_one_module_decides_what_serves() -> None:
    found = {
        str(path.relative_to(ROOT))
        for path in modules()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Compare)
        for part in ast.walk(node)
        if isinstance(part, ast.Constant) and part.value in WORDS
    }
    assert found == set()


def test_the_doctor_s_script_asks_with_what_it_is_given() -> None:
    script = (ROOT / "vllm_hosts/data/doctor.sh").read_text()
    for words in ("ss -H", "--query-gpu=index", ".State.Status", "index($0, secret)"):
        assert words not in script


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
