"""Searching for secrets: what holds one, what does not, and what cannot be searched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.unit.here import Here
from tests.unit.samples import settings
from vllm_hosts.errors import HostError
from vllm_hosts.suite.secret_search import Kept, kept, with_a_secret

KEY = "qwen-8b-key-0123456789"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / ".env").write_text(
        f"# Secrets.\nVLLM_API_KEY_QWEN3_8B={KEY}\nHF_TOKEN=hf_abcdefgh\n"
    )
    (tmp_path / "good.log").write_text("nothing\nVLLM_API_KEY_QWEN3_8B=\n")
    (tmp_path / "bad.log").write_text(f"line\n\x00binary {KEY} binary\n")
    return tmp_path


def search(folder: Path, **places: str) -> list[str]:
    here: Any = Here(folder)
    [own] = kept(settings())
    return with_a_secret(here, [Kept(f"{folder}/.env", own.entry)], places)


def test_only_what_holds_a_secret(folder: Path) -> None:
    found = search(
        folder,
        good=f"cat {folder}/good.log",
        bad=f"cat {folder}/bad.log",
        token="echo 'Authorization: hf_abcdefgh'",
        packed=f"gzip -c {folder}/bad.log | zcat -f",
        empty=":",
    )
    assert found == ["bad", "token", "packed"]


def test_a_place_that_cannot_be_searched_is_never_good(folder: Path) -> None:
    with pytest.raises(HostError, match="could not be searched for keys: journal"):
        search(folder, good=f"cat {folder}/good.log", journal="echo nothing; exit 1")
    with pytest.raises(HostError, match="journal"):
        search(folder, journal="cat /nowhere | cat")
    # A key that was found is more than a place that could not be searched.
    assert search(folder, journal="exit 1", bad=f"cat {folder}/bad.log") == ["bad"]


@pytest.mark.parametrize("content", [None, "", "# nothing\n"])
def test_a_search_that_knows_no_key_says_so(folder: Path, content: str | None) -> None:
    (folder / ".env").unlink()
    if content is not None:
        (folder / ".env").write_text(content)
    with pytest.raises(HostError, match="does not even find the keys"):
        search(folder, good=f"cat {folder}/good.log")
