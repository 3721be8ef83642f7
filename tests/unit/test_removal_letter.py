"""What goes from a host and what stays, to the letter: a name that is missing leaves something, or
takes what is somebody else's."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace

import pytest

from tests.unit.samples import settings
from tests.unit.test_removal_plan import AGENT, HAD, IMAGE, INSTALLED, OTHER, removal
from vllm_hosts.host.manifest import Before, Manifest
from vllm_hosts.host.packages import Package, alternatives, removable
from vllm_hosts.host.remains import DockerHolds, Inhabitant, Remains, Version
from vllm_hosts.roles.removal.plan import TIMERS, Removal, few

UNITS = "/etc/systemd/system"
UNKNOWN = "it is not known whether it was there before"
ALWAYS = [
    "/etc/systemd/system/nginx.service.d/vllm-hosts.conf",
    "/etc/systemd/system/vllm-hosts-edge-logs.service",
    "/etc/systemd/system/vllm-hosts-edge-logs.timer",
    "/etc/systemd/system/vllm-hosts-keys.service",
    "/etc/systemd/system/vllm-hosts-keys.timer",
    "/etc/systemd/system/vllm-hosts-unconfirmed.service",
    "/etc/systemd/system/vllm-hosts-watchdog.service",
    "/etc/systemd/system/vllm-hosts-watchdog.timer",
]
#: Of a deploy whose host lost its power.
NEW = ["/opt/vllm/.env.vllm-hosts-new", "/opt/vllm/compose.yaml.vllm-hosts-new"]


def had(*paths: str, **more: frozenset[str]) -> Before:
    return Before(HAD, paths=frozenset(paths), **more)


def test_files_of_every_version_go_whatever_the_record_says() -> None:
    assert removal().files == sorted([*ALWAYS, *NEW, "/opt/vllm/.env"]), "as recorded"
    found = removal(before=None)
    assert found.files == sorted([*ALWAYS, *NEW, "/opt/vllm/.env", "/opt/vllm/compose.yaml"])
    assert list(TIMERS) == [
        "vllm-hosts-keys.timer",
        "vllm-hosts-edge-logs.timer",
        "vllm-hosts-watchdog.timer",
    ]
    nothing = Remains()
    assert not (nothing.own_rules or nothing.own_haproxy or nothing.own_keepalived)
    bare = Removal(settings(), nothing)
    assert bare.files == [*ALWAYS, *NEW], "nothing was ever deployed"


def test_each_file_with_a_step_of_its_own_is_left_to_that() -> None:
    apart = (
        "/etc/docker/daemon.json",
        "/etc/nginx/nginx.conf",
        "/etc/nginx/modules-enabled/00-vllm-hosts-limits.conf",
        "/etc/nginx/conf.d/vllm-hosts.conf",
        "/etc/systemd/system/vllm-hosts-firewall.service",
    )
    found = removal()
    manifest = replace(found.remains.manifest, files=(*apart, "/etc/of-ours"))
    more = Removal(found.settings, replace(found.remains, manifest=manifest))
    assert set(more.files) - set(found.files) == {"/etc/of-ours"}


def test_models_stay_where_nobody_says_otherwise() -> None:
    assert Removal(settings(), Remains()).models is False
    with pytest.raises(FrozenInstanceError):
        removal().models = True  # type: ignore[misc]


def test_a_host_without_anything_of_ours() -> None:
    nothing = Removal(settings(), Remains())
    assert nothing.nothing is True
    files = Remains(Manifest(files=("/etc/x",)))
    agents = Remains(docker=DockerHolds(True, True, (AGENT,)))
    for remains in (files, agents, Remains(Manifest(Before()))):
        assert Removal(settings(), remains).nothing is False


def test_why_docker_and_nginx_stay() -> None:
    unknown = removal(before=None)
    assert (unknown.docker_stays, unknown.nginx_stays) == (UNKNOWN, UNKNOWN)
    assert removal(before=had("/usr/bin/dockerd")).docker_stays == "it was there before"
    assert removal(had={"nginx"}).nginx_stays == "it was there before"
    assert removal(before=had("", "x")).docker_stays == ""
    assert (removal().docker_stays, removal().nginx_stays) == ("", "")


def test_a_docker_that_stays_is_ours_unless_it_is_the_one_of_before() -> None:
    both = INSTALLED | {"docker.io": Package()}
    assert "docker-ce" in removal(had={"docker.io"}, packages=both).packages(firewall=True)
    assert "docker-ce" not in removal(had={"docker.io"}).packages(firewall=True)


def test_packages_that_deploys_brought() -> None:
    found = removal()
    gone = {name: one for name, one in INSTALLED.items() if name != "docker-ce"}
    assert "docker-ce" in found.brought
    # Neither what is not there any more, nor what deploys did not ask for.
    fewer = removal(packages=gone)
    assert set(fewer.brought) == set(found.brought) - {"docker-ce"}
    assert "nginx-common" not in found.brought and not HAD & set(found.brought)
    assert "nginx" not in removal(had={"nginx"}).brought
    assert removal(before=None).brought == found.brought


def test_packages_of_them_that_stay() -> None:
    assert removal().kept_packages() == []
    assert removal(sites=("x",)).kept_packages() == ["nginx"]


def test_only_holds_of_ours_that_are_still_there_are_released() -> None:
    assert removal(held=frozenset({"theirs"})).holds == []


def test_only_images_of_ours_that_are_still_there_go() -> None:
    there = {"images": frozenset({OTHER}), "ours": frozenset({IMAGE})}
    assert removal(docker=there).images == []
    assert removal(docker={"images": frozenset({IMAGE, OTHER})}).images == [IMAGE]


def test_sources_of_a_docker_that_stays_are_docker_s_alone() -> None:
    toolkit = "/etc/apt/sources.list.d/nvidia-container-toolkit.sources"
    assert removal(docker={"volumes": ("a",)}).sources == [toolkit]
    assert len(removal().sources) == 3


def test_folders_that_go_if_nothing_is_left_in_them() -> None:
    whole = [
        "/usr/local/lib/vllm-hosts",
        f"{UNITS}/nginx.service.d",
        *("/etc/apt/keyrings", "/var/www/html", "/var/www"),
        *("/opt/vllm", "/var/lib/vllm/agents", "/var/lib/vllm"),
    ]
    assert removal().if_empty == whole
    assert removal(before=None).if_empty == whole
    for path in whole:
        assert removal(before=had(path)).if_empty == [one for one in whole if one != path]


def test_what_packages_leave_behind() -> None:
    toolkit = "/etc/nvidia-container-runtime"
    gone = {name: one for name, one in INSTALLED.items() if "toolkit" not in name}
    assert removal(packages=gone).left_by_packages == [toolkit]
    assert removal(packages=gone, before=had(toolkit)).left_by_packages == []
    assert removal().left_by_packages == []
    assert removal(packages=gone, before=None).left_by_packages == []


def test_docker_s_group() -> None:
    gone = vars(DockerHolds())
    assert removal(docker=gone).groups == ["docker"]
    assert removal().groups == []
    assert removal(docker=gone, before=None).groups == []
    there = had(groups=frozenset({"docker"}))
    assert removal(docker=gone, before=there).groups == []


def test_some_names_for_a_sentence() -> None:
    assert few(["a", "b", "c"]) == "a, b, c"
    assert few(["a", "b", "c", "d", "e"]) == "a, b, c and 2 more"


def test_names_in_a_relation() -> None:
    said = "libc6 (>= 2.38), awk | mawk:any [amd64] <!nocheck>,, 7zip,"
    assert alternatives(said) == (("libc6",), ("awk", "mawk"), ("7zip",))
    assert alternatives("") == ()
    # It begins with no name: a host whose answer is not understood loses nothing.
    for bad in ("libc6, (>= 2)", "awk | , x", "-x"):
        with pytest.raises(ValueError):
            alternatives(bad)
    with pytest.raises(ValueError) as caught:
        alternatives("!" * 900)
    assert str(caught.value) == "!" * 200


def test_a_package_without_more_came_by_name_and_needs_nothing() -> None:
    assert Package() == Package(False, (), (), frozenset())


def test_what_two_provide_is_offered_by_both() -> None:
    """A mail server of ours goes while another one stays that will do as well."""
    mta = frozenset({"mta"})
    installed = {
        "ours": Package(provides=mta),
        "theirs": Package(provides=mta),
        "cron": Package(needs=(("mta",),)),
    }
    assert removable(installed, {"ours", "not there"}, {"theirs", "cron"}) == ["ours"]
    del installed["theirs"]
    assert removable(installed, {"ours"}, {"cron"}) == []


def test_what_came_with_ours_goes_all_the_way_down() -> None:
    installed = {
        "ours": Package(needs=(("a",),)),
        "a": Package(True, needs=(("b", "c"),)),
        "b": Package(True, needs=(("a",), ("ours",))),
        "c": Package(True),
        "asked": Package(True),
    }
    assert removable(installed, {"ours"}, set()) == ["a", "b", "c", "ours"]
    # One that stays keeps all that it needs, and that in turn.
    assert removable(installed, {"ours"}, set(), {"a"}) == []
    assert removable(installed, {"ours"}, set(), {"c"}) == ["a", "b", "ours"]


@pytest.mark.parametrize(
    ("files", "where"),
    [
        ((), ""),
        (("/opt/vllm/compose.yaml",), ""),
        (("/srv/vllm/compose.yaml", "/opt/vllm/compose.yaml"), ""),
        (("/old/compose.yaml", "/srv/vllm/compose.yaml", "/etc/x"), "/srv/vllm"),
        # A kept definition is no agent's, and another file of ours is in any folder.
        (("/var/lib/vllm-hosts/way-back/now/compose.yaml", "/srv/vllm/.env"), ""),
    ],
)
def test_where_agents_are_kept_if_not_where_the_settings_say(
    files: tuple[str, ...], where: str
) -> None:
    found = removal()
    manifest = replace(found.remains.manifest, files=files)
    there = Removal(found.settings, replace(found.remains, manifest=manifest))
    assert there.elsewhere == where


def test_a_look_stays_as_it_was_and_says_nothing_that_was_not_seen() -> None:
    nobody = Inhabitant("a", "x", ours=False, running=False)
    for one, name in (
        (nobody, "ours"), (DockerHolds(), "answers"), (Remains(), "sites"), (Version(), "now"),
    ):  # fmt: skip
        with pytest.raises(FrozenInstanceError):
            setattr(one, name, True)
    assert (DockerHolds().installed, DockerHolds().answers) == (False, False)
    assert Remains().own_rules is False
