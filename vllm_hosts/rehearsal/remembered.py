"""Answers of vLLM's that are kept on this machine. They hold no secret: figures and sentences."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from vllm_hosts.bounded import read_file
from vllm_hosts.capacity.hub_client import cache_folder
from vllm_hosts.keys.private_files import make_folder, write_private
from vllm_hosts.rehearsal.answer import FORMAT, Answer, read_text

#: Files that are kept; those that were asked for least lately go first.
MOST = 500


def folder() -> Path:
    """Beside what is kept of the hub: ``$XDG_CACHE_HOME/vllm-hosts/rehearsals``."""
    return cache_folder().with_name("rehearsals")


def recall(key: str) -> Answer | None:
    """What vLLM said to the same question; None: nobody asked, or it cannot be read."""
    try:
        path = folder() / f"{key}.json"
        answer = read_text(read_file(path).decode())
        path.touch()
    except (OSError, ValueError):
        return None
    return answer if _said(answer) else None


def keep(key: str, answer: Answer) -> None:
    """Remember what vLLM said. A cache that cannot be written is no reason to stop."""
    if not _said(answer):
        return
    with suppress(OSError):
        make_folder(folder())
        text = json.dumps({"format": FORMAT, **asdict(answer)})
        write_private(folder() / f"{key}.json", text.encode())
        kept = sorted(folder().glob("*.json"), key=lambda path: path.stat().st_mtime)
        for path in kept[:-MOST]:
            path.unlink(missing_ok=True)


def _said(answer: Answer) -> bool:
    """Whether it was vLLM that answered, and not memory or time that were lacking."""
    return "all" not in answer.unknown
