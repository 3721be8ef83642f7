"""One inventory's claim on a host: whether the host is its store's, and what to do if it is not."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from shlex import quote

from vllm_hosts.host.files import File
from vllm_hosts.host.paths import STORE_MARK
from vllm_hosts.keys import OpenedStore
from vllm_hosts.keys.beside import inventory_of, moved, named_beside, shown, stores_beside
from vllm_hosts.keys.model import DeployedHost
from vllm_hosts.keys.store import KeyStore
from vllm_hosts.keys.store_marks import Mark, Marked, Signs, Whose, digests, whose
from vllm_hosts.keys.store_marks import inventory_of as inventory_named


@dataclass(frozen=True)
class Claim:
    """A host of an inventory.

    :param way: how it is reached, and what it has; the store remembers that.
    :param directory: ``vllm.directory``, which has the agents' keys.
    :param own_keys: whether the agents' keys come from the store, and so tell whose they are.
    """

    host: str
    inventory: Path
    opened: OpenedStore
    way: DeployedHost
    directory: str = "/opt/vllm"
    own_keys: bool = True

    @cached_property
    def signs(self) -> Signs:
        """What tells that the host belongs to this store."""
        agents = self.way.agents if self.own_keys else ()
        return Signs(
            self.opened.store_id,
            digests(self.opened.content, self.host, agents),
            self.opened.store.ca_certificate(),
        )

    @property
    def mark(self) -> Mark:
        """What the host is to have."""
        return Mark(self.opened.store_id, self.opened.store.name)

    @property
    def file(self) -> File:
        """The mark as a file."""
        return File(STORE_MARK, self.mark.text().encode())

    def kept(self) -> bool:
        """Whether the store knows all of this."""
        return self.opened.kept(self.host, self.way)

    def keep(self) -> None:
        """Have the store know all of this.

        :raises SettingsError: it cannot be written.
        """
        self.opened.keep(self.host, self.way)

    def judge(self, found: Marked) -> Whose:
        """Whose the host is."""
        return whose(found, self.signs)

    def must_wait(self) -> str | None:
        """Why a host that is nobody's does not become ours now; None: it may.

        A renamed inventory may have a new host as well: a store that was made for it would be in
        the way of the one that has to be moved along.
        """
        if not (self.opened.new and self.opened.anothers):
            return None
        others = ", ".join(sorted(self.opened.anothers))
        return (
            "left alone, since this inventory has no store of keys yet, and another one's has"
            f" {others}: do what is said of it first, or take it out of the inventory"
        )

    def refusal(self, found: Marked, *, listed: bool = True) -> str:
        """Why this inventory leaves the host alone, with the ways out.

        :param listed: whether the host is in the inventory; else only its store remembers it.
        """
        if self.judge(found) is Whose.UNREADABLE:
            return (
                f"{STORE_MARK} does not say whose keys this host has; move it away there"
                f" (mv {STORE_MARK} {STORE_MARK}.unreadable) to have the keys themselves compared"
            )
        name = inventory_named(found)
        other = self._owner(found)
        # Of a store that nobody here can open, the host's word is all there is.
        said = None if other else named_beside(self.opened.store, name or "")
        file = shown(self.inventory)
        if not listed:
            called = repr(name) if name else "without a name"
            return (
                f"this host belongs to another inventory now ({called}); let it"
                f" go here: vllm-hosts hosts release {file} {quote(self.host)}"
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
        has = (
            "has" if other else "says, and nobody here can open that store to compare, that it has"
        )
        why = (
            f"this host {has} the keys and the CA of {shown(inventory)}, and {file} would give it"
            " others"
        )
        if self.opened.content.hosts:
            return f"{why}: take it out of one of the two inventories, {adopt}"
        move = moved(theirs, self.opened.store)
        if not inventory.exists():
            return f"{why}: if the inventory was renamed, move its store along: {move}; {adopt}"
        # No word of a host has a store moved that its inventory needs.
        renamed = f"; if that was renamed, {move}" if other else ""
        return f"{why}: deploy it with {shown(inventory)}{renamed}; {adopt}"

    def _owner(self, found: Marked) -> KeyStore | None:
        """The store beside this one's that the host belongs to, if it can be opened here."""
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
