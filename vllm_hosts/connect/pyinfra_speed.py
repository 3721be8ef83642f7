"""What pyinfra works out again and again, worked out once."""

from __future__ import annotations

import gc
import inspect
import resource
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from copy import copy
from dataclasses import dataclass
from functools import cache, partial
from inspect import signature
from types import CodeType
from typing import Any, get_args, get_origin

import gevent
import pyinfra
from gevent.event import Event
from pyinfra.api.config import Config
from pyinfra.api.exceptions import ArgumentTypeError
from pyinfra.api.host import Host
from pyinfra.api.state import MAX_PARALLEL, State
from pyinfra.context import ContextObject, ctx_config


def install() -> None:
    """Put cheaper functions with the same results in the place of pyinfra 3.10's. A version that
    does these things in another way is left alone. A second call changes nothing."""
    _types_of_arguments()
    _connectors()
    _places_in_code()
    _arguments_at_hosts()
    _signatures()
    _progress()
    _what_is_current()


def few_collections() -> None:
    """Have Python look for garbage that refers to itself less often. A run makes little of that,
    and keeps what it makes of each host: Python would go over it again and again, which is a
    seventh of what a run over hundreds of hosts takes here."""
    gc.set_threshold(_OBJECTS, *_ROUNDS)


#: Objects after which it looks among new ones, and rounds after which among older ones.
_OBJECTS, _ROUNDS = 20_000, (20, 20)


def at_once(config: Config, hosts: int) -> None:
    """How many hosts a run works on at the same time, where nobody said (``--parallel``): pyinfra
    takes 20 for each processor, and all that a run does is wait for them."""
    config.PARALLEL = config.PARALLEL or min(_AT_ONCE, MAX_PARALLEL, max(hosts, 1))


#: More logins at the same time are more than a jump host is likely to take.
_AT_ONCE = 100


def many_connections() -> None:
    """Each host is an open file, and programs are given a thousand by default."""
    used, allowed = resource.getrlimit(resource.RLIMIT_NOFILE)
    if used != resource.RLIM_INFINITY:
        most = _FILES if allowed == resource.RLIM_INFINITY else min(_FILES, allowed)
        # macOS has another limit besides, and refuses more than that.
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(used, most), allowed))


_FILES = 65536


def _types_of_arguments() -> None:
    """pyinfra resolves the types of all its arguments for each operation and each fact, which is
    half of what those take here."""
    arguments: Any = sys.modules["pyinfra.api.arguments"]
    resolve = getattr(arguments, "all_global_arguments", None)
    if resolve is None or hasattr(resolve, "cache_info") or signature(resolve).parameters:
        return
    arguments.all_global_arguments = cache(resolve)


def _connectors() -> None:
    """It reads what every installed package says of itself, for each inventory several times."""
    connectors: Any = sys.modules["pyinfra.api.connectors"]
    found = getattr(connectors, "entry_points", None)
    if found is None or hasattr(found, "cache_info"):
        return
    connectors.entry_points = cache(found)


def _places_in_code() -> None:
    """Operations are put in order by lines of code, for which it looks for the source of every
    function on the stack, and on the disk, for each operation and each host."""
    util: Any = sys.modules["pyinfra.api.util"]
    order: Any = getattr(util, _ORDER, None)
    known = all(getattr(util, name, None) is getattr(inspect, name) for name in _LOOKS_AT_CODE)
    if order is None or not known or [*signature(order).parameters] != ["state"]:
        return
    _everywhere(order, partial(_order_from_stack, pyinfra_s=util.PYINFRA_INSTALL_DIR))


_ORDER = "get_operation_order_from_stack"
_LOOKS_AT_CODE = ("stack", "getframeinfo")


def _order_from_stack(state: State, *, pyinfra_s: str) -> list[int]:
    frames = []
    frame = sys._getframe(1)
    while frame is not None:
        frames.append((_source(frame.f_code), frame.f_lineno))
        frame = frame.f_back  # type: ignore[assignment]
    frames.reverse()
    names = [name for name, _ in frames]
    deploy = state.current_deploy_filename
    start = 0 if not deploy else names.index(deploy) if deploy in names else len(names)
    lines = [state.current_op_file_number] if pyinfra.is_cli else []
    return lines + [line for name, line in frames[start:] if not name.startswith(pyinfra_s)]


@cache
def _source(code: CodeType) -> str:
    return inspect.getsourcefile(code) or inspect.getfile(code)


def _arguments_at_hosts() -> None:
    """For each of 36 arguments it asks all layers of a host's data, and makes one of the host's
    groups each time: for each operation, each deploy and each fact of each host."""
    arguments: Any = sys.modules["pyinfra.api.arguments"]
    pop: Any = getattr(arguments, "pop_global_arguments", None)
    parts = ("all_global_arguments", "all_argument_meta", "raise_if_bad_type", "default_sentinel")
    known = pop is not None and {*parts} < {*pop.__code__.co_names}
    if not known or [*signature(pop).parameters] != ["state", "host", "kwargs"]:
        return
    _everywhere(pop, _pop_arguments)


