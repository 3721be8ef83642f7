"""Rendered text is compared with files in review, so that a change of the result can be read.

`UPDATE_GOLDEN=1 pytest tests/unit` rewrites the files.
"""

from __future__ import annotations

import os
from pathlib import Path

FOLDER = Path(__file__).parent / "unit" / "golden"


def check_golden(name: str, text: str) -> None:
    """Assert that ``text`` is what the golden file holds.

    :param name: path below ``tests/unit/golden``.
    """
    path = FOLDER / name
    if os.environ.get("UPDATE_GOLDEN"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert text == path.read_text(), f"{path} differs; look, then UPDATE_GOLDEN=1"
