"""An image as Docker keeps it is given to other hosts of the lab, and nothing of containers is."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab import image, image_kept, recipe


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(image_kept, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(recipe, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(image, "digest", lambda: "sha256:1")
    return tmp_path / "cache"


def _host(root: Path) -> Path:
    """A host with an image of one layer, and a container of it."""
    docker = root / "var/lib/docker"
    for path, text in {
        "image/overlay2/repositories.json": "{}",
        "image/overlay2/imagedb/content/sha256/i": "{}",
        "image/overlay2/distribution/diffid-by-digest/sha256/d": "l",
        "image/overlay2/layerdb/sha256/l/cache-id": "layer",
        "image/overlay2/layerdb/mounts/c/mount-id": "top",
        "overlay2/layer/link": "SHORT",
        "overlay2/layer/diff/usr/bin/vllm": "program",
        "overlay2/top/link": "TOP",
        "overlay2/top/diff/tmp/of-a-container": "words",
        "containers/c/config.v2.json": "{}",
    }.items():
        (docker / path).parent.mkdir(parents=True, exist_ok=True)
        (docker / path).write_text(text)
    (docker / "overlay2/layer/diff/usr/bin/python").symlink_to("python3")
    return docker


def _files(folder: Path) -> set[str]:
    found = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    return {str(path.relative_to(folder)) for path in found}


def test_images_are_given_and_containers_are_not(tmp_path: Path) -> None:
    docker = _host(tmp_path / "one")
    assert image_kept.keep(tmp_path / "one")
    assert image_kept.give(tmp_path / "two")
    other = tmp_path / "two/var/lib/docker"
    of_containers = {
        *("image/overlay2/layerdb/mounts/c/mount-id", "containers/c/config.v2.json"),
        *("overlay2/top/link", "overlay2/top/diff/tmp/of-a-container"),
    }
    assert _files(other) == _files(docker) - of_containers | {"overlay2/l/SHORT"}
    assert (other / "overlay2/l/SHORT/usr/bin/vllm").read_text() == "program"
    # One file for all hosts, but what Docker writes anew is each one's own.
    program, record = "overlay2/layer/diff/usr/bin/vllm", "image/overlay2/repositories.json"
    assert (other / program).samefile(docker / program)
    assert not (other / record).samefile(docker / record)


def test_what_is_kept_is_of_the_image_that_hosts_get(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _host(tmp_path / "one")
    image_kept.keep(tmp_path / "one")
    monkeypatch.setattr(image, "digest", lambda: "sha256:2")
    assert not image_kept.give(tmp_path / "two")
    assert not (tmp_path / "two").exists()


def test_a_host_without_images_has_nothing_to_keep(tmp_path: Path, cache: Path) -> None:
    assert not image_kept.keep(tmp_path / "one")
    assert not image_kept.give(tmp_path / "two")
    assert not cache.exists()
