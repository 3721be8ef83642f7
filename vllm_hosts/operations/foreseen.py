"""What operations know before a run: hosts that are refused, and what their changes lead to.

pyinfra asks operations for their first command while it prepares a run, unless -y is given. What
they tell here then is shown below its table, before anything is done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from pyinfra.context import ctx_host, ctx_state

from vllm_hosts.text import clean

#: What operations that depend on the GPU driver ask about.
DRIVER = "the GPU driver"


@dataclass(frozen=True)
class Changing:
    """Agents of a host that will change: which models they serve, and whether they do so now."""

    models: frozenset[str] = frozenset()
    serving: frozenset[str] = frozenset()
    together: bool = False


@dataclass
class Foreseen:
    """What one host is in for. ``conditional``: operations that decide while they run."""

    refused: list[str] = field(default_factory=list)
    effects: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    conditional: set[str] = field(default_factory=set)
    #: Paths and packages that operations before will have changed by then.
    changed: set[str] = field(default_factory=set)
    changing: Changing | None = None


@dataclass
class Outlook:
    """All hosts of a run. ``dry``: nothing will be executed."""

    dry: bool
    hosts: dict[str, Foreseen] = field(default_factory=dict)


_outlook: Outlook | None = None


def begin(*, dry: bool) -> Outlook:
    """Listen from now on to what operations tell while a run is prepared."""
    global _outlook
    _outlook = Outlook(dry)
    return _outlook


def end() -> None:
    """Listen no more."""
    global _outlook
    _outlook = None


def _here() -> Foreseen | None:
    """What is known of the current host; None: nobody listens, or it is being changed by now."""
    if _outlook is None or ctx_state.get().is_executing:
        return None
    return _outlook.hosts.setdefault(ctx_host.get().name, Foreseen())


def refuse(problems: Iterable[str]) -> bool:
    """The current host will not be deployed to. Whether somebody listens."""
    here = _here()
    if here is not None:
        here.refused += [clean(problem) for problem in problems]
    return here is not None


def refused() -> bool:
    """Whether the current host was refused, so that nothing more is asked of it."""
    here = _here()
    return here is not None and bool(here.refused)


def was_refused(name: str) -> bool:
    """Whether a host was refused before this run."""
    return _outlook is not None and bool(_outlook.hosts.get(name, Foreseen()).refused)


def dry() -> bool:
    """Whether this is a dry run, in which nothing is said later."""
    return _outlook is not None and _outlook.dry and _here() is not None


def leads_to(effect: str) -> None:
    """What the change of an operation leads to. Tell it before its first command."""
    if (here := _here()) is not None:
        here.effects.append(clean(effect))


def would_fail(sentence: str, *, lost: bool = False) -> bool:
    """An operation cannot do its work on the host as it is now. Whether that refuses the host:
    operations before it may repair that, unless they have nothing to change.

    :param lost: the host cannot be asked anything more.
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
    """Agents of the current host will change."""
    if (here := _here()) is not None:
        here.changing = describe()


def will_change(things: Iterable[str]) -> None:
    """Paths or packages will be others by the time that later operations look."""
    if (here := _here()) is not None:
        here.changed.update(things)


def may_have_changed(things: Iterable[str]) -> bool:
    """Whether an operation before will have changed one of these. Asked while a run is prepared;
    the current operation then counts as one that decides while it runs."""
    here = _here()
    if here is None or here.changed.isdisjoint(things):
        return False
    conditional()
    return True


def conditional() -> None:
    """The current operation decides while it runs what it does."""
    here = _here()
    if here is not None and (operation := ctx_host.get().current_op_hash) is not None:
        here.conditional.add(operation)
