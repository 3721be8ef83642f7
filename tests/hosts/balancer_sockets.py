"""Who can open the sockets of a gateway's HAProxy: tried by each kind of user."""

from __future__ import annotations

import re
from collections.abc import Iterable
from shlex import quote

from testinfra.host import Host

from vllm_hosts.errors import HostError
from vllm_hosts.suite.promise import BrokenError

#: By which HAProxy is told what to do.
_OWN = {"admin.sock", "master.sock"}
#: By which one that was restarted is asked what it still has.
_ENDING = re.compile(r"master\.[0-9]+\.sock")
_NOBODY = "65534:65534"


def open_to_others(host: Host, folder: str, pools: Iterable[str], nginx: str) -> list[str]:
    """What others than root can open, and what nginx can or cannot against its purpose.

    :param folder: where the sockets are.
    :param pools: names of the pools, each of which has one for nginx.
    :param nginx: user and group of nginx's workers, as numbers, which meet what strangers send.
    :raises BrokenError: a socket is missing.
    :raises HostError: not even root can open one.
    """
    for_nginx = {f"in.{pool}.sock" for pool in pools}
    expected = for_nginx | _OWN
    there = set(host.check_output(f"find {quote(folder)} -type s -printf '%f\\n'").split())
    if missing := sorted(expected - there):
        raise BrokenError(f"{', '.join(missing)}: missing in {folder}")
    # What an earlier configuration left answers nobody.
    wrong = [
        f"{folder}/{name} answers, and no setting names it"
        for name in sorted(there - expected)
        if not _ENDING.fullmatch(name) and _opens(host, f"{folder}/{name}")
    ]
    for name in sorted(expected | set(filter(_ENDING.fullmatch, there))):
        path = f"{folder}/{name}"
        if name in expected and not _opens(host, path):
            raise HostError(f"not even root can open {path}")
        if _opens(host, path, _NOBODY):
            wrong.append(f"any user of the host can open {path}")
        elif _opens(host, path, nginx) != (name in for_nginx):
            can = "cannot" if name in for_nginx else "can"
            wrong.append(f"nginx's user {can} open {path}")
    return wrong


def _opens(host: Host, path: str, ids: str | None = None) -> bool:
    """Whether a user can connect to a socket; root, unless another is named."""
    user, _, group = (ids or "").partition(":")
    whose = f"setpriv --reuid {user} --regid {group} --clear-groups " if ids else ""
    command = f"{whose}timeout 5 socat -u OPEN:/dev/null UNIX-CONNECT:{quote(path)}"
    return bool(host.run(command).rc == 0)
