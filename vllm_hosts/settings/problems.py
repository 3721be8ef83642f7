"""pydantic's errors as sentences: where, what is wrong, what would be right."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, ValidationError

from vllm_hosts.settings.agent import Agent, Expose, RequestLimits
from vllm_hosts.settings.host import HostSettings
from vllm_hosts.settings.types import AcrossError
from vllm_hosts.text import LIMIT, quoted

#: pydantic's names for the members of a union.
_UNION = ("int", "constrained-int", "literal['auto']")
_TYPES = {
    "string_type": "text in quotes",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "True or False",
    "tuple_type": "a list",
    "dict_type": "a dictionary",
    "model_type": "a dictionary",
    "model_attributes_type": "a dictionary",
}


def sentences(error: ValidationError, source: Callable[[str, str | None], str]) -> list[str]:
    """One sentence per error. Never shows a value of ``env``, which may hold anything.

    :param source: returns the file that a setting, and the key in it, was read from.
    """
    found: list[str] = []
    for item in error.errors(include_url=False, include_input=True):
        path = [part for part in item["loc"] if part not in _UNION]
        name = str(path[0]) if path else ""
        key = str(path[1]) if len(path) > 1 and isinstance(path[1], str) else None
        dotted = _dotted(path)
        across = item.get("ctx", {}).get("error")
        about = across.section if isinstance(across, AcrossError) else name
        text = f"{source(about, key)}: " if about else ""
        text += _sentence(dict(item), path, dotted)
        if text not in found:
            found.append(text)
    return found


def _dotted(path: list[int | str]) -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _sentence(item: dict[str, Any], path: list[int | str], dotted: str) -> str:
    kind, context = item["type"], item.get("ctx", {})
    if kind == "extra_forbidden":
        known = _known_names(path)
        close = difflib.get_close_matches(str(path[-1]), known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"there is {', '.join(known)}"
        return f"unknown setting {dotted}; {hint}"
    if kind == "missing":
        return f"{dotted} is missing; set it" + (
            " in group_data/gpu_hosts.py, at least one agent" if dotted == "agents" else ""
        )
    if kind == "value_error":
        return f"{dotted}: {context['error']}" if dotted else str(context["error"])
    got = "" if "env" in path else f", not {quoted(item['input'], LIMIT)}"
    if kind in _TYPES:
        return f"{dotted} must be {_TYPES[kind]}{got}"
    if kind == "literal_error":
        return f"{dotted} must be {context['expected']}{got}"
    bounds = {
        "greater_than_equal": "at least {ge}",
        "greater_than": "more than {gt}",
        "less_than_equal": "at most {le}",
        "less_than": "less than {lt}",
    }
    if kind in bounds:
        limits = {name: f"{value:g}" for name, value in context.items()}
        return f"{dotted} must be {bounds[kind].format(**limits)}{got}"
    return f"{dotted}: {item['msg']}{got}"


def _known_names(path: list[int | str]) -> list[str]:
    model: type[BaseModel] = HostSettings
    if path[0] == "agents":
        parts: dict[int | str, type[BaseModel]] = {
            "expose": Expose,
            "request_limits": RequestLimits,
        }
        model = next((parts[part] for part in path[:-1] if part in parts), Agent)
    elif len(path) > 1:
        annotation = HostSettings.model_fields[str(path[0])].annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            model = annotation
    return [name for name in model.model_fields if model is not HostSettings or name != "address"]