def _pop_arguments(
    state: State, host: Host, kwargs: dict[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """As in pyinfra 3.10, with the host's data put together once."""
    arguments: Any = sys.modules["pyinfra.api.arguments"]
    config = ctx_config.get() if ctx_config.isset() else state.config
    deploy: Mapping[str, Any] = host.current_deploy_kwargs or {}
    data = host.data.dict()
    found: dict[str, Any] = {}
    popped = []
    for key, type_, handler, make, usual in _usual(arguments, config):
        default = copy(data[key]) if key in data else make(config) if make else usual
        if key in kwargs:
            popped.append(key)
            value = kwargs.pop(key)
        else:
            value = deploy.get(key, default)
        if handler:
            value = handler(config, value)
        if value is not default and value != default and not _surely(value, type_):
            arguments.raise_if_bad_type(
                value, type_, ArgumentTypeError, f"Invalid argument `{key}`:"
            )
        found[key] = value
    return found, popped


def _usual(arguments: Any, config: Config) -> list[tuple[Any, ...]]:
    """By argument: its type, what makes a value of it, what makes its default, or that one itself.
    Found anew where the configuration is another one."""
    known, now = arguments.all_global_arguments(), vars(config)
    if _usual_of[:2] != [known, now]:
        rows = []
        for key, type_ in known:
            meta = arguments.all_argument_meta[key]
            value = meta.default(config)
            # One that could be changed where it is used is nobody else's.
            make = meta.default if isinstance(value, list | dict | set) else None
            rows.append((key, type_, meta.handler, make, value))
        _usual_of[:] = known, dict(now), rows
    rows_: list[tuple[Any, ...]] = _usual_of[2]
    return rows_


_usual_of: list[Any] = []


def _surely(value: object, type_: object) -> bool:
    """Whether a value is of a type, where that is seen at once: one word, or an environment."""
    if type_ is type(value):
        return True
    return (
        type(value) is dict
        and _maps_words(type_)
        and all(type(word) is str for pair in value.items() for word in pair)
    )


@cache
def _maps_words(type_: Any) -> bool:
    of, to = get_args(type_) if get_origin(type_) is Mapping else (None, None)
    return of is str and (to is str or str in get_args(to))


def _signatures() -> None:
    """It works out the signature of an operation's function for each host, to see whether the
    operation's arguments fit."""
    operations: Any = sys.modules["pyinfra.api.operation"]
    if getattr(operations, "signature", None) is signature:
        operations.signature = cache(signature)


def _what_is_current() -> None:
    """It finds out twice what the current host or state is, for each of their attributes."""
    get: Any = ContextObject.__getattr__
    if get.__code__.co_names == ("_get_module", "getattr", "_base_cls"):
        ContextObject.__getattr__ = _of_what_is_current  # type: ignore[method-assign]


def _of_what_is_current(context: Any, key: str) -> Any:
    current = context._container.module
    return getattr(context._base_cls if current is None else current, key)


def _progress() -> None:
    """For each host that an operation is done with, it lists all others for the line at the bottom
    of a terminal, which is printed five times a second."""
    progress: Any = sys.modules["pyinfra.progress"]
    spinner: Any = getattr(progress, "progress_spinner", None)
    code = getattr(getattr(spinner, "__wrapped__", None), "__code__", None)
    if code is None or not {"make_progress_message", "progress_queue"} <= {*code.co_cellvars}:
        return
    if [*signature(spinner).parameters] == ["items", "prefix_message"]:
        _everywhere(spinner, partial(_spinner, progress))


@contextmanager
def _spinner(
    progress: Any, items: Iterable[Any], prefix_message: str | None = None
) -> Iterator[Callable[[Any], None]]:
    """As in pyinfra 3.10, with the line made when it is printed."""
    if not progress.is_output_active():
        yield lambda item: None
        return
    left = items if isinstance(items, set) else set(items)
    stop = Event()
    line = _Line(left, len(left), prefix_message, progress)
    printing = gevent.spawn(progress._print_spinner, stop, line)
    try:
        yield line.done
    finally:
        stop.set()
        printing.join()


@dataclass
class _Line:
    """What is printed while ``left`` of so many items are still worked on. pyinfra takes the last
    of a queue."""

    left: set[Any]
    total: int
    before: str | None
    progress: Any

    def done(self, item: Any) -> None:
        if item not in self.left:
            raise ValueError(f"Invalid complete item: {item} not in {self.left}")
        self.left.remove(item)

    def __getitem__(self, _: int) -> str:
        done = self.total - len(self.left)
        counted = f"{done * 100 // self.total}% ({done}/{self.total})" if self.total > 1 else ""
        parts = [part for part in (counted, self.before) if part]
        room = self.progress.TERMINAL_WIDTH - 10 - sum(len(part) + 3 for part in parts)
        if self.left and room > 0:
            named = f"{{{', '.join(map(str, self.left))}}}"
            parts.append(named if len(named) < room else f"{named[: room - 3]}...}}")
        return " - ".join(parts)


def _everywhere(original: Any, ours: Any) -> None:
    """In the place of a function in each module that has imported it by name."""
    name, ours.original = original.__name__, original
    for module in list(sys.modules.values()):
        # Not by getattr: some modules import others when they are asked for a name.
        if vars(module).get(name) is original:
            setattr(module, name, ours)
