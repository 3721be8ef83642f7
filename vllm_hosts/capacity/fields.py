"""Reading a config.json: what is missing is said in one sentence, never filled in silently."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


class UnplannableError(Exception):
    """Why a model or an agent cannot be planned: one sentence. Never a reason to guess."""


@dataclass(frozen=True)
class Fields:
    """A model's configuration; of a model that also sees images, the part about text.

    ``defaults`` are what the family's own code takes where a file leaves a name out.
    """

    model: str
    data: Mapping[str, Any]
    defaults: Mapping[str, int]

    def number(self, name: str, default: int | None = None) -> int:
        """A whole number above zero.

        :raises UnplannableError: it is missing and has no default, or is something else.
        """
        value = self.data.get(name)
        if value is None:
            value = self.defaults.get(name, default)
        if value is None:
            raise UnplannableError(
                f"the config.json of {self.model} has no {name}, without which it cannot be planned"
            )
        if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
            raise UnplannableError(
                f"the config.json of {self.model} has {name} = {value!r}, which is no number"
                " above zero"
            )
        return value

    def optional(self, name: str) -> int | None:
        """A whole number above zero, or None where the name is missing, null or 0."""
        return None if self.data.get(name) in (None, 0, False) else self.number(name)

    def flag(self, name: str, default: bool = False) -> bool:
        """True or false; null counts as missing."""
        value = self.data.get(name)
        return default if value is None else bool(value)

    def items(self, name: str) -> list[Any]:
        """A list; missing or null: empty."""
        value = self.data.get(name)
        return list(value) if isinstance(value, list) else []

    def group(self, name: str) -> Mapping[str, Any]:
        """A group of names; missing or null: empty."""
        value = self.data.get(name)
        return value if isinstance(value, Mapping) else {}
