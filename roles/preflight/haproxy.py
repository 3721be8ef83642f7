"""Whether a gateway has, or would get, an HAProxy that can do what we need. Touches no host."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from packaging.version import Version

from vllm_hosts.host.docker_there import version_in
from vllm_hosts.host.release import Release

#: Debian 12's, the oldest that is tried; Ubuntu 22.04 has 2.4.
HAPROXY_FLOOR = Version("2.6")
_PACKAGE = "haproxy"
#: Releases whose own HAProxy is older, for a host whose lists of packages apt has not fetched yet.
_TOO_OLD = {("ubuntu", "22.04"): "2.4"}


def haproxy_problems(
    release: Release, installed: Mapping[str, str], offered: Mapping[str, Sequence[str]]
) -> Iterator[str]:
    """Why a host cannot be a gateway, one sentence.

    :param installed: versions of packages that it has.
    :param offered: those that its archives have, the newest first.
    """
    known = _TOO_OLD.get((release.os_id, release.version), "")
    text = installed.get(_PACKAGE) or next(iter(offered.get(_PACKAGE, ())), known)
    # What stands before a colon, Debian's epoch, is no part of HAProxy's version.
    version = version_in(text.rpartition(":")[2])
    if version is None or version >= HAPROXY_FLOOR:
        return
    what = "has" if _PACKAGE in installed else "would get"
    yield (
        f"this gateway {what} HAProxy {version} ({release.name}), and gateways need"
        f" {HAPROXY_FLOOR}; use a machine with Debian 12, Debian 13 or Ubuntu 24.04 as gateway"
        " (hosts behind it may be older), or give this one an archive with a newer haproxy"
    )
