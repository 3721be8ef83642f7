"""Folders of the controller that models are copied from: which are refused, and why."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.unit.model_files import safetensors
from vllm_hosts.errors import SettingsError
from vllm_hosts.hub.local import local_model

SMALL = safetensors(7)


def refused(folder: Path, **options: bool) -> str:
    with pytest.raises(SettingsError) as error:
        local_model(str(folder), **{"allow_pickle": False, **options})
    return str(error.value)


def test_folders_that_are_no_model(tmp_path: Path) -> None:
    assert "is not a folder on the controller" in refused(tmp_path / "none")
    for odd in ("x" * 300, "~no-such-user/model"):
        assert "is not a folder on the controller" in refused(Path(odd))
    (tmp_path / "pytorch_model.bin").write_text("x")
    assert "has no config.json" in refused(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    assert "has no safetensors" in refused(tmp_path)
    found = local_model(str(tmp_path), allow_pickle=True)
    assert sorted(found.sizes) == ["config.json", "pytorch_model.bin"]
    (tmp_path / "a b.json").write_text("x")
    assert "has a file 'a b.json'" in refused(tmp_path)


def test_the_hub_s_own_cache_is_a_folder_to_copy_from(tmp_path: Path) -> None:
    snapshot = snapshot_of_the_hub(tmp_path)
    found = local_model(str(snapshot), allow_pickle=False)
    assert found.sizes == {"config.json": 2, "model.safetensors": len(SMALL)}
    # The folder that was named may be a link: somebody decided that.
    (tmp_path / "link").symlink_to(snapshot)
    assert local_model(str(tmp_path / "link"), allow_pickle=False).sizes == found.sizes


def snapshot_of_the_hub(folder: Path) -> Path:
    repository = folder / "models--org--name"
    (repository / "blobs").mkdir(parents=True)
    (repository / "blobs/x").write_bytes(SMALL)
    snapshot = repository / "snapshots/abc"
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").symlink_to("../../blobs/x")
    (snapshot / "config.json").write_text("{}")
    return snapshot


def model(folder: Path) -> Path:
    root = folder / "model"
    (root / "sub").mkdir(parents=True)
    (root / ".git").mkdir()
    (root / ".git/config").write_text("url = https://alice:password@example.com/")
    (root / "config.json").write_text("{}")
    (root / "model.safetensors").write_bytes(SMALL)
    return root


def test_a_link_within_the_folder_is_its_file(tmp_path: Path) -> None:
    root = model(tmp_path)
    (root / "sub/again.json").symlink_to("../config.json")
    found = local_model(str(root), allow_pickle=False)
    assert found.sizes["sub/again.json"] == 2


#: Kind -> name of the link, where it leads, and a word of the refusal.
LINKS = {
    "a key": ("vocab.json", "{home}/.ssh/id_ed25519", "out of the folder to {home}/.ssh/id_ed"),
    "relative": ("vocab.json", "../home/.ssh/id_ed25519", "out of the folder to {home}"),
    "in two steps": ("vocab.json", "sub/step", "out of the folder to {home}"),
    "a neighbour with the same beginning": ("vocab.json", "../model-2/x", "out of the folder"),
    "a folder outside": ("extra", "{home}/.ssh", "out of the folder to {home}/.ssh"),
    "a folder inside": ("extra", "sub", "to a folder"),
    "the folder itself": ("extra", ".", "to a folder"),
    "a loop": ("vocab.json", "vocab.json", "leads nowhere"),
    "nothing": ("vocab.json", "no-such-file", "leads nowhere"),
    "what is not copied": ("vocab.json", ".git/config", "out of the folder"),
    "a device": ("vocab.json", "/dev/zero", "out of the folder to /dev/zero"),
    "a process": ("vocab.json", "/proc/self/environ", "out of the folder"),
    "a FIFO": ("vocab.json", "sub/fifo", "neither a file nor a folder"),
}


@pytest.mark.parametrize("kind", LINKS)
def test_links_that_would_carry_something_else_away(kind: str, tmp_path: Path) -> None:
    name, leads, word = LINKS[kind]
    home = tmp_path / "home"
    (home / ".ssh").mkdir(parents=True)
    (home / ".ssh/id_ed25519").write_text("PRIVATE KEY")
    (tmp_path / "model-2").mkdir()
    (tmp_path / "model-2/x").write_text("x")
    root = model(tmp_path)
    if kind == "in two steps":
        (root / "sub/step").symlink_to(home / ".ssh/id_ed25519")
    if kind == "a FIFO":
        os.mkfifo(root / "sub/fifo")
    (root / name).symlink_to(leads.format(home=home))
    said = refused(root)
    assert word.format(home=home) in said, said
    assert f"{name}" in said or kind == "in two steps"
    assert "\n" not in said


@pytest.mark.parametrize("where", ["model.safetensors", "sub/x.json"])
def test_what_is_no_file_is_never_opened(where: str, tmp_path: Path) -> None:
    root = model(tmp_path)
    (root / where).unlink(missing_ok=True)
    os.mkfifo(root / where)
    assert f"has {where}, which is neither a file nor a folder" in refused(root)


def test_blobs_are_those_of_the_same_model(tmp_path: Path) -> None:
    snapshot = snapshot_of_the_hub(tmp_path)
    other = tmp_path / "models--org--other/blobs"
    other.mkdir(parents=True)
    (other / "y").write_text("secret")
    (snapshot / "vocab.json").symlink_to(other / "y")
    assert "out of the folder" in refused(snapshot)
    # A folder that only looks like the hub's cache has no blobs.
    (snapshot / "vocab.json").unlink()
    (tmp_path / "models--org--name").rename(tmp_path / "clone")
    assert "out of the folder" in refused(tmp_path / "clone/snapshots/abc")
    # Nor are they anywhere else.
    (tmp_path / "clone").rename(tmp_path / "models--org--name")
    blobs = snapshot.parent.parent / "blobs"
    blobs.rename(tmp_path / "elsewhere")
    blobs.symlink_to(tmp_path / "elsewhere")
    assert "out of the folder" in refused(snapshot)
