"""What is the same for several hosts is rendered once, and nothing else is taken for the same."""

from __future__ import annotations

import threading
from typing import Any

import jinja2
import pytest

from vllm_hosts.facts.ahead import Query, _Run
from vllm_hosts.facts.apt import AptPackages
from vllm_hosts.facts.asked import Question
from vllm_hosts.host import render
from vllm_hosts.host.files import File


@pytest.fixture
def times(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The values of each rendering, of a template that shows one of them."""
    seen: list[dict[str, Any]] = []
    template = jinja2.Environment(undefined=jinja2.StrictUndefined).from_string("{{ value }}")

    class Counted:
        def render(self, **values: Any) -> str:
            seen.append(values)
            return template.render(**values)

    monkeypatch.setattr(render, "_rendered", {})
    monkeypatch.setattr(render, "_template", lambda name, filters: Counted())
    return seen


def test_the_same_values_are_rendered_once(times: list[dict[str, Any]]) -> None:
    found = [render.render("a", value={"list": [1, "x"]}) for _ in range(3)]
    assert found == ["{'list': [1, 'x']}"] * 3
    assert len(times) == 1
    render.render("b", value={"list": [1, "x"]})
    render.render("b", {"loud": str.upper}, value={"list": [1, "x"]})
    assert len(times) == 3


@pytest.mark.parametrize(
    "values", [(1, True, 1.0), ("1", 1), ([1], (1,)), ({"a": 1, "b": 2}, {"b": 2, "a": 1})]
)
def test_what_python_holds_equal_is_not_the_same(
    values: tuple[object, ...], times: list[dict[str, Any]]
) -> None:
    assert [render.render("a", value=value) for value in values] == [*map(str, values)]


def test_what_was_changed_since_is_rendered_anew(times: list[dict[str, Any]]) -> None:
    value = [1]
    first = render.render("a", value=value)
    value.append(2)
    assert [first, render.render("a", value=value)] == ["[1]", "[1, 2]"]


def test_what_cannot_be_written_down_is_rendered_each_time(times: list[dict[str, Any]]) -> None:
    lock = threading.Lock()
    assert render.render("a", value=lock) == render.render("a", value=lock) == str(lock)
    assert len(times) == 2 and not render._rendered


def test_a_mistake_is_one_each_time(times: list[dict[str, Any]]) -> None:
    for _ in range(2):
        with pytest.raises(jinja2.UndefinedError):
            render.render("a", another="x")


def test_the_latest_are_kept(times: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(render, "_KEPT", 2)
    for value in ("a", "b", "a", "c", "a", "b"):
        assert render.render("x", value=value) == value
    assert [one["value"] for one in times] == ["a", "b", "c", "b"]
    assert len(render._rendered) == 2


def test_a_file_s_digest_is_of_its_own_content() -> None:
    one = File("/etc/one", b"a")
    assert one.sha256 == one.sha256 != File("/etc/one", b"b").sha256
    # What was worked out does not make it another one.
    assert one == File("/etc/one", b"a") and hash(one) == hash(File("/etc/one", b"a"))


def test_a_command_is_made_once_for_the_same_question(monkeypatch: pytest.MonkeyPatch) -> None:
    run = _Run(file=None, name="deploy.py")  # type: ignore[arg-type]
    asked = {"names": ["nginx"]}
    one = Question.of("AptPackages", asked)
    assert one is not None
    first = run.asking(one, AptPackages, asked)
    assert first == Query.of(AptPackages, asked)
    assert run.asking(one, AptPackages, {"names": ["nginx"]}) is first
    other = Question.of("AptPackages", {"names": ["docker"]})
    assert other is not None
    assert run.asking(other, AptPackages, {"names": ["docker"]}).command != first.command

    class Another(AptPackages):
        def command(self, names: Any) -> str:
            return "true"

    # A fact of the same name that is another one.
    assert run.asking(one, Another, asked).command == "true"
