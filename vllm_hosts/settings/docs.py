"""Writes docs/settings.md and group_data/all.py from the settings' schema.

python -m vllm_hosts.settings.docs         # write both
"""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from textwrap import wrap

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from vllm_hosts.settings import Agent, HostSettings
from vllm_hosts.settings.agent import Egress, Expose, RequestLimits

_ROOT = Path(__file__).resolve().parents[2]
_WORDS = {bool: "True or False", int: "whole number", float: "number", str: "text"}
_BOUNDS = {Ge: "at least", Gt: "more than", Le: "at most", Lt: "less than"}

_HEAD = """\
# Settings

Set them in `group_data/all.py` (every host), in `group_data/GROUP.py` (the hosts of a group) or
with a host in the inventory; the later of these wins. Groups of settings such as `edge` merge name
by name, so a host can change one and keep the others. All of them are checked before anything
connects; `vllm-hosts check INVENTORY` only checks. Names that start with `x_` are yours and are
ignored.
"""
_GENERATED = "\nThis file is generated from the schema: `python -m vllm_hosts.settings.docs`.\n"
_AGENT_HEAD = """\
## `agents`

A list of dictionaries, one for each vLLM container of a host. Every agent answers at
`/NAME/v1/...`, and at `/v1/...` for requests that name its model.
"""


def settings_md(*, generated: bool = True) -> str:
    """The text of docs/settings.md.

    :param generated: whether it says how the file is made.
    """
    parts = [_HEAD + (_GENERATED if generated else ""), f"{_AGENT_HEAD}\n{_table(Agent)}"]
    for name, part in (("expose", Expose), ("egress", Egress), ("request_limits", RequestLimits)):
        parts.append(f"### `{name}` of an agent\n\n{part.__doc__}\n\n{_table(part)}")
    for name, section in sections():
        parts.append(f"## `{name}`\n\n{section.__doc__}\n\n{_table(section)}")
    return "\n".join(parts)


def all_py() -> str:
    """The text of group_data/all.py: every default, written out."""
    lines = [
        '"""Every setting with its default, for all hosts. Made from the schema; edit it freely.',
        "",
        "What a host needs besides these is `agents`: see group_data/gpu_hosts.py. More about each",
        'setting: docs/settings.md."""',
    ]
    for name, section in sections():
        lines += ["", f"# {section.__doc__}", f"{name} = {{"]
        for key, field in section.model_fields.items():
            lines += [f"    # {line}" for line in wrap(field.description or "", 92)]
            lines.append(f"    {json.dumps(key)}: {literal(field)},")
        lines.append("}")
    return "\n".join([*lines, ""])


def sections() -> Iterator[tuple[str, type[BaseModel]]]:
    """The groups of settings, by name."""
    for name, field in HostSettings.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield name, field.annotation


def _table(section: type[BaseModel]) -> str:
    rows = ["| name | type | default | meaning |", "|---|---|---|---|"]
    for name, field in section.model_fields.items():
        default = "required" if field.is_required() else f"`{literal(field)}`"
        kind = ", ".join([_kind(field.annotation), *_bounds(field.metadata)])
        rows.append(f"| `{name}` | {kind} | {default} | {field.description} |")
    return "\n".join([*rows, ""])


def literal(field: FieldInfo) -> str:
    """A default as Python writes it."""
    default = field.get_default(call_default_factory=True)
    if isinstance(default, BaseModel):
        return "{}"
    if isinstance(default, tuple):
        return "[" + ", ".join(_quoted(item) for item in default) + "]"
    return _quoted(default)


def _quoted(value: object) -> str:
    return json.dumps(value) if isinstance(value, str) else repr(value)


def _kind(annotation: object) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return ", ".join([_kind(arguments[0]), *_bounds(arguments[1:])])
    if origin is typing.Literal:
        return " or ".join(f"`{json.dumps(value)}`" for value in arguments)
    if origin in (typing.Union, types.UnionType):
        if IPv4Network in arguments:
            return "network"
        if IPv4Address in arguments:
            return "IP address"
        return " or ".join(_kind(item) for item in arguments)
    if origin is tuple:
        return f"list of {_kind(arguments[0])}"
    if origin is dict:
        return "dictionary of text"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "dictionary"
    if annotation is IPv4Network:
        return "network"
    if annotation is type(None):
        return "None"
    return _WORDS[typing.cast(type, annotation)]


def _bounds(metadata: typing.Iterable[object]) -> list[str]:
    return [
        f"{words} {getattr(item, kind.__name__.lower())}"
        for item in metadata
        for kind, words in _BOUNDS.items()
        if isinstance(item, kind)
    ]


def main() -> None:
    """Write both files."""
    (_ROOT / "docs" / "settings.md").write_text(settings_md())
    (_ROOT / "group_data" / "all.py").write_text(all_py())


if __name__ == "__main__":
    main()
