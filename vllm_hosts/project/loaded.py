"""A project, loaded once: what a command or a run passes on in the place of a path."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType

from pyinfra.api.inventory import Inventory

from vllm_hosts.keys import HostKeys, KeyStore, OpenedStore
from vllm_hosts.keys.ownership import Claim
from vllm_hosts.keys.store_content import Content
from vllm_hosts.project import left_behind
from vllm_hosts.project.inventory import deployed, gateways, load, neighbours, validate
from vllm_hosts.settings import HostSettings


@dataclass(frozen=True, eq=False)
class Project:
    """An inventory with its settings and keys, as one command or run sees them.

    The inventory is executed before there is one of these. Settings are validated, and the store
    is opened, once, when they are first asked for: some commands need neither.

    :param file: the inventory's path as it was typed, for what is printed.
    """

    file: Path
    inventory: Inventory
    store: KeyStore

    @classmethod
    def load(cls, file: Path, store: KeyStore | None = None) -> Project:
        """Execute an inventory and its group data.

        :param store: where it is open already, or an identity opens it.
        :raises SettingsError: as ``inventory.load``.
        """
        return cls(file, load(file), store or KeyStore(file))

    @cached_property
    def settings(self) -> Mapping[str, HostSettings]:
        """Validated settings by host name, in the inventory's order.

        :raises SettingsError: with every problem of every host.
        """
        return MappingProxyType(validate(self.inventory))

    @cached_property
    def on_hosts(self) -> Mapping[str, int]:
        """By the name that clients use, how many hosts have agents of a model."""
        return Counter(
            model
            for one in self.settings.values()
            if one.runs_agents
            for model in {agent.client_model_name for agent in one.agents}
        )

    @cached_property
    def hosts(self) -> tuple[str, ...]:
        """Names of the hosts that are deployed to, whether or not their settings are valid."""
        return tuple(host.name for host in deployed(self.inventory))

    @cached_property
    def gateways(self) -> tuple[str, ...]:
        """Names of the gateways, whether or not settings are valid; empty: there are none."""
        return tuple(gateways(self.inventory))

    @property
    def edges(self) -> tuple[str, ...]:
        """Names of the hosts that clients use, and that take their keys."""
        return self.gateways or self.hosts

    @cached_property
    def neighbours(self) -> tuple[str, ...]:
        """Names of the hosts that scan the others from outside, and are never changed."""
        return tuple(neighbours(self.inventory))

    @cached_property
    def opened(self) -> OpenedStore:
        """The store, and in memory what a run adds to it.

        :raises SettingsError: as ``KeyStore.read``, but where there is no store.
        """
        return OpenedStore(self.store)

    @cached_property
    def keys(self) -> Mapping[str, HostKeys]:
        """Secrets by host name, of hosts that are deployed to; each source of one is read once.

        :raises SettingsError: one gives nothing usable.
        """
        return MappingProxyType(
            {name: self.opened.host_keys(one) for name, one in self.settings.items()}
        )

    def left(self, content: Content | None) -> list[str]:
        """Hosts that have the store's keys, and that are not deployed to any more."""
        return left_behind.of(content, self.inventory)

    def claim(self, name: str) -> Claim:
        """The inventory's claim on one of its hosts."""
        settings = self.settings[name]
        given = settings.secrets
        return Claim(
            name,
            self.file,
            self.opened,
            left_behind.way_to(
                self.inventory.get_host(name),
                [agent.name for agent in settings.edge_side.agents],
                behind=settings.behind_gateways and not settings.is_gateway,
            ),
            settings.vllm.directory,
            settings.runs_agents
            and given.internal_key_env is None
            and given.internal_key_command is None,
        )
