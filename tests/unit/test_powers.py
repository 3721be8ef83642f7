"""What containers may have: one that has nothing, and each power that is one too many."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.samples import CODER, settings
from vllm_hosts.suite.powers import (
    Mount,
    more_than_an_agent_needs,
    mounts_of,
    own_mounts,
    powers,
    protected,
)

SETTINGS = settings(agents=[CODER])
AGENT = SETTINGS.agents[0]
FORBIDDEN = protected(SETTINGS, "/srv/docker", ["/root", "/home/alice", "/"])

#: As Docker 26 shows a container that was started without any option (run).
PLAIN: dict[str, Any] = {
    "Binds": None,
    "NetworkMode": "bridge",
    "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
    "CapAdd": None,
    "CapDrop": None,
    "CgroupnsMode": "private",
    "GroupAdd": None,
    "IpcMode": "private",
    "Cgroup": "",
    "Links": None,
    "PidMode": "",
    "Privileged": False,
    "ReadonlyRootfs": False,
    "SecurityOpt": None,
    "UTSMode": "",
    "UsernsMode": "",
    "ShmSize": 67108864,
    "Runtime": "runc",
    "Isolation": "",
    "Devices": [],
    "DeviceCgroupRules": None,
    "DeviceRequests": None,
    "PidsLimit": None,
    "MaskedPaths": ["/proc/kcore", "/sys/firmware"],
    "ReadonlyPaths": ["/proc/sys", "/proc/sysrq-trigger"],
}


def container(*mounts: dict[str, Any], **changed: Any) -> dict[str, Any]:
    return {
        "Name": "/it",
        "HostConfig": PLAIN | changed,
        "Mounts": list(mounts),
        "Config": {"User": SETTINGS.vllm.user},
    }


def bind(source: str, *, writable: bool = True, target: str = "/x") -> dict[str, Any]:
    return {
        "Type": "bind",
        "Source": source,
        "Destination": target,
        "RW": writable,
        "Propagation": "rprivate",
    }


def volume(name: str) -> dict[str, Any]:
    source = f"/srv/docker/volumes/{name}/_data"
    return {"Type": "volume", "Name": name, "Source": source, "Destination": "/x", "RW": True}


def said(
    one: dict[str, Any],
    volumes: dict[str, dict[str, Any]] | None = None,
    same: dict[str, list[str]] | None = None,
    own: set[Mount] | None = None,
) -> list[str]:
    return list(powers(one, volumes or {}, FORBIDDEN, same or {}, own or set()))


GPU = {"Driver": "nvidia", "Count": 0, "DeviceIDs": ["1", "2"], "Capabilities": [["gpu"]]}
CDI = {"Driver": "cdi", "Count": 0, "DeviceIDs": ["nvidia.com/gpu=0"], "Capabilities": None}


@pytest.mark.parametrize(
    "one",
    [
        container(),
        container(bind("/srv/data"), volume("data"), CapAdd=["CAP_NET_RAW", "chown"]),
        container(bind("/etc/localtime", writable=False), IpcMode="shareable"),
        container(DeviceRequests=[GPU, CDI], SecurityOpt=["no-new-privileges"]),
        container({"Type": "tmpfs", "Source": "", "Destination": "/tmp", "RW": True}),
        container(bind("/home/alice/data"), CgroupnsMode="", IpcMode="", Runtime="runsc"),
    ],
)
def test_what_any_container_may_have(one: dict[str, Any]) -> None:
    volumes: dict[str, dict[str, Any]] = {"data": {"Options": None}}
    assert said(one, volumes) == []


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"Privileged": True, "MaskedPaths": None}, "it is privileged"),
        ({"CapAdd": ["ALL"]}, "it has the capabilities ALL"),
        ({"CapAdd": ["CAP_SYS_ADMIN", "NET_RAW"]}, "it has the capabilities SYS_ADMIN"),
        ({"SecurityOpt": ["seccomp=unconfined"]}, "it has the security option seccomp=unconfined"),
        ({"SecurityOpt": ["apparmor=unconfined"]}, "security option apparmor=unconfined"),
        ({"SecurityOpt": ['seccomp={"a":1}']}, "it has the security option seccomp="),
        ({"MaskedPaths": [], "ReadonlyPaths": []}, "it sees all of /proc and /sys"),
        ({"Devices": [{"PathOnHost": "/dev/sda"}]}, "it has the device /dev/sda"),
        ({"DeviceCgroupRules": ["b 8:* rmw"]}, "by the rule b 8:* rmw"),
        ({"DeviceRequests": [CDI | {"DeviceIDs": ["vendor.com/disk=0"]}]}, "of the driver cdi"),
        ({"IpcMode": "host"}, "it has IpcMode host"),
        ({"IpcMode": "container:abc"}, "it has IpcMode container:abc"),
        ({"PidMode": "host"}, "it has PidMode host"),
        ({"PidMode": "container:abc"}, "it has PidMode container:abc"),
        ({"UTSMode": "host"}, "it has UTSMode host"),
        ({"UsernsMode": "host"}, "it has UsernsMode host"),
        ({"CgroupnsMode": "host"}, "it has CgroupnsMode host"),
        ({"Runtime": "lab"}, "it has Runtime lab"),
        ({"SomethingNew": True}, "it has SomethingNew, which is not known here"),
    ],
)
def test_a_setting_that_gives_power(changed: dict[str, Any], words: str) -> None:
    [sentence] = said(container(**changed))
    assert words in sentence


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("/", "which holds"),
        ("/etc", "which is /etc"),
        ("/etc/cron.d", "which is in /etc"),
        ("/etc/nginx/vllm-hosts", "which is /etc/nginx/vllm-hosts"),
        ("/var", "which holds"),
        ("/var/lib", "which holds"),
        ("/var/run/docker.sock", "Docker's socket"),
        ("/srv/other/docker.sock", "Docker's socket"),
        ("/srv/docker", "which is /srv/docker"),
        ("/srv", "which holds /srv/docker"),
        ("/run/containerd", "which is in /run"),
        ("/opt", "which holds"),
        ("/opt/vllm", "which is /opt/vllm"),
        ("/var/lib/vllm/agents/coder", "which is in /var/lib/vllm"),
        ("/root/.ssh", "which is /root/.ssh"),
        ("/home", "which holds /home/alice/.ssh"),
        ("/home/alice", "which holds /home/alice/.ssh"),
        ("/home/alice/.ssh/authorized_keys", "which is in /home/alice/.ssh"),
        ("/proc", "which is /proc"),
        ("/dev/sda", "which is in /dev"),
        ("/usr/share", "which is in /usr"),
    ],
)
def test_a_folder_of_the_host(source: str, words: str) -> None:
    [sentence] = said(container(bind(source)))
    assert words in sentence
    if source != "/usr/share":
        # What is read is given away as well.
        assert said(container(bind(source, writable=False))) == [sentence]


def test_a_link_is_what_it_points_to() -> None:
    [sentence] = said(container(bind("/srv/data")), same={"/srv/data": ["/etc"]})
    assert sentence == "it has /srv/data of the host, which is /etc"
    public = {"/etc/localtime": ["/etc/shadow"]}
    assert said(container(bind("/etc/localtime", writable=False)), same=public) != []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"type": "none", "o": "bind", "device": "/"}, "it has / of the host"),
        ({"o": "ro,bind", "device": "/etc"}, "it has /etc of the host"),
        ({"type": "ext4", "device": "/dev/sda1"}, "the volume v, which is /dev/sda1"),
        ({"type": "overlay", "o": "lowerdir=/", "device": "overlay"}, "the volume v"),
    ],
)
def test_a_volume_that_is_the_host(options: dict[str, str], words: str) -> None:
    found = said(container(volume("v")), {"v": {"Options": options}})
    assert any(words in sentence for sentence in found)


def test_a_volume_of_another_machine_is_none_of_this_host() -> None:
    options = {"type": "nfs", "o": "addr=192.0.2.9", "device": ":/data"}
    assert said(container(volume("v")), {"v": {"Options": options}}) == []


def test_an_agent_s_own_mounts_are_its_own_only_as_they_are() -> None:
    own = own_mounts(SETTINGS, AGENT)
    mounts = [bind(source, writable=rw, target=target) for source, target, rw in own]
    assert said(container(*mounts), own=own) == []
    assert mounts_of(container(*mounts)) == own
    assert len(said(container(*mounts))) == 2  # as a stranger's; /srv/models is nobody's secret
    writable = [bind(source, target=target) for source, target, _ in own]
    [sentence] = said(container(*writable), own=own)
    assert "/var/lib/vllm/huggingface" in sentence


GOOD = PLAIN | {
    "CapDrop": ["ALL"],
    "ReadonlyRootfs": True,
    "SecurityOpt": ["no-new-privileges:true"],
    "DeviceRequests": [GPU | {"Options": None}],
}


def test_an_agent_as_it_should_be() -> None:
    assert more_than_an_agent_needs(container(**GOOD), SETTINGS, AGENT) == {}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Privileged", True),
        ("CapAdd", ["NET_RAW"]),
        ("CapDrop", ["NET_RAW"]),
        ("CapDrop", None),
        ("SecurityOpt", None),
        ("SecurityOpt", ["no-new-privileges:true", "seccomp=unconfined"]),
        ("SecurityOpt", ["no-new-privileges:false"]),
        ("Devices", [{"PathOnHost": "/dev/full"}]),
        ("DeviceRequests", None),
        ("DeviceRequests", [GPU | {"Options": None, "DeviceIDs": ["0"]}]),
        ("DeviceRequests", [GPU | {"Options": None, "DeviceIDs": None, "Count": -1}]),
        ("GroupAdd", ["docker"]),
        ("IpcMode", "shareable"),
        ("CgroupnsMode", "host"),
        ("PidMode", "container:abc"),
        ("Links", ["/other:/it/other"]),
        ("VolumesFrom", ["other"]),
        ("Sysctls", {"net.ipv4.ip_forward": "1"}),
        ("ReadonlyRootfs", False),
    ],
)
def test_more_than_an_agent_needs(name: str, value: object) -> None:
    one = container(**GOOD | {name: value})
    assert set(more_than_an_agent_needs(one, SETTINGS, AGENT)) == {name}


def test_another_user_than_the_agents() -> None:
    one = container(**GOOD) | {"Config": {"User": ""}}
    assert more_than_an_agent_needs(one, SETTINGS, AGENT) == {"User": ""}


@pytest.mark.parametrize(
    "source",
    ["/var/lib/lxd/unix.socket", "/var/snap/lxd", "/var/lib/kubelet", "/var/backups", "/tmp/x"]
    + ["/home/bob", "/home/bob/.bashrc", "/home/bob/app/.git", "/opt", "/initrd.img"],
)
def test_what_nobody_has_thought_of_is_a_power_until_it_is_named(source: str) -> None:
    [sentence] = powers(container(bind(source)), {}, FORBIDDEN, {}, set())
    assert "docker.container_folders can add others" in sentence or "which holds" in sentence
    if "can add others" in sentence:
        assert list(powers(container(bind(source)), {}, FORBIDDEN, {}, set(), [source])) == []


def test_what_is_named_is_no_way_to_what_nobody_may_have() -> None:
    assert list(powers(container(bind("/etc/cron.d")), {}, FORBIDDEN, {}, set(), ["/etc"])) != []
