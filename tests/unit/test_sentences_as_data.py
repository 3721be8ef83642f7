"""Sentences are for people: no program of ours decides by what one of ours says."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from tests.unit.projects import ROOT
from tests.unit.test_one_reader import modules

#: Text that is searched for words with a space between them, by module: of other programs, and
#: formats.
READ = {
    "roles/nginx/plan.py": "nginx -V",
    "vllm_hosts/connect/pyinfra_output.py": "pyinfra's messages",
    "vllm_hosts/connect/why.py": "pyinfra's and paramiko's messages",
    "vllm_hosts/doctor/query.py": "headings of our script",
    "vllm_hosts/doctor/messages.py": "the logs of vLLM, Docker and the kernel",
    "vllm_hosts/facts/compose.py": "headings of our script",
    "vllm_hosts/facts/gpu.py": "mokutil",
    "vllm_hosts/facts/mark.py": "lines of our script",
    "vllm_hosts/facts/remains.py": "what find prints",
    "vllm_hosts/facts/tree.py": "lines of a record on the host",
    "vllm_hosts/facts/vllm_images.py": "lines of a record on the host",
    "vllm_hosts/host/balancer.py": "HAProxy's runtime socket",
    "vllm_hosts/host/manifest.py": "lines of a record on the host",
    "vllm_hosts/host/marks.py": "the record in a lock",
    "vllm_hosts/host/mokutil.py": "mokutil",
    "vllm_hosts/host/nvidia_apps.py": "the exit code, in a line of our script",
    "vllm_hosts/host/nvidia_smi.py": "the exit code, in a line of our script",
    "vllm_hosts/keys/age.py": "pyrage's messages",
    "vllm_hosts/keys/store_marks.py": "the mark on a host",
    "vllm_hosts/operations/edge_trial.py": "nginx -t",
    "vllm_hosts/rehearsal/rehearse.py": "vLLM's messages",
    "vllm_hosts/settings/edge.py": "a method and a path, as users write them",
    "vllm_hosts/settings/masks.py": "keys in PEM",
    "vllm_hosts/text.py": "sequences for terminals",
    "vllm_hosts/verify/report/collect.py": "outcomes",
    "vllm_hosts/verify/report/results.py": "outcomes",
}
_LOOK_FOR = {
    *("startswith", "endswith", "removeprefix", "removesuffix", "find", "index", "count"),
    *("partition", "rpartition", "split", "search", "match", "fullmatch", "compile"),
}


def _texts(node: ast.AST) -> Iterator[str]:
    for part in ast.walk(node):
        if isinstance(part, ast.Constant) and isinstance(part.value, str):
            yield part.value


def compared(source: str) -> list[str]:
    """Words with a space between them that something is compared with, or searched for."""
    found: list[str] = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Compare(left=left, comparators=others):
                parts = [left, *others]
            case ast.Call(func=ast.Attribute(attr=name), args=parts) if name in _LOOK_FOR:
                pass
            case _:
                continue
        found += [said for part in parts for said in _texts(part) if " " in said.strip()]
    return found


def test_only_other_programs_sentences_are_searched() -> None:
    paths = [*modules(), ROOT / "vllm_hosts/rehearsal/rehearse.py"]
    found = {
        str(path.relative_to(ROOT)): said for path in paths if (said := compared(path.read_text()))
    }
    assert found.keys() == READ.keys(), found


@pytest.mark.parametrize(
    "source",
    [
        're.search(r"(^|; )(set|use|write) ", why)',
        'found.file.startswith("regular file ")',
        'item.how == "is missing"',
        'if "is refused" in str(error): pass',
    ],
)
def test_a_comparison_with_a_sentence_is_seen(source: str) -> None:
    assert compared(source)
