"""requirements.lock pins the whole environment of the controller."""

from __future__ import annotations

from importlib import metadata

from packaging.utils import canonicalize_name

from tests.locked import direct, locked, needed

AGAIN = "run: python -m tests.locked"


def test_every_requirement_and_what_it_needs_is_in_the_lock() -> None:
    """With the version that is installed here, where the tests ran with it."""
    pinned = locked()
    assert len(direct()) > 10
    assert {name: pinned.get(name) for name in needed()} == needed(), AGAIN


def test_nothing_else_is_in_the_lock() -> None:
    """Another Python may need fewer of them, so what is installed here is not asked alone."""
    named = {canonicalize_name(one.name) for one in direct()}
    for name in locked():
        needs = metadata.requires(name) or ()
        named |= {canonicalize_name(_name(line)) for line in needs}
    assert set(locked()) <= named, AGAIN


def test_the_lock_has_the_versions_of_requirements_txt() -> None:
    for one in direct():
        assert str(one.specifier) == f"=={locked()[canonicalize_name(one.name)]}", one.name


def test_what_requirements_need_in_turn_is_followed() -> None:
    """paramiko comes with pyinfra, and bcrypt with paramiko."""
    assert {"pyinfra", "paramiko", "bcrypt"} <= set(needed())


def _name(line: str) -> str:
    end = next((at for at, letter in enumerate(line) if letter in " [<>=!~;("), len(line))
    return line[:end]
