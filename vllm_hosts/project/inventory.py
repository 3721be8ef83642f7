"""From a pyinfra inventory to validated settings of every host, without connecting to any."""

from __future__ import annotations

import difflib
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pyinfra.api.arguments import all_global_arguments
from pyinfra.api.connectors import get_all_connectors
from pyinfra.api.host import Host
from pyinfra.api.inventory import Inventory
from pyinfra.api.state import State
from pyinfra.context import ctx_state
from pyinfra_cli.inventory import make_inventory

from vllm_hosts.connect import addresses, sudo
from vllm_hosts.errors import SettingsError
from vllm_hosts.hub.local import local_model
from vllm_hosts.keys.pki import utc_now
from vllm_hosts.keys.provided import check_ca_file, check_files
from vllm_hosts.keys.sources import problems
from vllm_hosts.project.site import belongs_to, from_site, import_from, site
from vllm_hosts.settings import HostSettings
from vllm_hosts.settings.problems import sentences

#: Settings that are groups of settings: they merge name by name over the layers.
SECTIONS = (
    "docker",
    "nvidia",
    "firewall",
    "ssh_hardening",
    "secrets",
    "hub",
    "vllm",
    "capacity",
    "tls",
    "edge",
)
SETTINGS = ("agents", *SECTIONS)


#: Hosts of this group are never deployed to: they only scan the others from outside.
NEIGHBOURS = "neighbours"
#: Hosts of this group are in no inventory any more, and their store still remembers them.
LEFT = "left-behind"


@dataclass(frozen=True)
class Layer:
    """Data of one origin. ``source`` is what a user edits to change it."""

    source: str
    data: Mapping[str, Any]


def load(path: Path) -> Inventory:
    """Load an inventory file with its group data, as pyinfra's own command does.

    :raises SettingsError: there is no such file, it cannot be executed, or it has no hosts.
    """
    _require_file(path)
    try:
        # pyinfra's own command has its context by now.
        with ctx_state.use(State()):
            inventory: Inventory = make_inventory(str(path), cwd=import_from(path))
    except Exception as error:
        raise SettingsError([load_problem(path, error)]) from error
    belongs_to(inventory, path)
    require_hosts(path, inventory)
    return inventory


def _require_file(path: Path) -> None:
    if not path.is_file():
        raise SettingsError([f"{path} is not a file; name an inventory such as inventory/prod.py"])


def require_hosts(path: Path, inventory: Inventory) -> None:
    """pyinfra does nothing where there is no host to do it on, and ends well.

    :raises SettingsError: it has none, such as of a file that is not there.
    """
    if deployed(inventory):
        return
    _require_file(path)
    raise SettingsError([f"{path} has no hosts; add one to the group gpu_hosts"])


def load_problem(path: Path, error: Exception) -> str:
    """Where Python stopped, and why; the file may be the inventory or one in group_data."""
    cause = getattr(error, "exception", error)
    if isinstance(cause, SyntaxError):
        return f"{cause.filename or path}, line {cause.lineno}: {cause.msg}"
    steps = traceback.extract_tb(cause.__traceback__)
    lines = [step for step in steps if step.name == "<module>" and "pyinfra" not in step.filename]
    where = f"{lines[-1].filename}, line {lines[-1].lineno}" if lines else str(path)
    return f"{where}: cannot be loaded: {type(cause).__name__}: {cause}"


def deployed(inventory: Inventory) -> list[Host]:
    """The hosts that are deployed to: all but neighbours, and those that were taken out."""
    return [host for host in inventory if not {NEIGHBOURS, LEFT} & set(host.groups)]


def neighbours(inventory: Inventory) -> list[str]:
    """Names of the hosts that scan the others from outside, and are never changed."""
    return [host.name for host in inventory if NEIGHBOURS in host.groups]


def validate(inventory: Inventory) -> dict[str, HostSettings]:
    """Settings by host name.

    :raises SettingsError: with every problem of every host, each sentence once.
    """
    settings: dict[str, HostSettings] = {}
    where: dict[str, list[str]] = {}
    for host in deployed(inventory):
        try:
            settings[host.name] = host_settings(host)
            found = list(_outside(settings[host.name]))
        except SettingsError as error:
            found = error.problems
        for problem in found:
            where.setdefault(problem, []).append(host.name)
    for problem in addresses.twice(deployed(inventory)):
        where.setdefault(problem, [])
    if where:
        total = len(deployed(inventory))
        raise SettingsError([problem + _on(hosts, total) for problem, hosts in where.items()])
    return settings


