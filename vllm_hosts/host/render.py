"""Renders templates. A name that a template uses and nobody provides is an error."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, lru_cache

from jinja2 import Environment, PackageLoader, StrictUndefined


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("vllm_hosts"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        # These are configuration files, not HTML: each template quotes by its own language's rules.
        autoescape=False,  # noqa: S701
    )


@lru_cache(maxsize=16)
def _with_filters(filters: frozenset[tuple[str, Callable[..., str]]]) -> Environment:
    """Kept for all hosts: another one compiles its templates anew, which takes most of the time."""
    environment = _environment().overlay()
    environment.filters = environment.filters | dict(filters)
    return environment


def render(
    template: str, filters: Mapping[str, Callable[..., str]] | None = None, /, **values: object
) -> str:
    """Render a template from the package's ``templates/``.

    :param template: path below that folder, such as ``vllm/compose.yaml.j2``.
    :param filters: further filters for the language of this template.
    :raises jinja2.UndefinedError: the template uses a name that is not in ``values``.
    """
    environment = _with_filters(frozenset(filters.items())) if filters else _environment()
    return environment.get_template(template).render(**values)
