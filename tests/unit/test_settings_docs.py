"""docs/settings.md and group_data/all.py say what the schema says."""

from __future__ import annotations

import runpy
from pathlib import Path

from vllm_hosts.project.layers import SECTIONS
from vllm_hosts.settings import HostSettings
from vllm_hosts.settings.docs import all_py, sections, settings_md

ROOT = Path(__file__).resolve().parents[2]
AGAIN = "out of date; run: python -m vllm_hosts.settings.docs"


def test_settings_md_is_made_from_the_schema() -> None:
    assert (ROOT / "docs" / "settings.md").read_text() == settings_md(), AGAIN


def test_all_py_is_made_from_the_schema() -> None:
    assert (ROOT / "group_data" / "all.py").read_text() == all_py(), AGAIN


def test_all_py_changes_nothing() -> None:
    """Every setting of every section is there, with the value that it would have anyway."""
    found = runpy.run_path(str(ROOT / "group_data" / "all.py"))
    given = {name: found[name] for name, _ in sections()}
    agents = [{"name": "one", "model": "a/b", "port": 8001}]
    bare = HostSettings.model_validate({"name": "h", "address": "h", "agents": agents})
    full = HostSettings.model_validate({"name": "h", "address": "h", "agents": agents} | given)
    assert full == bare
    for name, section in sections():
        assert set(given[name]) == set(section.model_fields)


def test_every_section_can_be_set() -> None:
    assert tuple(name for name, _ in sections()) == SECTIONS


def test_every_setting_is_described() -> None:
    for name, section in sections():
        for key, field in section.model_fields.items():
            assert field.description, f"{name}.{key}"
