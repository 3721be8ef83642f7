"""One host's settings: from the layers of an inventory's data to one validated value."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pyinfra.api.arguments import all_global_arguments
from pyinfra.api.connectors import get_all_connectors
from pyinfra.api.host import Host

from vllm_hosts.connect import addresses, sudo
from vllm_hosts.errors import SettingsError
from vllm_hosts.project.site import from_site, site
from vllm_hosts.settings import HostSettings
from vllm_hosts.settings.host import OF_A_GATEWAY
from vllm_hosts.settings.problems import sentences
from vllm_hosts.text import quoted

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
    "gateway",
    "mirror",
    "rolling",
)
SETTINGS = ("agents", *SECTIONS)
#: What one run of remove.py is told: given with ``--data``, and never kept in a file.
OF_A_RUN = ("remove_models",)


@dataclass(frozen=True)
class Layer:
    """Data of one origin. ``source`` is what a user edits to change it."""

    source: str
    data: Mapping[str, Any]


def host_settings(host: Host, *, gateway: bool = False) -> HostSettings:
    """One host's settings from all layers.

    :param gateway: it is one and nothing else, and runs no agents; those of others are added later.
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
            elif name in OF_A_RUN:
                found += _of_a_run(layer, name, value)
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
    if gateway:
        found += _agents_of_a_gateway(layers) if merged.pop("agents", None) else ()
        merged["agents"] = []
    if "agents" not in merged:
        found.append(addresses.group_problem(host, site(host.inventory)))
        raise SettingsError(found)
    merged = from_site(merged, site(host.inventory))
    try:
        settings = HostSettings.model_validate(
            {**merged, "name": host.name, "address": address},
            context=OF_A_GATEWAY if gateway else None,
        )
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


def _agents_of_a_gateway(layers: list[Layer]) -> Iterator[str]:
    """Why a host that is a gateway and nothing else has agents."""
    yield (
        f"{_source(layers, 'agents', None)}: agents are set for a host of the group gateways, which"
        " runs none unless it is in gpu_hosts as well; set them in group_data/gpu_hosts.py, for the"
        " hosts of that group"
    )


def _of_a_run(layer: Layer, name: str, value: object) -> Iterator[str]:
    """What is wrong with something that a run is told."""
    if layer.source != "--data":
        yield (
            f"{layer.source}: {name} is for one run of remove.py; take it out here, and give it"
            f" there: --data {name}=true"
        )
    elif not isinstance(value, bool):
        yield f"--data: {name} is {value!r}; give it as --data {name}=true or {name}=false"


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
        if name in layer.data and (key is None or not isinstance(value, Mapping) or key in value):
            return layer.source
    return layers[0].source


@cache
def _connector_names() -> frozenset[str]:
    return frozenset(
        name
        for connector in get_all_connectors().values()
        for name in getattr(getattr(connector, "data_cls", None), "__annotations__", {})
    )


@cache
def _argument_names() -> frozenset[str]:
    """pyinfra's global arguments, such as ``_sudo``."""
    return frozenset(name for name, _ in all_global_arguments())


def _unknown(name: object, layer: Layer) -> str | None:
    """Why a name is no setting. Names for pyinfra (``_sudo``, ``ssh_user``) and ``x_`` are fine."""
    if not isinstance(name, str):
        return f"{layer.source}: {quoted(name)} is no name of a setting; write it as text in quotes"
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
