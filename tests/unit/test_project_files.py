"""The files that every project has agree with each other and with the code."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from vllm_hosts import __version__

ROOT = Path(__file__).resolve().parents[2]


def test_the_newest_version_of_the_changelog_is_the_one_of_the_code() -> None:
    headings = re.findall(r"(?m)^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text())
    assert headings[0] == "Unreleased"
    assert headings[1] == __version__
    assert len(headings) == len(set(headings))


def test_a_tag_carries_the_version() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("no checkout of git")
    tags = subprocess.run(
        ["git", "tag", "--points-at", "HEAD", "--list", "v*"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert set(tags) <= {f"v{__version__}"}


def test_the_package_has_the_licence_that_lies_beside_it() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["license"] == "Apache-2.0"
    assert project["license-files"] == ["LICENSE"]
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text.splitlines()[1]
    assert "Version 2.0, January 2004" in text
    assert (ROOT / project["readme"]).is_file()


def test_hooks_download_nothing() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    assert [repository["repo"] for repository in config["repos"]] == ["local"]
    hooks = config["repos"][0]["hooks"]
    assert {hook["id"] for hook in hooks} == {"ruff", "ruff-format", "mypy"}
    assert {hook["language"] for hook in hooks} == {"system"}
    assert all(hook["entry"].startswith(".venv/bin/") for hook in hooks)


def test_every_generator_of_documents_is_in_make_docs() -> None:
    """Every module that writes one is named there, so that nobody has to know them all."""
    [recipe] = re.findall(r"(?m)^docs:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text())
    there = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for folder in ("vllm_hosts", "tests")
        for path in (ROOT / folder).rglob("*docs.py")
        if not path.name.startswith("test_") and "write_text(" in path.read_text()
    } | {"tests.architecture"}
    assert set(re.findall(r"-m ([\w.]+)", recipe)) == there


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"])
def test_what_they_name_is_there(name: str) -> None:
    text = (ROOT / name).read_text()
    for path in re.findall(r"`((?:tests|vllm_hosts|lab|templates)/[\w./]*\w)`", text):
        assert (ROOT / path).exists(), path
    for path in re.findall(r"\]\((?!https?://)([^)#]+)\)", text):
        assert (ROOT / path).exists(), path
    targets = re.findall(r"(?m)^([a-z-]+):", (ROOT / "Makefile").read_text())
    for target in re.findall(r"(?:^ {4}|`)make ([a-z-]+)", text, re.MULTILINE):
        assert target in targets, target
