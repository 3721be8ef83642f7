"""The section `rolling`: how many hosts change at the same time."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator, Field

from vllm_hosts.settings.types import Section
from vllm_hosts.text import quoted


def _some(batch: object) -> object:
    share = isinstance(batch, str) and re.fullmatch(r"([1-9][0-9]?|100)%", batch)
    if share or (type(batch) is int and 1 <= batch <= 100_000):
        return batch
    raise ValueError(
        f"{quoted(batch)} is no number of hosts; write 1 or more, or a share such as '25%'"
    )


Batch = Annotated[int | str, BeforeValidator(_some)]


class Rolling(Section):
    """How a run goes over hosts that serve the same model."""

    batch: Batch = Field(
        1,
        description="How many hosts that serve the same model change their agents at the same time:"
        " a number, or a share such as `25%`; always at least one, and never all of several",
    )

    def hosts(self, serving: int) -> int:
        """How many of the hosts that serve a model may change at once."""
        if isinstance(self.batch, str):
            wanted = serving * int(self.batch.removesuffix("%")) // 100
        else:
            wanted = self.batch
        return max(1, min(wanted, serving - 1))