def host_settings(host: Host) -> HostSettings:
    """One host's settings from all layers.

    :raises SettingsError: with every problem of this host.
    """
    layers = list(layers_of(host))
    merged: dict[str, Any] = {}
    found: list[str] = []
    for layer in layers:
        for name, value in layer.data.items():
            if name in SECTIONS and isinstance(value, Mapping):
                merged[name] = {**merged.get(name, {}), **value}
            elif name in SETTINGS:
                merged[name] = value
            elif name in sudo.PYINFRA_S_OWN:
                found += [f"{layer.source}: {sudo.refusal(name)}"] if value else []
            elif unknown := _unknown(name, layer):
                found.append(unknown)
    found += addresses.problems(host) if not host.name.startswith("@") else ()
    address, problem = addresses.address(host, merged.get("edge"))
    found += [problem] if problem else []
    if address.startswith("@"):
        # pyinfra's names of connectors, such as @local, are nothing that a client could ask.
        found.append(
            f"the inventory: {host.name!r} has no address that clients can use;"
            f' write ({host.name!r}, {{"ssh_hostname": "192.0.2.7"}}) with its own'
        )
        raise SettingsError(found)
    if "agents" not in merged:
        found.append(addresses.group_problem(host, site(host.inventory)))
        raise SettingsError(found)
    merged = from_site(merged, site(host.inventory))
    try:
        settings = HostSettings.model_validate({**merged, "name": host.name, "address": address})
    except ValidationError as error:
        found += sentences(error, lambda name, key: _source(layers, name, key))
    else:
        if host.name == "@local" and settings.ssh_hardening.enabled:
            found.append(
                f"{_source(layers, 'ssh_hardening', 'enabled')}: ssh_hardening.enabled needs a"
                " login over SSH with a key that was seen to work, and @local has none; enter this"
                " machine by its address, with ssh_user and ssh_key, or leave ssh_hardening out for"
                " it"
            )
    if found:
        raise SettingsError(found)
    return settings


def layers_of(host: Host) -> Iterator[Layer]:
    """From the weakest to the strongest, in pyinfra's own order."""
    inventory = host.inventory
    there = site(inventory)
    # As the reader's editor finds them.
    data = "group_data" if there == Path.cwd() else f"{there}/group_data"
    yield Layer(f"{data}/all.py", inventory.get_data())
    for group in host.groups:
        yield Layer(f"{data}/{group}.py", inventory.get_group_data(group))
    yield Layer("the inventory", inventory.get_host_data(host.name))
    yield Layer("--data", inventory.get_override_data())


def _source(layers: list[Layer], name: str, key: str | None) -> str:
    """Which layer a value came from: the strongest that has it."""
    for layer in reversed(layers):
        value = layer.data.get(name)
        if value is not None and (key is None or not isinstance(value, Mapping) or key in value):
            return layer.source
    return layers[0].source


def _connector_names() -> set[str]:
    return {
        name
        for connector in get_all_connectors().values()
        for name in getattr(getattr(connector, "data_cls", None), "__annotations__", {})
    }


def _argument_names() -> set[str]:
    """pyinfra's global arguments, such as ``_sudo``."""
    return {name for name, _ in all_global_arguments()}


def _unknown(name: str, layer: Layer) -> str | None:
    """Why a name is no setting. Names for pyinfra (``_sudo``, ``ssh_user``) and ``x_`` are fine."""
    pyinfra_s = _connector_names() | _argument_names()
    if name.startswith("x_") or name in pyinfra_s:
        return None
    if name.startswith("_"):
        # Somebody's own, unless it is nearly one of pyinfra's.
        close = difflib.get_close_matches(name, pyinfra_s, n=1, cutoff=0.8)
        return f"{layer.source}: unknown {name!r}; did you mean {close[0]!r}?" if close else None
    if f"_{name}" in pyinfra_s:
        close = [f"_{name}"]
    else:
        close = difflib.get_close_matches(name, [*SETTINGS, *sorted(pyinfra_s)], n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"there is {', '.join(SETTINGS)}"
    return f"{layer.source}: unknown setting {name!r}; {hint} (data of your own: start it with x_)"


def _outside(settings: HostSettings) -> Iterator[str]:
    """Problems with what settings point at on the controller."""
    yield from problems(settings)
    for agent in settings.agents:
        if agent.copy_from:
            try:
                local_model(agent.copy_from, allow_pickle=agent.allow_pickle)
            except SettingsError as error:
                yield from error.problems
    tls = settings.tls
    if tls.mode == "files" and tls.certificate and tls.key:
        yield from check_files(tls.certificate, tls.key, settings.edge_names, utc_now())
        if tls.ca_file:
            yield from check_ca_file(tls.ca_file)


def _on(hosts: list[str], total: int) -> str:
    if not hosts or (len(hosts) == total and total > 1):
        return ""
    shown = ", ".join(hosts[:3])
    more = f" and {len(hosts) - 3} more" if len(hosts) > 3 else ""
    return f" (on {shown}{more})"
