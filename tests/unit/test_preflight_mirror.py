"""What preflight says about the disks of a mirror, which has everything of all who ask it."""

from __future__ import annotations

from dataclasses import replace

from tests.unit.fleets import with_a_mirror
from tests.unit.test_preflight import GOOD, GOOD_RELEASE
from vllm_hosts.host.docker_there import DockerThere
from vllm_hosts.host.image_places import ImagePlaces
from vllm_hosts.host.mirror import MirrorThere, image_key
from vllm_hosts.host.paths import MIRROR_STATE, models_folder
from vllm_hosts.host.system import System
from vllm_hosts.roles.preflight.plan import GIB, folders, mirror_room, problems

MIRROR = with_a_mirror()["gpu1"]
IMAGE = image_key(MIRROR.vllm.image)
NEW, FULL = MirrorThere(), MirrorThere(images=frozenset({IMAGE}))


def system(**free: float) -> System:
    """With the image at Docker, and GiB free for the mirror, at Docker or in the cache."""
    cache = MIRROR.vllm.cache_directory
    places = {"mirror": MIRROR_STATE, "docker": "/var/lib/docker", "cache": cache}
    there = dict.fromkeys(folders(MIRROR), 500 * GIB)
    return replace(
        GOOD,
        free=there | {places[name]: int(size * GIB) for name, size in free.items()},
        has_image=True,
    )


def test_a_mirror_needs_room_for_its_own_copy_of_the_image() -> None:
    [problem] = mirror_room(MIRROR, system(mirror=39.9), NEW)
    assert problem == (
        f"{MIRROR_STATE} has 39.9 GiB free, and the mirror's copies of 1 image(s) need 40"
        " (vllm.image_disk each); make room, or take another host into the group mirror"
    )
    assert mirror_room(MIRROR, system(mirror=40), NEW) == []


def test_what_it_has_needs_no_room() -> None:
    assert mirror_room(MIRROR, system(mirror=0), FULL) == []


def test_each_image_is_counted_once() -> None:
    hosts = with_a_mirror()
    other = hosts["gpu2"].model_copy(
        update={"vllm": hosts["gpu2"].vllm.model_copy(update={"image": "vllm/other:v1"})}
    )
    mirror = hosts["gpu1"].model_copy(update={"mirror_for": (other, hosts["gpu3"])})
    [problem] = mirror_room(mirror, system(mirror=79), NEW)
    assert "copies of 2 image(s) need 80 " in problem
    assert mirror_room(mirror, system(mirror=79), FULL) == []


def test_docker_s_copy_on_the_same_disk_is_counted_too() -> None:
    fresh = replace(system(mirror=79, docker=79), has_image=False)
    [problem] = mirror_room(MIRROR, fresh, NEW)
    assert "copies of 1 image(s), with Docker's own, need 80 " in problem
    assert mirror_room(MIRROR, replace(fresh, has_image=True), NEW) == []
    elsewhere = replace(system(mirror=79, docker=80), has_image=False)
    assert mirror_room(MIRROR, elsewhere, NEW) == []


def test_docker_s_copy_is_where_the_daemon_puts_it() -> None:
    places = ImagePlaces("docker", None, ("/data", 79 * GIB), ("/data", 79 * GIB))
    there = replace(system(mirror=79), has_image=False, images=places, docker=DockerThere())
    assert len(mirror_room(MIRROR, there, NEW)) == 1


def test_models_of_others_come_to_the_mirror_s_cache() -> None:
    [problem] = problems(MIRROR, GOOD_RELEASE, system(cache=59))
    assert "59.0 GiB free, and 3 model(s) to download need 20 each" in problem
    assert problems(MIRROR, GOOD_RELEASE, system(cache=60)) == []


def test_models_that_are_there_are_not_counted() -> None:
    models = [folder for folder in folders(MIRROR) if "/models--" in folder]
    assert sorted(folder.rpartition("/")[2] for folder in models) == [
        "models--Qwen--Qwen3-8B",
        "models--org--three",
        "models--org--two",
    ]
    there = replace(system(cache=20), present=frozenset(models[:2]))
    assert problems(MIRROR, GOOD_RELEASE, there) == []
    assert len(problems(MIRROR, GOOD_RELEASE, replace(there, present=frozenset()))) == 1


def test_other_hosts_need_their_own_only() -> None:
    other = with_a_mirror()["gpu2"]
    assert MIRROR_STATE not in folders(other)
    models = [folder for folder in folders(other) if "/models--" in folder]
    assert models == [f"{models_folder(other)}/hub/models--org--two"]
