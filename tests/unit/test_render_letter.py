"""What templates may say, and how the text comes out: no HTML, each line as it was written."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import jinja2
import pytest

from vllm_hosts.host import render as rendering
from vllm_hosts.host.render import _environment, _template, _with_filters, render

TEXT = """\
{# Said to nobody. #}
first {{ value }}
    {% if value %}
  second {{ value | loud }}
    {% endif %}
last
"""


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder in the place of the package's templates."""
    known = jinja2.FileSystemLoader(tmp_path)
    for one in (_environment, _with_filters, _template):
        one.cache_clear()
    monkeypatch.setattr(rendering, "_rendered", {})
    monkeypatch.setattr(rendering, "PackageLoader", lambda package: {"vllm_hosts": known}[package])
    (tmp_path / "a.j2").write_text(TEXT)
    yield tmp_path
    for one in (_environment, _with_filters, _template):
        one.cache_clear()


def test_lines_come_out_as_they_were_written(written: Path) -> None:
    assert render("a.j2", {"loud": str.upper}, value="<a> & 'b'") == (
        "first <a> & 'b'\n  second <A> & 'B'\nlast\n"
    )


def test_each_language_has_its_own_filters(written: Path) -> None:
    made = [render("a.j2", {"loud": how}, value="Ab").split("\n")[1] for how in (str.upper, repr)]
    assert made == ["  second AB", "  second 'Ab'"]
    # jinja2's own ones stay.
    (written / "b.j2").write_text("{{ value | loud | length }}")
    assert render("b.j2", {"loud": str.upper}, value="Ab") == "2"
    with pytest.raises(jinja2.TemplateRuntimeError, match="loud"):
        render("a.j2", value="x")


def test_a_name_that_nobody_gives_is_a_mistake(written: Path) -> None:
    with pytest.raises(jinja2.UndefinedError, match="value"):
        render("a.j2", {"loud": str.upper}, other="x")


def test_a_template_of_the_package() -> None:
    _environment.cache_clear()
    _template.cache_clear()
    assert render("secrets/env.j2", variables={"A": "1"}).endswith("A=1\n")
    with pytest.raises(jinja2.TemplateNotFound):
        render("secrets/none.j2")


class TestWhatIsKept:
    """Beside Python's own compiled files, by several runs at the same time."""

    @pytest.fixture
    def kept(self, written: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        folder = written / "kept"
        folder.mkdir()
        monkeypatch.setattr(rendering, "cache_from_source", lambda _: f"{folder}/x.pyc")
        monkeypatch.setattr(sys, "dont_write_bytecode", False)
        return folder

    def test_each_run_writes_a_file_of_its_own_first(
        self, kept: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        moved: list[tuple[str, str]] = []
        replace = Path.replace

        def noted(one: Path, to: Path) -> Path:
            moved.append((one.name, to.name))
            return replace(one, to)

        monkeypatch.setattr(Path, "replace", noted)
        render("a.j2", {"loud": str.upper}, value="x")
        [(first, last)] = moved
        assert str(os.getpid()) in first and first != last
        assert [path.name for path in kept.iterdir()] == [last]

    def test_what_cannot_be_put_there_leaves_nothing_behind(
        self, kept: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refused(*_: object) -> None:
            raise OSError("a folder stands there")

        monkeypatch.setattr(Path, "replace", refused)
        assert render("a.j2", {"loud": str.upper}, value="x").startswith("first x\n")
        assert [*kept.iterdir()] == []
