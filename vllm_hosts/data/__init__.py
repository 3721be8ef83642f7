"""Tables and scripts that come with the package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

DATA = Path(__file__).resolve().parent
#: libyaml's is ten times as fast, and not in every build of PyYAML.
_LOADER: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def table(name: str) -> Any:
    """What a table holds, by its file's name."""
    return yaml.load((DATA / name).read_text(), _LOADER)  # noqa: S506 - both are safe
