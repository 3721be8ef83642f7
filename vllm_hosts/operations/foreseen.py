"""What operations know before a run: hosts that are refused, and what their changes lead to.

pyinfra asks operations for their first command while it prepares a run, unless -y is given. What
they report here then is shown below its table, before anything is done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from weakref import WeakSet

from pyinfra.api.host import Host
from pyinfra.context import ctx_host, ctx_state

from vllm_hosts.text import clean

#: The name by which operations ask whether the GPU driver will have changed.
DRIVER = "the GPU driver"


@dataclass(frozen=True)
class Changing:
    """Agents of a host that will change: their models, and whether they serve them now.

    ``at_once``: as in ``one_by_one.Serving``."""

    models: frozenset[str] = frozenset()
    serving: frozenset[str] = frozenset()
    together: bool = False
    at_once: Mapping[str, int] = field(default_factory=dict)


@dataclass
class Foreseen:
    """What will happen to one host. ``conditional``: operations that decide while they run."""

    refused: list[str] = field(default_factory=list)
    effects: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    conditional: set[str] = field(default_factory=set)
    #: Paths and packages that earlier operations will have changed.
    changed: set[str] = field(default_factory=set)
    changing: Changing | None = None


@dataclass
class Outlook:
    """All hosts of a run. ``dry``: nothing will be executed."""

    dry: bool
    hosts: dict[str, Foreseen] = field(default_factory=dict)


_outlook: Outlook | None = None
#: Hosts that the same command would refuse again.
_final: WeakSet[Host] = WeakSet()


def begin(*, dry: bool) -> Outlook:
    """Start collecting what operations report while a run is prepared."""
    global _outlook
    _outlook = Outlook(dry)
    return _outlook


def end() -> None:
    """Stop collecting."""
    global _outlook
    _outlook = None


def _here() -> Foreseen | None:
    """What is known about the current host; None: nobody listens, or it already changes."""
    if _outlook is None or ctx_state.get().is_executing:
        return None
    return _outlook.hosts.setdefault(ctx_host.get().name, Foreseen())


def refuse(problems: Iterable[str]) -> bool:
    """Refuse the current host, if somebody listens; returns whether that is so."""
    here = _here()
    if here is not None:
        here.refused += [clean(problem) for problem in problems]
    return here is not None


def refused() -> bool:
    """Whether the current host was refused, so that it is not queried any more."""
    here = _here()
    return here is not None and bool(here.refused)


def refuse_for_good() -> None:
    """The current host is refused, or fails, and the same command would say the same again."""
    _final.add(ctx_host.get())


def refused_for_good(host: Host) -> bool:
    """Whether there is no point in trying a host again."""
    return host in _final


def was_refused(name: str) -> bool:
    """Whether a host was refused before this run."""
    return _outlook is not None and bool(_outlook.hosts.get(name, Foreseen()).refused)


def dry() -> bool:
    """Whether this is a dry run, in which nothing is printed later."""
    return _outlook is not None and _outlook.dry and _here() is not None


def leads_to(effect: str) -> None:
    """Report what an operation's change leads to. To be called before its first command."""
    if (here := _here()) is not None:
        here.effects.append(clean(effect))


def would_fail(sentence: str, *, lost: bool = False) -> bool:
    """Report that an operation cannot do its work on the host as it is now.

    Returns whether that refuses the host: earlier operations may repair it, unless they have
    nothing to change.

    :param lost: the host cannot be queried any more.
    """
    here = _here()
    if here is None:
        return False
    if lost:
        return refuse([sentence])
    before = ctx_state.get().ops[ctx_host.get()].values()
    if not any(one.operation_meta._maybe_is_change for one in before):
        return refuse([sentence])
    if sentence not in here.unknown:
        here.unknown.append(clean(sentence))
    conditional()
    return False


def agents_change(describe: Callable[[], Changing]) -> None:
    """Report that agents of the current host will change."""
    if (here := _here()) is not None:
        here.changing = describe()


def will_change(things: Iterable[str]) -> None:
    """Report paths or packages that will have changed before later operations run."""
    if (here := _here()) is not None:
        here.changed.update(things)


def may_have_changed(things: Iterable[str]) -> bool:
    """Whether an earlier operation will have changed one of these, while a run is prepared. If so,
    the current operation counts as conditional."""
    here = _here()
    if here is None or here.changed.isdisjoint(things):
        return False
    conditional()
    return True


def conditional() -> None:
    """Report that the current operation decides while it runs."""
    here = _here()
    if here is not None and (operation := ctx_host.get().current_op_hash) is not None:
        here.conditional.add(operation)
