"""An inventory's claim on a host: whether the host is its store's, and what to do if not."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from shlex import quote

from vllm_hosts.host.files import File
from vllm_hosts.host.paths import STORE_MARK
from vllm_hosts.keys import OpenedStore
from vllm_hosts.keys.beside import inventory_of, moved, named_beside, shown, stores_beside
from vllm_hosts.keys.store import KeyStore
from vllm_hosts.keys.store_content import DeployedHost
from vllm_hosts.keys.store_marks import Mark, Marked, Signs, Whose, digests, whose
from vllm_hosts.keys.store_marks import inventory_of as inventory_named


@dataclass(frozen=True)
class Claim:
    """A host of an inventory.

    :param way: how it is reached, and what it has, which the store records.
    :param directory: ``vllm.directory``, which has the agents' keys.
    :param own_keys: whether the agents' keys come from the store, so that they identify it.
    """

    host: str
    inventory: Path
    opened: OpenedStore
    way: DeployedHost
    directory: str = "/opt/vllm"
    own_keys: bool = True

    @cached_property
    def signs(self) -> Signs:
        """What identifies a host of this store."""
        agents = self.way.agents if self.own_keys else ()
        return Signs(
            self.opened.store_id,
            digests(self.opened.content, self.host, agents),
            self.opened.store.ca_certificate(),
        )

    @property
    def mark(self) -> Mark:
        """The mark that the host should have."""
        return Mark(self.opened.store_id, self.opened.store.name)

    @property
    def file(self) -> File:
        """The mark as a file."""
        return File(STORE_MARK, self.mark.text().encode())

    def kept(self) -> bool:
        """Whether the store has recorded the host as it is."""
        return self.opened.kept(self.host, self.way)

    def keep(self) -> None:
        """Record the host in the store.

        :raises SettingsError: it cannot be written.
        """
        self.opened.keep(self.host, self.way)

    def judge(self, found: Marked) -> Whose:
        """Whose host it is."""
        return whose(found, self.signs)

    def has_keys(self, found: Marked) -> bool:
        """Whether .env has keys of the host's agents, where it has no mark."""
        return bool(found.own & self.signs.digests)

    def must_wait(self) -> str | None:
        """Why a host that is nobody's cannot become ours now; None: it can.

        A renamed inventory may have a new host too: a store created for it would be in the way of
        the old one, which has to be moved.
        """
        if not (self.opened.new and self.opened.anothers):
            return None
        others = ", ".join(sorted(self.opened.anothers))
        return (
            f"left alone, since this inventory has no key store yet, and {others} belongs to"
            " another one: do what is reported there first, or take it out of the inventory"
        )

    def refusal(self, found: Marked, *, listed: bool = True) -> str:
        """Why this inventory refuses the host, with the ways out.

        :param listed: whether the host is in the inventory; else only its store has it.
        """
        if self.judge(found) is Whose.UNREADABLE:
            return (
                f"{STORE_MARK} is not readable as a record of this host's store; move it away"
                f" there (mv {STORE_MARK} {STORE_MARK}.unreadable) to have the keys themselves"
                " compared"
            )
        name = inventory_named(found)
        other = self._owner(found)
        # About a store that cannot be opened here, we only have the host's own statement.
        said = None if other else named_beside(self.opened.store, name or "")
        file = shown(self.inventory)
        if not listed:
            called = repr(name) if name else "without a name"
            return (
                f"this host belongs to another inventory now ({called}); release it here:"
                f" vllm-hosts hosts release {file} {quote(self.host)}"
            )
        adopt = (
            f"or give the host to {file} on purpose, after which every client of it needs a new"
            f" key and the new CA: vllm-hosts hosts adopt {file} {quote(self.host)}"
        )
        theirs = other or said
        if theirs is None:
            called = f"the inventory {name!r}" if name else "another inventory"
            where = f"bring that store here as {shown(self.opened.folder)}"
            if self.opened.content.hosts:
                where = f"take it out of {file}"
            return (
                f"this host has the keys and the CA of {called}, whose store is not here, and"
                f" {file} would give it others: {where} (see docs/inventories.md), {adopt}"
            )
        inventory = inventory_of(theirs)
        has = "has" if other else "claims to have (that store cannot be decrypted here to compare)"
        why = (
            f"this host {has} the keys and the CA of {shown(inventory)}, and {file} would give it"
            " others"
        )
        if self.opened.content.hosts:
            return f"{why}: take it out of one of the two inventories, {adopt}"
        move = moved(theirs, self.opened.store)
        if not inventory.exists():
            return f"{why}: if the inventory was renamed, move its store along: {move}; {adopt}"
        # Whatever a host states, no store is moved that its inventory needs.
        renamed = f"; if that was renamed, {move}" if other else ""
        return f"{why}: deploy it with {shown(inventory)}{renamed}; {adopt}"

    def _owner(self, found: Marked) -> KeyStore | None:
        """The store in this one's folder that the host belongs to, if it can be opened here."""
        for other, content in stores_beside(self.opened.store):
            assert content.id is not None
            signs = Signs(
                content.id,
                digests(content, self.host, self.way.agents),
                other.ca_certificate(),
            )
            if whose(found, signs) is Whose.OURS:
                return other
        return None
