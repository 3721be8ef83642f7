"""What Python has compiled of a checkout is kept, templates as well: a run starts sooner."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from jinja2 import DictLoader, Environment

from vllm_hosts.host import render as rendering
from vllm_hosts.host.render import _Compiled

#: What pyinfra's command does before it loads anything of ours.
_LIKE_PYINFRA = "import sys; sys.dont_write_bytecode = True; import vllm_hosts.errors"


@pytest.mark.parametrize("asked", [{}, {"PYTHONDONTWRITEBYTECODE": "1"}])
def test_what_pyinfra_switches_off_is_on_for_us_unless_somebody_asked(
    tmp_path: Path, asked: dict[str, str]
) -> None:
    known = {name: value for name, value in os.environ.items() if name[:7] != "PYTHOND"}
    environment = {**known, "PYTHONPYCACHEPREFIX": str(tmp_path), **asked}
    subprocess.run([sys.executable, "-c", _LIKE_PYINFRA], env=environment, check=True)
    assert bool(list(tmp_path.rglob("errors.*.pyc"))) is not bool(asked)


class Templates:
    """An environment that begins anew, beside files that are kept."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.compiled: list[str] = []
        monkeypatch.setattr(rendering, "cache_from_source", lambda _: f"{folder}/x.pyc")
        monkeypatch.setattr(sys, "dont_write_bytecode", False)

    def render(self, text: str) -> str:
        made = Environment(
            loader=DictLoader({"a": text}),
            bytecode_cache=_Compiled(),
            autoescape=False,
        )
        compiling = made.compile

        def compile_(source: str, *given: object, **named: object) -> object:
            self.compiled.append(source)
            return compiling(source, *given, **named)  # type: ignore[call-overload]

        made.compile = compile_  # type: ignore[method-assign, assignment]
        return made.get_template("a").render(x=1)

    @property
    def files(self) -> list[Path]:
        return sorted(self.folder.iterdir())


@pytest.fixture
def templates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Templates:
    return Templates(tmp_path, monkeypatch)


def test_a_template_is_compiled_once(templates: Templates) -> None:
    assert templates.render("{{ x }}!") == templates.render("{{ x }}!") == "1!"
    assert templates.compiled == ["{{ x }}!"]
    [file] = templates.files
    assert file.name.endswith(f".{sys.implementation.cache_tag}.jinja")


def test_another_text_is_another_template(templates: Templates) -> None:
    assert templates.render("{{ x }}!") == "1!"
    assert templates.render("{{ x }}?") == "1?"
    assert templates.render("{{ x }}?") == "1?"
    assert templates.compiled == ["{{ x }}!", "{{ x }}?"]
    assert len(templates.files) == 1


@pytest.mark.parametrize("content", [b"", b"j2", b"what is this", None])
def test_what_was_not_written_by_us_is_not_read(
    templates: Templates, content: bytes | None
) -> None:
    templates.render("{{ x }}!")
    [file] = templates.files
    file.write_bytes(file.read_bytes()[:-40] if content is None else content)
    assert templates.render("{{ x }}!") == "1!"
    assert templates.compiled == ["{{ x }}!"] * 2


def test_nothing_is_kept_where_nothing_can_be_written_or_nobody_wants_it(
    templates: Templates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    assert templates.render("{{ x }}!") == "1!"
    assert templates.files == []
    monkeypatch.setattr(sys, "dont_write_bytecode", False)

    def full(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    assert templates.render("{{ x }}!") == "1!"
    assert templates.files == []
