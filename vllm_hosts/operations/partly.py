"""Takes our part out of files that also have a part of somebody's, on a host that is left."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from shlex import quote

from pyinfra.api.command import StringCommand

from vllm_hosts.facts import look
from vllm_hosts.facts.nginx import NginxMainConf, NginxState
from vllm_hosts.facts.remains import Versions
from vllm_hosts.facts.tree import TreeState
from vllm_hosts.host import daemon_json, paths
from vllm_hosts.host.files import Absent, Entry, File
from vllm_hosts.host.nginx import LIMITS_CONF, MAIN_CONF, only_raised
from vllm_hosts.operations.base import Commands, host_operation
from vllm_hosts.operations.checks import say
from vllm_hosts.operations.differences import differs
from vllm_hosts.operations.edge import RELOAD
from vllm_hosts.operations.foreseen import leads_to
from vllm_hosts.operations.tree import change

_FOLDERS = (paths.EDGE_FOLDER, paths.EDGE_LUA)
_EDGE = (paths.EDGE_CONF, LIMITS_CONF, *_FOLDERS)
_WELCOME, _BEFORE = paths.NGINX_WELCOME, f"{paths.BEFORE}/files{paths.NGINX_WELCOME}"
#: The distribution's page answers where the edge did, so it comes back when that is gone.
_BACK = f"""
    back=; [ ! -L {_BEFORE} ] || [ -e {_WELCOME} ] || [ -L {_WELCOME} ] ||
        {{ cp -a {_BEFORE} {_WELCOME}; back=yes; }}
    nginx -t -q || {{
        [ -z "$back" ] || rm -f {_WELCOME}
        echo 'nginx refuses its configuration also without the edge, which serves on: correct the' \
            'file that nginx names, or move it away, and run again' >&2
        exit 1
    }}
""".strip()


@dataclass(frozen=True)
class NginxAfter:
    """What becomes of nginx. ``ran`` and ``enabled``: what it was before us."""

    stays: bool
    ran: bool = True
    enabled: bool = True


@host_operation
def edge_closed(becomes: Callable[[], NginxAfter]) -> Commands:
    """Take the edge out of nginx, and its keys off the host. Sites of others go on."""
    found = look(TreeState, paths=list(_EDGE)).paths
    there = [path for path in _EDGE if found[path].kind != "-"]
    if not there:
        return
    nginx = becomes()
    for path in there:
        differs(path, "is there")
    entries: list[Entry] = [Absent(path) for path in there if path not in _FOLDERS]
    leads_to("the edge answers no client any more")
    if not nginx.stays:
        yield StringCommand("! systemctl -q is-active nginx.service || systemctl stop nginx")
        yield change(entries) if entries else StringCommand(":")
    elif entries:
        yield change([*entries, *_lowered()], validate=_BACK, activate=RELOAD)
    state = look(NginxState)
    if nginx.stays and state.active and not nginx.ran:
        yield StringCommand("systemctl stop nginx.service")
    if nginx.stays and state.enabled and not nginx.enabled:
        yield StringCommand("systemctl disable --quiet nginx.service")
    yield StringCommand(f"rm -rf {' '.join(_FOLDERS)}")


def _lowered() -> list[Entry]:
    """nginx.conf as it was before us, where only our numbers differ."""
    found, main = look(Versions, paths=[MAIN_CONF])[MAIN_CONF], look(NginxMainConf)
    if found.now is None or found.before in (None, found.now) or main is None:
        return []
    assert found.before is not None
    if not only_raised(found.now, found.before):
        say([f"{MAIN_CONF} was changed by others too, so its numbers stay as they are"])
        return []
    return [File(MAIN_CONF, found.before, main.mode, main.owner, main.group)]


@host_operation
def daemon_restored(*, known: Callable[[], bool], stays: Callable[[], bool]) -> Commands:
    """Give daemon.json the values that it had before us; keys that others have set stay.

    A running Docker reads some of them at once. It is not restarted: containers of others run on.

    :param known: whether it is known what there was before.
    :param stays: whether Docker does.
    """
    path = daemon_json.PATH
    found = look(Versions, paths=[path])[path]
    if not known() or found.now is None:
        return
    text = daemon_json.restored(found.now, found.before, found.deployed)
    if text == found.now:
        return
    differs(path, "has settings of ours")
    entry = Absent(path) if text is None else File(path, text)
    if not stays():
        yield change([entry])
        return
    leads_to("Docker reads its settings of before; those that it reads at its start, at the next")
    check = f"[ ! -e {path} ] || dockerd --validate --config-file {path}"
    yield change(
        [entry],
        validate=check,
        activate="! systemctl -q is-active docker.service ||"
        " systemctl kill --signal=HUP --kill-who=main docker.service",
    )
    kept = quote(f"{paths.BEFORE}/files{path}")
    # The owner and the mode of before as well.
    yield StringCommand(f"! cmp -s {kept} {path} || cp -a --remove-destination {kept} {path}")
