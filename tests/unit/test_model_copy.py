"""Copying a model from the controller: the operation's commands, run here as on a host."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.copied_models import WEIGHTS, Cut, Site, made_site
from vllm_hosts.errors import HostError
from vllm_hosts.hub.hub_models import Copy
from vllm_hosts.hub.local import local_model
from vllm_hosts.operations import model_copy as operation


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    yield from made_site(tmp_path, monkeypatch)


def test_a_model_arrives_whole_readable_and_without_pickles(site: Site, tmp_path: Path) -> None:
    assert site.run() > 0
    # remove.py may be told to take it away again.
    assert (tmp_path / "manifest").read_text() == f"model {site.target}\n"
    names = sorted(str(path.relative_to(site.target)) for path in site.target.rglob("*"))
    assert names == ["config.json", "empty.txt", "sub", "sub/model.safetensors"]
    assert (site.target / "sub/model.safetensors").read_bytes() == WEIGHTS
    modes = {stat.S_IMODE(path.stat().st_mode) for path in site.target.rglob("*.*")}
    assert modes == {0o644}
    assert stat.S_IMODE(site.target.stat().st_mode) == 0o755
    assert stat.S_IMODE((site.target / "sub").stat().st_mode) == 0o755
    assert not Path(site.copy.staging).exists()


def test_the_second_run_changes_nothing_and_reads_no_weights(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.run()
    monkeypatch.setattr(operation, "_digests", lambda local: pytest.fail("weights were read"))
    assert site.run() == 0


def test_a_copy_that_was_cut_off_goes_on(site: Site) -> None:
    with pytest.raises(Cut):
        site.run(cut_after=150_000)
    assert not site.target.exists()
    assert site.run() > 0
    assert site.sent == 100_000, "what had come was sent again"
    assert (site.target / "sub/model.safetensors").read_bytes() == WEIGHTS
    assert site.run() == 0


def test_a_damaged_piece_is_noticed_and_only_that_file_sent_again(site: Site) -> None:
    with pytest.raises(Cut):
        site.run(cut_after=150_000)
    staged = Path(site.copy.staging) / "sub/model.safetensors"
    staged.write_bytes(b"x" * staged.stat().st_size)
    with pytest.raises(HostError, match="sub/model.safetensors of .* arrived damaged"):
        site.run()
    assert not site.target.exists()
    assert not staged.exists()
    assert site.run() > 0
    assert site.sent == len(WEIGHTS)
    assert (site.target / "sub/model.safetensors").read_bytes() == WEIGHTS


def test_what_an_earlier_version_left_behind_is_not_taken(site: Site) -> None:
    staging = Path(site.copy.staging)
    staging.mkdir(parents=True)
    (staging / "old.json").write_text("{}")
    (staging / ".piece").write_text("x")
    (staging / "config.json").write_text("longer than the new one")
    # Whoever can write there may give a file any name.
    (staging / "it's; touch evil;'.json").write_text("{}")
    assert site.run() > 0
    assert not list(site.target.parent.rglob("evil"))
    assert (site.target / "config.json").read_text() == "{}"
    assert sorted(os.listdir(site.target)) == ["config.json", "empty.txt", "sub"]


def test_a_folder_in_use_is_never_changed(site: Site) -> None:
    site.run()
    before = (site.target / "config.json").stat()
    (site.source / "config.json").write_text("[]")
    with pytest.raises(HostError) as refused:
        site.run()
    assert "config.json differs" in str(refused.value)
    assert f"model = '{site.target}-2'" in str(refused.value)
    assert (site.target / "config.json").stat() == before
    (site.source / "config.json").write_text("other length")
    with pytest.raises(HostError, match=r"config\.json differs"):
        site.run()


def test_a_second_controller_with_the_same_model_is_noted_once(site: Site) -> None:
    site.run()
    again = site.source.with_name("again")
    shutil.copytree(site.source, again, copy_function=shutil.copyfile)
    os.utime(again / "config.json", (1, 1))
    first, site.copy = site.copy, Copy(str(again), str(site.target), False)
    assert site.run() == 1
    assert site.run() == 0
    site.copy = first
    assert site.run() == 0


def test_a_folder_that_somebody_put_there_is_compared_byte_by_byte(site: Site) -> None:
    shutil.copytree(site.source, site.target)
    assert site.run() > 0
    assert site.sent == 0
    assert site.run() == 0
    (site.notes / site.copy.key).unlink()
    (site.target / "sub/model.safetensors").write_bytes(WEIGHTS[::-1])
    with pytest.raises(HostError, match="sub/model.safetensors differs"):
        site.run()


def test_a_disk_that_is_too_small(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operation, "_RESERVE", 1 << 60)
    with pytest.raises(HostError, match=r"needs 0\.00 GB more and .* are free; make room"):
        site.run()
    assert not Path(site.copy.staging).exists()


def test_a_file_that_is_exchanged_after_the_look_is_not_read(site: Site, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("{}")
    file = local_model(site.copy.source, allow_pickle=False).files[0]
    assert file.name == "config.json"
    os.utime(secret, ns=(file.changed, file.changed))
    file.path.unlink()
    for exchange in (
        lambda: file.path.symlink_to(secret),
        lambda: shutil.copy2(secret, file.path),
        lambda: os.mkfifo(file.path),
        lambda: None,
    ):
        exchange()
        with pytest.raises(HostError, match="was changed|cannot be read"):
            _ = file.sha256
        with pytest.raises(HostError, match="was changed|cannot be read"):
            operation._piece(file, 0)
        file.path.unlink(missing_ok=True)
