"""What nginx's workers run: to choose an agent by a request's model, and to count tokens.

Touches no host.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from vllm_hosts.host import paths
from vllm_hosts.host.files import Absent, Entry, File, Folder
from vllm_hosts.host.render import render
from vllm_hosts.settings import HostSettings

#: What is not rendered is the same on all hosts.
_CHOOSING = ("by_model", "chooser", "request_body", "model_scanner", "form_scanner")
_COUNTING = ("tokens", "counter", "request_body", "model_scanner", "usage_scanner")
_FOLDER = Path(__file__).with_name("lua")


def lua_entries(settings: HostSettings) -> Iterator[Entry]:
    """Files of Lua, none of which holds a secret; none where nginx neither chooses nor counts."""
    wanted = {
        *(_CHOOSING if settings.chooses_by_model else ()),
        *(_COUNTING if settings.edge.count_tokens else ()),
    }
    rendered = {"by_model": by_model, "tokens": tokens}
    if wanted:
        yield Folder(paths.EDGE_LUA, mode=0o755)
    for name, path in zip(_names(), lua_paths(), strict=True):
        if name not in wanted:
            yield Absent(path)
        elif name in rendered:
            yield File(path, rendered[name](settings).encode())
        else:
            yield File(path, (_FOLDER / f"{name}.lua").read_bytes())


def lua_paths() -> list[str]:
    """All that there may be."""
    return [f"{paths.EDGE_LUA}/{name}.lua" for name in _names()]


def _names() -> tuple[str, ...]:
    return tuple(dict.fromkeys((*_CHOOSING, *_COUNTING)))


def by_model(settings: HostSettings) -> str:
    """Which agents answer to which model."""
    return render(
        "nginx/by_model.lua.j2",
        folder=paths.EDGE_LUA,
        count_tokens=settings.edge.count_tokens,
        names=[
            {"name": name, "agents": [agent.name for agent in agents], "body": model_body(name)}
            for name, agents in settings.model_names.items()
        ],
    )


def tokens(_: HostSettings) -> str:
    """What counts tokens."""
    return render("nginx/tokens.lua.j2", folder=paths.EDGE_LUA)


def model_body(name: str) -> str:
    """A model as OpenAI's API describes it."""
    return json.dumps({"id": name, "object": "model", "created": 0, "owned_by": "vllm"})
