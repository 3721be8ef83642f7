"""What the host itself has to be, for the rest to hold."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from testinfra.host import Host

from vllm_hosts.host.paths import STORE_MARK
from vllm_hosts.settings import HostSettings
from vllm_hosts.suite.conftest import Verified
from vllm_hosts.suite.promise import BrokenError, promise

#: Seconds that a host's clock may differ from the controller's.
_CLOCK = 5.0
#: Where setuid files of the host can be; images' layers have their own, without power outside.
_SETUID = (
    "find / -xdev -path /var/lib/docker -prune -o -path /var/lib/containerd -prune"
    " -o -type f -perm /6000 -print"
)


@promise("HOST-01")
def test_the_clock_is_right(host: Host, settings: HostSettings) -> None:
    before = time.time()
    now = float(host.check_output("date +%s.%N"))
    after = time.time()
    if not before - _CLOCK <= now <= after + _CLOCK:
        off = now - (before + after) / 2
        raise BrokenError(f"the host's clock differs by {off:.0f} s from this machine's")


@promise("HOST-02")
def test_no_unexpected_setuid_file(host: Host, settings: HostSettings) -> None:
    found = host.check_output(_SETUID).split("\n")
    # Packages' own, whichever they are: what nobody packaged is somebody's.
    strangers = host.run(
        f"dpkg-query --search {' '.join(found)} 2>&1 >/dev/null | sed -n 's/.*matching pattern //p'"
    ).stdout.split()
    # Packages name some files by the other side of a link: /bin is /usr/bin.
    merged = [path for path in strangers if path.startswith("/usr/")]
    known = host.run(
        f"dpkg-query --search {' '.join(path.removeprefix('/usr') for path in merged)} 2>/dev/null"
    ).stdout
    assert [path for path in strangers if f": {path.removeprefix('/usr')}\n" not in known] == []


@promise("HOST-03")
def test_nobody_unnamed_is_in_the_group_docker(host: Host, settings: HostSettings) -> None:
    group = host.run("getent group docker").stdout.strip()
    members = set(group.split(":")[3].split(",")) - {""} if group else set()
    gid = group.split(":")[2] if group else "none"
    primary = {
        line.split(":")[0]
        for line in host.check_output("getent passwd").splitlines()
        if line.split(":")[3] == gid
    }
    assert sorted((members | primary) - set(settings.docker.group_members)) == []


@promise("OWN-01")
def test_the_host_belongs_to_this_inventory(
    host: Host, settings: HostSettings, verified: Verified
) -> None:
    shown = host.run("stat --format '%%F %%a %%u:%%g' %s", STORE_MARK).stdout.strip()
    if shown != "regular file 644 0:0":
        raise BrokenError(f"{STORE_MARK} is {shown}, not 644 0:0")
    lines = host.check_output("cat %s", STORE_MARK).splitlines()
    stores = [line.split(" ", 1)[1] for line in lines if line.startswith("store ")]
    assert stores == [verified.project.store.read().id]


@promise("SSH-01")
def test_ssh_takes_no_passwords(
    host: Host, settings: HostSettings, noted: Callable[[str, str], None]
) -> None:
    lines = host.check_output("sshd -T").splitlines()
    effective = dict(line.split(" ", 1) for line in lines if " " in line)
    asked = ("passwordauthentication", "kbdinteractiveauthentication", "permitrootlogin")
    found = {name: effective[name] for name in asked}
    open_ways = [name for name in asked[:2] if found[name] != "no"]
    noted("SSH passwords", "taken" if open_ways else "refused")
    if not settings.ssh_hardening.enabled:
        pytest.skip(f"not promised without ssh_hardening.enabled; passwords: {found[asked[0]]}")
    assert open_ways == []
    assert found["permitrootlogin"] in ("no", "without-password", "prohibit-password")
