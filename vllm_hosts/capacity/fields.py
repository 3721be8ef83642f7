"""Reading a config.json: what is missing is said in one sentence, never filled in silently."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vllm_hosts.text import clean

#: More than any model has: what is above is an error or a trap, since the plan goes through layers
#: one by one and multiplies the rest.
LAYERS = 2000
_MOST = {
    "num_hidden_layers": LAYERS,
    "num_nextn_predict_layers": LAYERS,
    "num_attention_heads": 100_000,
    "num_key_value_heads": 100_000,
}
_MOST_OF_ALL = 10**9


class UnplannableError(Exception):
    """Why a model or an agent cannot be planned: one sentence. Never a reason to guess.

    It may quote a model's files, and is safe to show.
    """

    def __init__(self, sentence: str) -> None:
        super().__init__(clean(sentence, 600))


@dataclass(frozen=True)
class Fields:
    """A model's configuration; of a model that also sees images, the part about text.

    ``defaults`` are what the family's own code takes where a file leaves a name out.
    """

    model: str
    data: Mapping[str, Any]
    defaults: Mapping[str, int]

    def number(self, name: str, default: int | None = None) -> int:
        """A whole number above zero, and no larger than a model can have.

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
                f"the config.json of {self.model} has {name} = {value!r}, which is not a number"
                " above zero"
            )
        if value > (most := _MOST.get(name, _MOST_OF_ALL)):
            raise UnplannableError(
                f"the config.json of {self.model} has {name} = {value}, and no more than {most}"
                " can be planned"
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
        """A list with an item for some layers, or all; missing or null: empty.

        :raises UnplannableError: it has more than there can be layers.
        """
        value = self.data.get(name)
        if not isinstance(value, list):
            return []
        if len(value) > LAYERS:
            raise UnplannableError(
                f"the config.json of {self.model} has {len(value)} items in {name}, and no more"
                f" than {LAYERS} can be planned"
            )
        return list(value)

    def group(self, name: str) -> Mapping[str, Any]:
        """A group of names; missing or null: empty."""
        value = self.data.get(name)
        return value if isinstance(value, Mapping) else {}
