"""No refusal without its way out: every sentence of settings and preflight says what to do.

Read from the sources, so that a new sentence is held to it too. What a sentence says cannot be
judged by a program; that it says something to do, or what would be right, can.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from vllm_hosts.settings.vllm_words import arguments, refused_argument, refused_variable, variables

ROOT = Path(__file__).parents[2]
#: Where sentences are made that refuse a host or its settings.
MODULES = [
    *(
        str(path.relative_to(ROOT))
        for path in sorted((ROOT / "vllm_hosts/settings").glob("*.py"))
        if path.name != "docs.py"
    ),
    "roles/preflight/plan.py",
    "roles/preflight/memory.py",
    "roles/nvidia_driver/plan.py",
    "roles/docker/__init__.py",
    "vllm_hosts/connect/addresses.py",
    "vllm_hosts/host/apt_entries.py",
    "vllm_hosts/host/daemon_json.py",
    "vllm_hosts/host/docker_there.py",
    "vllm_hosts/host/docker_unit.py",
    "vllm_hosts/host/gpus.py",
    "vllm_hosts/host/shared.py",
    "vllm_hosts/hub/local.py",
    "vllm_hosts/project/inventory.py",
    "vllm_hosts/project/layers.py",
    "vllm_hosts/host/nginx_sites.py",
    "vllm_hosts/host/sockets.py",
    "vllm_hosts/hub/weights.py",
]
#: What somebody is told to do, at the beginning of a part of a sentence.
_DO = (
    "add|boot|change|copy|correct|deploy|describe|did|enrol|enter|fetch|give|have|install|keep|leave"
    "|lower|make|mend|move|name|open|put|raise|reboot|remove|repair|run|see|set|start|stop|switch"
    "|take|turn|upgrade|use|write"
)
_DOES = re.compile(rf"(?:[;:,(] ?|\bor |\band |^)(?:{_DO})\b")
#: What would be right.
_RIGHT = re.compile(r"\bmust\b|\bneeds? (?:its own|to )|\bis not (?:\*|an? )|such as|there is \*")
#: Parts whose text says it: a variable of this name is part of the sentence.
_SAYS_IT = frozenset({"advice", "do", "hint", "instead"})


def text(node: ast.AST) -> str | None:
    """A sentence as it stands in the source, with a star for what is filled in."""
    match node:
        case ast.Constant(value=str(said)):
            return said
        case ast.JoinedStr(values=parts):
            return "".join(_part(part) for part in parts)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            one, other = text(left), text(right)
            return None if one is None else one + ("*" if other is None else other)
        case ast.IfExp(body=body):
            return text(body)
    return None


def _part(part: ast.expr) -> str:
    if isinstance(part, ast.Constant):
        return str(part.value)
    if isinstance(part, ast.FormattedValue) and isinstance(part.value, ast.Name | ast.Call):
        name = part.value.id if isinstance(part.value, ast.Name) else ast.unparse(part.value.func)
        if name.strip("_") in _SAYS_IT:
            return "; set"
    return "*"


def _said(node: ast.AST) -> Iterator[ast.expr]:
    match node:
        case ast.Raise(exc=ast.Call(args=[ast.List(elts=several)])):
            yield from several
        case ast.Raise(exc=ast.Call(args=[one])):
            yield one
        case ast.Yield(value=ast.expr() as one):
            yield one
        case ast.Call(func=ast.Attribute(attr="append"), args=[one]):
            yield one
        case ast.Return(value=ast.expr() as one):
            several = one.elts if isinstance(one, ast.List) else [one]
            yield from several


def sentences(source: str) -> Iterator[tuple[int, str]]:
    """What is raised, yielded, collected or returned there and reads as a sentence."""
    for node in ast.walk(ast.parse(source)):
        for one in _said(node):
            said = text(one)
            if said is not None and len(said.split()) >= 4:
                yield one.lineno, said


def tells(said: str) -> bool:
    return bool(_DOES.search(said) or _RIGHT.search(said))


#: No refusals, or whole only together with what is filled in; each with the reason.
ELSEWHERE = {
    "this host has no IPv6 (ipv6.disable=1); the edge listens on IPv4 alone": "a note",
    "not a line of ss: *": "becomes `could not be understood` of a fact",
    "agent * listens on *, not only on *": "a broken promise, which has its remedy",
    "the port of agent * is taken: *": "a broken promise, which has its remedy",
    "model * on this host *": "vllm_hosts/hub/weights.py says it",
    "GPU * (*) needs driver * or newer, and *": "`_chosen` says it",
    "a word of it *": "`_INSTEAD` says it, see below",
    "holds no weights: * *": "vllm_hosts/hub/weights.py says it",
    "* is refused: *": "vllm_words.yaml says it, see below",
    "*: cannot be loaded: *: *": "Python's own words about the user's file and line",
    "*, line *: *": "Python's own words about the user's file and line",
}
READ = [
    (f"{module}:{line}", said)
    for module in MODULES
    for line, said in sentences((ROOT / module).read_text())
]
FOUND = [pytest.param(said, id=where) for where, said in READ if said not in ELSEWHERE]


def test_there_are_sentences_to_read() -> None:
    assert len(FOUND) > 80
    assert set(ELSEWHERE) <= {said for _, said in READ}, "it is said no more"


@pytest.mark.parametrize("said", FOUND)
def test_a_refusal_says_what_to_do(said: str) -> None:
    assert tells(said)


@pytest.mark.parametrize("name", sorted({*arguments().refused, *variables().refused}))
def test_a_refused_word_says_what_instead(name: str) -> None:
    said = refused_argument(name) if name.startswith("-") else refused_variable(name, "x")
    assert said is not None
    assert tells(said)


def test_a_secret_says_where_it_goes() -> None:
    said = refused_argument("hf_" + "a" * 34)
    assert said is not None
    assert tells(said)


@pytest.mark.parametrize(
    "said",
    [
        "agent * asks for GPU *, and this host has *",
        "an agent asks for GPU *, and the PCI bus shows *, numbered from 0",
        "GPU * is older than Maxwell; no driver that vLLM can use knows it",
        "the first process is *, not systemd, which runs the services",
        "gpus * names one GPU twice",
    ],
)
def test_what_was_said_without_is_seen(said: str) -> None:
    assert not tells(said)
