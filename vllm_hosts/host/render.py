"""Renders templates. A name that a template uses and nobody provides is an error."""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache, lru_cache
from hashlib import sha256
from importlib.util import cache_from_source
from pathlib import Path

import jinja2
from jinja2 import BytecodeCache, Environment, PackageLoader, StrictUndefined, Template
from jinja2.bccache import Bucket


class _Compiled(BytecodeCache):
    """Keeps compiled templates where Python keeps this compiled module, and as it does: under the
    same conditions, and for a new text anew."""

    def _file(self, bucket: Bucket) -> Path:
        folder = Path(cache_from_source(__file__)).parent
        return folder / f"{bucket.key}.{jinja2.__version__}.{sys.implementation.cache_tag}.jinja"

    def load_bytecode(self, bucket: Bucket) -> None:
        try:
            bucket.bytecode_from_string(self._file(bucket).read_bytes())
        except Exception:
            # Not there, not readable, or not what was written: it is compiled.
            bucket.reset()

    def dump_bytecode(self, bucket: Bucket) -> None:
        if sys.dont_write_bytecode:
            return
        file = self._file(bucket)
        new = file.with_suffix(f".{os.getpid()}")
        try:
            new.write_bytes(bucket.bytecode_to_string())
            new.replace(file)
        except OSError:
            with suppress(OSError):
                new.unlink()


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("vllm_hosts"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        bytecode_cache=_Compiled(),
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
    given = frozenset(filters.items()) if filters else frozenset()
    key = template, given, _digest(values)
    text = _rendered.pop(key, None) if key[2] else None
    if text is None:
        text = _template(template, given).render(**values)
    if key[2]:
        # The latest last: what a host needs again, or the next one needs too, is asked for soon.
        _rendered[key] = text
        if len(_rendered) > _KEPT:
            del _rendered[next(iter(_rendered))]
    return text


#: Most hosts of a run have the same files, and some are made more than once for a host.
_rendered: dict[tuple[str, frozenset[tuple[str, Callable[..., str]]], bytes], str] = {}
_KEPT = 256


def _digest(values: Mapping[str, object]) -> bytes:
    """Of values as they are, with their types; empty for what cannot be written down. Two that are
    the same may have two digests, and then are rendered twice."""
    try:
        return sha256(pickle.dumps(values, pickle.HIGHEST_PROTOCOL)).digest()
    except (pickle.PicklingError, AttributeError, TypeError, RecursionError):
        return b""


@cache
def _template(name: str, filters: frozenset[tuple[str, Callable[..., str]]]) -> Template:
    """Looked for, and for a newer version of it, once."""
    environment = _with_filters(filters) if filters else _environment()
    return environment.get_template(name)
