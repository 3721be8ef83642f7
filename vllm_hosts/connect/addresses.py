"""Names of hosts in an inventory: whether they are addresses, and of which machine."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from pyinfra.api.host import Host
from pyinfra.connectors.sshuserclient.client import get_ssh_config

from vllm_hosts.errors import SettingsError
from vllm_hosts.text import quoted

_NAME = re.compile(
    r"(?i)[a-z0-9]([a-z0-9_-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9_-]*[a-z0-9])?)*\.?|[0-9a-f:]*:[0-9a-f:.]+"
)
#: Forms that the ssh command would accept: ssh://user@host:port, with parts left out.
_WHOLE = re.compile(
    r"(?:ssh://)?(?:(?P<user>[^@\s]+)@)?(?P<host>\[[0-9A-Fa-f:.]+\]|[^@:\s/\[\]]+)"
    r"(?::(?P<port>\d+))?/?"
)


#: Never shown, not even where it is wrong.
_SECRET = ("ssh_key_password", "ssh_password")
#: What pyinfra takes as text.
_TEXTS: tuple[str, ...] = (
    *("ssh_hostname", "ssh_user", "ssh_key", "ssh_config_file", "ssh_known_hosts_file"),
    *_SECRET,
)


def problems(host: Host) -> Iterator[str]:
    """Why a host's name, or what its data says of the way there, leads nowhere."""
    for name in _TEXTS:
        value = host.data.get(name)
        text = isinstance(value, str | PathLike) and (name in _SECRET or str(value).isprintable())
        if value is not None and not text:
            shown = "not text" if name in _SECRET else quoted(value)
            yield f"the inventory: {name} of {host.name!r} is {shown}; write it as text in quotes"
    if port_of(port := host.data.get("ssh_port")) is None:
        yield (
            f"the inventory: ssh_port of {host.name!r} is {quoted(port)}; write a number from 1 to"
            " 65535"
        )
    hostname = host.data.get("ssh_hostname")
    kind = "is not a DNS name or an IP address"
    if isinstance(hostname, str) and hostname and not _NAME.fullmatch(hostname):
        instead = _instead(host.name, hostname)
        yield f"the inventory: ssh_hostname {hostname!r} of {host.name!r} {kind}{instead}"
    elif not hostname and not _NAME.fullmatch(host.name):
        yield f"the inventory: {host.name!r} {kind}{_instead(None, host.name)}"


def _instead(name: str | None, written: str) -> str:
    """How to write the same for pyinfra."""
    match = _WHOLE.fullmatch(written.strip())
    if match is None:
        return "; give its address as ssh_hostname"
    bare, data = match["host"].strip("[]"), {}
    if not _NAME.fullmatch(bare):
        return "; give its address as ssh_hostname"
    if name is not None:
        data["ssh_hostname"] = repr(bare)
    if match["user"]:
        data["ssh_user"] = repr(match["user"])
    if match["port"]:
        data["ssh_port"] = match["port"]
    inner = ", ".join(f'"{key}": {value}' for key, value in data.items())
    shown = name or bare
    return f"; write ({shown!r}, {{{inner}}})" if data else f"; write {shown!r}"


def ssh_entry(host: Host) -> Mapping[str, Any]:
    """The entry for a host in the user's SSH configuration, if its name is an alias there.

    Empty: there is none, or the name has a dot, so that clients are assumed to know it too.

    :raises SettingsError: it cannot be read.
    """
    named = _named(host)
    if "." in named or ":" in named:
        return {}
    file = host.data.get("ssh_config_file")
    if not isinstance(file, str | PathLike):
        file = None
    try:
        config = get_ssh_config(str(Path(file).expanduser()) if file else None)
        found = config.lookup(named) if config else {}
    except Exception as error:
        # Whatever the parser raises, pyinfra would fail with it when it connects.
        name = file or "~/.ssh/config"
        raise SettingsError(
            [f"the SSH configuration {name} cannot be read: {error or repr(error)}; correct it"]
        ) from error
    ways = ("proxyjump", "proxycommand")
    if found.get("hostname", named) == named and not any(way in found for way in ways):
        return {}
    return dict(found)


def address(host: Host, edge: object) -> tuple[str, str | None]:
    """The address that clients, and checks of the edge, connect to; or why it is not known.

    :param edge: the section `edge` of the settings, as it was written.
    """
    named = _named(host)
    entry = ssh_entry(host)
    if not entry:
        return named, None
    names = edge.get("names") if isinstance(edge, Mapping) else None
    real = str(entry.get("hostname") or named)
    if names:
        return (real if real != named else str(next(iter(names)))), None
    shown = real if real != named else f"{named}.example.com"
    how = f"HostName {real}" if real != named else "ProxyJump"
    return named, (
        f"the inventory: {named!r} is a name of your SSH configuration only ({how}), which clients"
        f' do not have; add to its data what clients use: "edge": {{"names": ["{shown}"]}}'
    )


def _named(host: Host) -> str:
    """What a host is called on the network; one that is no text is refused on its own."""
    named = host.data.get("ssh_hostname")
    return named if isinstance(named, str) and named else host.name


def machine(name: str, ssh_hostname: object, ssh_port: object) -> tuple[str, str, int]:
    """A value that two names of one machine have in common."""
    hostname = ssh_hostname if isinstance(ssh_hostname, str) else ""
    named = (hostname or name).lower().rstrip(".")
    # A port that is none is refused on its own.
    return (name if name.startswith("@") else "", named, port_of(ssh_port) or 22)


def port_of(value: object) -> int | None:
    """What stands as ``ssh_port``; None: no port."""
    if not value:
        return 22 if value is None or value == "" else None
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,5}", value):
        value = int(value)
    return value if type(value) is int and 0 < value < 65536 else None


def twice(hosts: Iterable[Host]) -> Iterator[str]:
    """Sentences about hosts of an inventory that are the same machine."""
    taken: dict[tuple[str, str, int], str] = {}
    for host in hosts:
        where = machine(host.name, host.data.get("ssh_hostname"), host.data.get("ssh_port"))
        named = _named(host)
        other = taken.setdefault(where, host.name)
        if other != host.name:
            yield (
                f"the inventory: {other!r} and {host.name!r} are the same machine, {named} port"
                f" {where[2]};"
                " leave one of them out, or correct its ssh_hostname"
            )


def group_problem(host: Host, site: Path) -> str:
    """The sentence about a host for which no agents are set.

    :param site: the folder where its group data should be.
    """
    groups = [group for group in host.groups if group != "all"]
    data = host.inventory.group_data
    having = sorted(group for group, values in data.items() if values and "agents" in values)
    usual = "gpu_hosts"
    if not having and not (site / "group_data").is_dir():
        return (
            f"agents is missing, and there is no group_data in {site}, where it belongs for this"
            " inventory: set agents in group_data/gpu_hosts.py there, or name the inventory of a"
            " site (vllm-hosts init makes one)"
        )
    if not having and (usual in groups or not groups):
        return "group_data/gpu_hosts.py: agents is missing; set it there, at least one agent"
    listed = f"in {_listed(groups)}" if groups else "in no group"
    known = f", and agents are set for {_listed(having)}" if having else ""
    close = difflib.get_close_matches(groups[0], having, n=1, cutoff=0.75) if groups else []
    better = close[0] if close else having[0] if len(having) == 1 else usual
    return (
        f"the inventory: no agents for a host that is {listed}{known}; every host but those of the"
        f" group neighbours is deployed to: move it to {better}, or keep it in another inventory"
    )


def _listed(groups: list[str]) -> str:
    return f"the group{'s' if len(groups) > 1 else ''} {', '.join(groups)}"
