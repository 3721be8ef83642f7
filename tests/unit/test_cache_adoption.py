"""Taking the models' cache over from agents, run for real, with a docker that only notes."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from vllm_hosts.operations import model_cache
from vllm_hosts.operations.model_cache import adopt_script


class Host:
    """A cache as agents of an earlier version left it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cache = folder / "cache"
        self.cache.mkdir(mode=0o777)
        self.victim = folder / "victim"
        self.victim.mkdir(mode=0o700)
        self.notes = folder / "notes"
        self.notes.mkdir()
        (folder / "bin").mkdir()
        docker = folder / "bin" / "docker"
        docker.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >{folder}/asked\n')
        docker.chmod(0o755)

    def adopt(self, path: Path | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["sh", "-c", adopt_script(str(path or self.cache), "64102:64101", "vllm:v1")],
            env={"PATH": f"{self.folder}/bin:/usr/bin:/bin"},
            capture_output=True,
            text=True,
            check=False,
            timeout=20,
        )

    def aside(self) -> list[str]:
        return sorted(path.name.split(".")[0] for path in self.cache.glob("*.untrusted-*"))


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    monkeypatch.setattr(model_cache, "MODEL_NOTES", str(tmp_path / "notes"))
    return Host(tmp_path)


def test_nobody_else_can_rename_in_it_afterwards(host: Host) -> None:
    assert host.adopt().returncode == 0
    found = host.cache.stat()
    assert (found.st_mode & 0o777, found.st_uid) == (0o755, 0)


@pytest.mark.parametrize("name", ["huggingface", "agents"])
def test_a_link_is_moved_aside_and_what_it_names_is_left_alone(host: Host, name: str) -> None:
    (host.cache / name).symlink_to(host.victim)
    before = host.victim.stat()
    assert host.adopt().returncode == 0
    assert host.aside() == [name]
    assert host.victim.stat() == before
    assert not (host.folder / "asked").exists(), "something was mounted"


def test_a_fifo_is_moved_aside(host: Host) -> None:
    subprocess.run(["mkfifo", str(host.cache / "huggingface")], check=True)
    assert host.adopt().returncode == 0
    assert host.aside() == ["huggingface"]


def test_only_root_s_own_folder_of_agents_stays(host: Host) -> None:
    (host.cache / "agents").mkdir()
    assert host.adopt().returncode == 0
    assert host.aside() == []
    subprocess.run(["chown", "64101", str(host.cache / "agents")], check=True)
    assert host.adopt().returncode == 0
    assert host.aside() == ["agents"]


def test_models_change_hands_in_a_container_that_sees_nothing_else(host: Host) -> None:
    (host.cache / "huggingface").mkdir()
    assert host.adopt().returncode == 0
    asked = (host.folder / "asked").read_text().splitlines()
    assert [word for word in asked if word.startswith("type=")] == [
        f"type=bind,source={host.cache}/huggingface,target=/models"
    ]
    assert asked[asked.index("--network") + 1] == "none"
    added = [asked[at + 1] for at, word in enumerate(asked) if word == "--cap-add"]
    assert added == ["CHOWN", "FOWNER", "DAC_READ_SEARCH"]
    assert asked[asked.index("--cap-drop") + 1] == "ALL"
    assert any("chown -hR 64102:64101 /models" in line for line in asked)


def test_no_model_is_whole_any_more_and_copies_are(host: Host) -> None:
    (host.notes / "org--m-1").write_text("commit abc\nfile 1 a\n")
    (host.notes / "srv--m-2").write_text("source abc\nfile abc a\n")
    assert host.adopt().returncode == 0
    assert [path.name for path in host.notes.iterdir()] == ["srv--m-2"]


def test_a_cache_behind_a_link_is_refused_with_a_sentence(host: Host) -> None:
    link = host.folder / "link"
    link.symlink_to(host.cache)
    done = host.adopt(link)
    assert done.returncode == 1
    assert "is a link; set vllm.cache_directory" in done.stdout
