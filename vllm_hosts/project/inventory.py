"""From a pyinfra inventory to validated settings of every host, without connecting to any."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from functools import cache, partial
from inspect import getfile
from pathlib import Path

import pyinfra
import pyinfra_cli
from pyinfra.api.host import Host
from pyinfra.api.inventory import Inventory
from pyinfra.api.state import State
from pyinfra.context import ctx_state
from pyinfra_cli.inventory import make_inventory

from vllm_hosts.connect import addresses
from vllm_hosts.errors import SettingsError
from vllm_hosts.hub.local import local_model
from vllm_hosts.keys.pki import utc_now
from vllm_hosts.keys.provided import check_ca_file, check_files
from vllm_hosts.keys.sources import problems
from vllm_hosts.project.ending import StoppedError
from vllm_hosts.project.layers import host_settings
from vllm_hosts.project.site import belongs_to, import_from
from vllm_hosts.settings import HostSettings
from vllm_hosts.settings.joined import contradictions, joined
from vllm_hosts.settings.mirrored import mirror_contradictions, with_mirror

#: Hosts of this group are never deployed to: they only scan the others from outside.
NEIGHBOURS = "neighbours"
#: Hosts of this group are the address of all others. They run agents where they are in the group of
#: GPU hosts as well.
GATEWAYS = "gateways"
#: The host of this group fetches image and models for all others.
MIRROR = "mirror"
_GPU_HOSTS = "gpu_hosts"
#: Where pyinfra's own files are; a user's folder may be called like it.
_PYINFRA_S = tuple(f"{Path(getfile(one)).parent}/" for one in (pyinfra, pyinfra_cli))
#: Hosts of this group are in no inventory any more, and their store still remembers them.
LEFT = "left-behind"


def load(path: Path) -> Inventory:
    """Load an inventory file with its group data, as pyinfra's own command does.

    :raises SettingsError: there is no such file, it cannot be executed, or it has no hosts.
    """
    require_file(path)
    try:
        # pyinfra's own command has its context by now.
        with ctx_state.use(State()):
            inventory: Inventory = make_inventory(str(path), cwd=import_from(path))
    except StoppedError:
        raise
    except (Exception, SystemExit) as error:
        raise SettingsError([load_problem(path, error)]) from error
    belongs_to(inventory, path)
    require_hosts(path, inventory)
    return inventory


def require_file(path: Path) -> None:
    """:raises SettingsError: there is no such file."""
    if not path.is_file():
        raise SettingsError([f"{path} is not a file; name an inventory such as inventory/prod.py"])


def require_hosts(path: Path, inventory: Inventory) -> None:
    """pyinfra does nothing where there is no host to do it on, and ends well.

    :raises SettingsError: it has none, such as of a file that is not there.
    """
    if deployed(inventory):
        return
    require_file(path)
    raise SettingsError([f"{path} has no hosts; add one to the group gpu_hosts"])


def load_problem(path: Path, error: BaseException) -> str:
    """Where Python stopped, and why; the file may be the inventory or one in group_data."""
    cause = getattr(error, "exception", error)
    if isinstance(cause, SyntaxError):
        return f"{cause.filename or path}, line {cause.lineno}: {cause.msg}"
    steps = traceback.extract_tb(cause.__traceback__)
    lines = [
        step
        for step in steps
        if step.name == "<module>" and not step.filename.startswith(_PYINFRA_S)
    ]
    where = f"{lines[-1].filename}, line {lines[-1].lineno}" if lines else str(path)
    return f"{where}: cannot be loaded: {type(cause).__name__}: {cause}"


def deployed(inventory: Inventory) -> list[Host]:
    """The hosts that are deployed to: all but neighbours, and those that were taken out."""
    return [host for host in inventory if not {NEIGHBOURS, LEFT} & set(host.groups)]


def neighbours(inventory: Inventory) -> list[str]:
    """Names of the hosts that scan the others from outside, and are never changed."""
    return [host.name for host in inventory if NEIGHBOURS in host.groups]


def gateways(inventory: Inventory) -> list[str]:
    """Names of the hosts through which clients reach all others; empty: each is an address."""
    return [host.name for host in deployed(inventory) if GATEWAYS in host.groups]


def mirrors(inventory: Inventory) -> list[str]:
    """Names of the hosts that fetch image and models for all others: one, or none."""
    return [host.name for host in deployed(inventory) if MIRROR in host.groups]


def validate(inventory: Inventory) -> dict[str, HostSettings]:
    """Settings by host name. With gateways, each host knows what it is in the whole inventory.

    :raises SettingsError: with every problem of every host, each sentence once.
    """
    settings: dict[str, HostSettings] = {}
    where: dict[str, list[str]] = {}
    hosts = deployed(inventory)
    outside = _Outside()
    for host in hosts:
        try:
            alone = GATEWAYS in host.groups and _GPU_HOSTS not in host.groups
            settings[host.name] = host_settings(host, gateway=alone)
            found = list(outside.problems(settings[host.name]))
        except SettingsError as error:
            found = error.problems
        for problem in found:
            where.setdefault(problem, []).append(host.name)
    for problem in (*addresses.twice(hosts), *_outside_as_well(inventory)):
        where.setdefault(problem, [])
    front, fetching = gateways(inventory), mirrors(inventory)
    if not where:
        # What several hosts say is compared only once each makes sense by itself.
        for problem, on in contradictions(settings, front):
            where.setdefault(problem, []).extend(on)
    known = joined(settings, front) if not where else {}
    if not where:
        for problem, on in mirror_contradictions(known, fetching):
            where.setdefault(problem, []).extend(on)
    if where:
        raise SettingsError([problem + _on(on, len(hosts)) for problem, on in where.items()])
    return with_mirror(known, fetching)


def _outside_as_well(inventory: Inventory) -> Iterator[str]:
    """Sentences about gateways, and a mirror, that are to look at the others from outside."""
    for host in inventory:
        for group in {GATEWAYS, MIRROR} & set(host.groups) if NEIGHBOURS in host.groups else ():
            yield (
                f"the inventory: {host.name!r} is in the groups {group} and {NEIGHBOURS}, and"
                " nothing is deployed to a neighbour, which scans the others from outside; leave it"
                " in one of them, and use another machine for the other"
            )


class _Outside:
    """What settings point at on the controller. What several hosts name is read once."""

    def __init__(self) -> None:
        self._folder = cache(_folder_problems)
        self._ca_file = cache(check_ca_file)
        self._files = cache(partial(check_files, now=utc_now()))

    def problems(self, settings: HostSettings) -> Iterator[str]:
        """What is wrong with it, one sentence each."""
        yield from problems(settings)
        for agent in settings.agents:
            if agent.copy_from:
                yield from self._folder(agent.copy_from, agent.allow_pickle)
        tls = settings.tls
        if tls.mode == "files" and tls.certificate and tls.key:
            yield from self._files(tls.certificate, tls.key, settings.edge_names)
            if tls.ca_file:
                yield from self._ca_file(tls.ca_file)


def _folder_problems(folder: str, allow_pickle: bool) -> list[str]:
    try:
        local_model(folder, allow_pickle=allow_pickle)
    except SettingsError as error:
        return error.problems
    return []


def _on(hosts: list[str], total: int) -> str:
    if not hosts or (len(hosts) == total and total > 1):
        return ""
    shown = ", ".join(hosts[:3])
    more = f" and {len(hosts) - 3} more" if len(hosts) > 3 else ""
    return f" (on {shown}{more})"
