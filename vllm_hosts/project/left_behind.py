"""Hosts that were removed from an inventory, and still hold keys of its store."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from shlex import quote

from pyinfra.api.host import Host
from pyinfra.api.inventory import Inventory

from vllm_hosts.connect.addresses import machine
from vllm_hosts.keys.hosts import left_behind
from vllm_hosts.keys.store_content import Content, DeployedHost
from vllm_hosts.project.inventory import LEFT, deployed
from vllm_hosts.project.layers import layers_of
from vllm_hosts.text import clean

#: How a host is reached, in pyinfra's names. No passwords; what an inventory does not say, such as
#: an option of pyinfra's command, is not remembered either.
_WAY = (
    "ssh_hostname",
    "ssh_port",
    "ssh_user",
    "ssh_key",
    "ssh_config_file",
    "ssh_known_hosts_file",
    "ssh_strict_host_key_checking",
    "ssh_allow_agent",
    "ssh_look_for_keys",
    "ssh_forward_agent",
    "_sudo",
    "_sudo_user",
    "_use_sudo_login",
    "_su_user",
    "_dzdo",
    "_dzdo_user",
)


def way_to(host: Host, agents: Iterable[str], *, behind: bool = False) -> DeployedHost:
    """What a store remembers of a host."""
    merged = {
        name: value
        for layer in layers_of(host)
        if layer.source != "--data"
        for name, value in layer.data.items()
    }
    data = {
        name: str(merged[name]) if isinstance(merged[name], Path) else merged[name]
        for name in _WAY
        if isinstance(merged.get(name), bool | int | str | Path)
    }
    return DeployedHost(data=data, agents=tuple(agents), behind=behind)


def of(content: Content | None, inventory: Inventory) -> list[str]:
    """Names of hosts that have the store's keys, and that the inventory does not deploy to."""
    if content is None:
        return []
    others = [host.name for host in inventory if LEFT not in host.groups]
    return left_behind(content, [host.name for host in deployed(inventory)], others)


def join(inventory: Inventory, content: Content) -> None:
    """Add those whose way is known to an inventory, in a group of their own.

    A store is data, and may be a colleague's: nothing in it but ways to hosts has a meaning.
    """
    known = {_machine(host.name, host.data.get) for host in deployed(inventory)}
    for name in of(content, inventory):
        # A machine that only has another name now is reached under that one.
        if name not in content.hosts or _machine(name, content.hosts[name].data.get) in known:
            continue
        # Other names with an @ have pyinfra run programs here.
        if name.startswith("@") and name != "@local":
            continue
        data = {key: value for key, value in content.hosts[name].data.items() if key in _WAY}
        if there := inventory.hosts.get(name):
            # As a neighbour, which nothing is deployed to.
            there.groups.append(LEFT)
            inventory.groups[LEFT].append(there)
            continue
        # pyinfra's own reading of names such as @local.
        for host in Inventory(([(name, data)], {})):
            inventory.host_data[host.name] = data
            joined = Host(
                host.name, inventory=inventory, groups=[LEFT], connector_cls=host.connector_cls
            )
            inventory.hosts[host.name] = joined
            inventory.groups[LEFT].append(joined)


def _machine(name: str, get: Callable[[str], object]) -> tuple[str, str, int]:
    return machine(name, get("ssh_hostname"), get("ssh_port"))


def sentence(names: list[str], content: Content, inventory: Path) -> str:
    """What every command says of them."""
    one = len(names) == 1
    file = quote(str(inventory))
    unknown = [name for name in names if name not in content.hosts]
    if unknown == names:
        reach = "how to reach them is not recorded: put them back for a deploy"
    else:
        reach = "keys.py still reaches them"
        if unknown:
            reach += f" (but not {', '.join(unknown)}: put it back for a deploy)"
    if one:
        reach = reach.replace("them", "it")
    what = quote(names[0]) if one else "HOST"
    return clean(
        f"{', '.join(names)} {'is' if one else 'are'} no longer in {inventory}, and still"
        f" {'accepts' if one else 'accept'} the keys of {'its' if one else 'their'} last deploy:"
        f" {reach}, until you run: vllm-hosts hosts release {file} {what}"
    )
