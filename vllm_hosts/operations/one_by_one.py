"""Hosts that serve the same model never take it down at once.

pyinfra works on all hosts at the same time, in greenlets of one process. A host that is about to
take agents of a model down announces that here, waits for its turn, and has it until they serve
again. Turns come one at a time, or a few where the settings say so (``rolling.batch``). If one
fails, the others do not change: a bad image takes down one host or batch, not all.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Literal

from gevent.event import Event
from paramiko import SSHException
from pyinfra.api.command import StringCommand
from pyinfra.api.host import Host
from pyinfra.api.state import BaseStateCallback, State
from pyinfra.context import ctx_host, ctx_state

from vllm_hosts.errors import HostError
from vllm_hosts.operations.confirmed import connector_options
from vllm_hosts.operations.rotation import Rotation

#: Seconds after which a waiting host reports that again. Its connection is used meanwhile, so that
#: no device in between drops it.
_SAY_EVERY = 60.0


@dataclass(frozen=True)
class Serving:
    """What a host's agents serve. ``models``: by agent, the name that clients use; ``directory``
    holds their compose.yaml; ``timeout``: seconds until an agent has to be healthy; ``together``:
    hosts do not wait for each other; ``at_once``: by model, how many of its hosts may change at the
    same time, 1 where nothing is said; ``rotation``: the gateways in front of the host."""

    models: Mapping[str, str]
    directory: str
    timeout: int
    together: bool = False
    at_once: Mapping[str, int] = field(default_factory=dict)
    rotation: Rotation = field(default_factory=Rotation, compare=False)

    @property
    def leaving(self) -> Rotation:
        """The gateways to tell before agents go down. Where all hosts change together, nobody is
        left who could answer."""
        return Rotation() if self.together else self.rotation

    def of(self, agents: Collection[str]) -> frozenset[str]:
        """The models of these agents."""
        return frozenset(self.models[agent] for agent in agents if agent in self.models)


@dataclass(eq=False)
class Turn:
    """A host's change of agents with these models. ``serving``: those that it serves now."""

    host: str
    models: frozenset[str]
    serving: frozenset[str]
    order: int
    at_once: Mapping[str, int] = field(default_factory=dict)
    state: Literal["announced", "waits", "changes", "done", "failed"] = "announced"

    @property
    def rank(self) -> tuple[bool, int]:
        """Hosts that serve none of these models go first: the change may repair them."""
        return (bool(self.models & self.serving), self.order)


@dataclass
class Turns:
    """All turns of a run."""

    turns: list[Turn] = field(default_factory=list)
    _changed: Event = field(default_factory=Event)

    def announce(
        self,
        host: str,
        models: frozenset[str],
        serving: frozenset[str],
        order: int,
        at_once: Mapping[str, int] | None = None,
    ) -> Turn:
        """Announce that a host will change agents of some models, and which it serves now.

        :param at_once: by model, how many hosts may change together in this one's opinion.
        """
        turn = Turn(host, models, serving, order, at_once or {})
        self.turns.append(turn)
        return turn

    def guarded(self, turn: Turn) -> frozenset[str]:
        """A turn's models that some host served when turns were announced. Models that nobody
        serves can be changed everywhere at once."""
        return turn.models & {model for other in self.turns for model in other.serving}

    def ahead(self, turn: Turn, *, everybody: bool) -> list[Turn]:
        """The turns of which at least one has to end before a turn can begin.

        :param everybody: wait for hosts that have not arrived yet too. If pyinfra works on a few
            hosts at a time, they arrive only when others have finished.
        """
        waiting = ("waits", "announced") if everybody else ("waits",)
        before = [
            other
            for other in self.turns
            if other is not turn
            and other.host != turn.host
            and (other.state == "changes" or (other.state in waiting and other.rank < turn.rank))
        ]
        full = {
            model
            for model in self.guarded(turn)
            if len({other.host for other in before if model in other.models}) >= self.most_of(model)
        }
        return [other for other in before if other.models & full]

    def most_of(self, model: str) -> int:
        """How many hosts may change agents of a model at once: the least that any of them allows,
        and never all that serve it."""
        wanted = [turn.at_once.get(model, 1) for turn in self.turns if model in turn.models]
        serving = {turn.host for turn in self.turns if turn.host and model in turn.serving}
        return max(1, min([*wanted, len(serving) - 1]))

    def failed(self, turn: Turn) -> Turn | None:
        """The turn whose failure cancels this one."""
        models = self.guarded(turn)
        for other in self.turns:
            if other.state == "failed" and other.host != turn.host and other.models & models:
                return other
        return None

    @contextmanager
    def taken(
        self,
        turn: Turn,
        *,
        everybody: bool,
        say: Callable[[str], None],
        meanwhile: Callable[[], None] = lambda: None,
    ) -> Iterator[None]:
        """Wait for a turn, and have it until its agents serve again.

        :param say: prints what is waited for.
        :param meanwhile: called from time to time.
        :raises HostError: a host with the same model failed in its turn.
        """
        turn.state = "waits"
        said = None
        while True:
            if (broken := self.failed(turn)) is not None:
                turn.state = "done"
                self._tell()
                raise HostError(_stopped(broken, turn))
            ahead = self.ahead(turn, everybody=everybody)
            if not ahead:
                break
            sentence = _waits_for(ahead, turn)
            if sentence != said:
                say(sentence)
                said = sentence
            if not self._changed.wait(_SAY_EVERY):
                meanwhile()
                say(f"still {sentence}")
        turn.state = "changes"
        try:
            yield
        except BaseException:
            # Also if a command failed: pyinfra then closes the generator that yielded it.
            turn.state = "failed"
            raise
        else:
            if turn.state == "changes":
                turn.state = "done"
        finally:
            self._tell()

    def abandon(self, host: str) -> None:
        """Forget the turns of a host that failed."""
        for turn in self.turns:
            if turn.host == host and turn.state in ("announced", "waits"):
                turn.state = "done"
            elif turn.host == host and turn.state == "changes":
                turn.state = "failed"
        self._tell()

    def _tell(self) -> None:
        changed, self._changed = self._changed, Event()
        changed.set()


def _named(models: Collection[str]) -> str:
    return ", ".join(sorted(models))


def _waits_for(ahead: Sequence[Turn], turn: Turn) -> str:
    hosts = ", ".join(dict.fromkeys(other.host for other in ahead))
    serve = "serves" if len({other.host for other in ahead}) == 1 else "serve"
    models = _named({model for other in ahead for model in other.models & turn.models})
    again = " again" if all(other.serving & turn.models for other in ahead) else ""
    return f"waits until {hosts} {serve} {models}{again}"


def _stopped(broken: Turn, turn: Turn) -> str:
    models = _named(broken.models & turn.models)
    return (
        f"the agents of this host are left as they are: {broken.host} failed while its"
        f" agents of {models} were down. Repair {broken.host}, or take the change back, and deploy"
        " again; with vllm.change_together = True hosts do not wait for each other"
    )


def in_turn(
    hosts: Mapping[str, tuple[frozenset[str], frozenset[str]]],
    served: Collection[str],
    at_once: Mapping[str, Mapping[str, int]] | None = None,
) -> dict[str, Sequence[str]]:
    """For each host, the hosts that change before it.

    :param hosts: in the inventory's order, the models that change and those served now.
    :param served: models that some host serves.
    :param at_once: by host, as in ``Serving``.
    """
    turns = Turns()
    for order, (name, (models, serving)) in enumerate(hosts.items()):
        turns.announce(name, models, serving, order, (at_once or {}).get(name))
    turns.announce("", frozenset(), frozenset(served), len(hosts))
    return {
        turn.host: [other.host for other in ahead]
        for turn in turns.turns
        if (ahead := sorted(turns.ahead(turn, everybody=True), key=lambda other: other.rank))
    }


_turns = Turns()


def begin() -> Turns:
    """Begin a new run, without turns."""
    global _turns
    _turns = Turns()
    return _turns


def announce(
    models: frozenset[str], serving: frozenset[str], at_once: Mapping[str, int] | None = None
) -> Turn:
    """Announce a turn of the current host, which it takes later in this run."""
    names = [host.name for host in ctx_state.get().inventory]
    name = ctx_host.get().name
    return _turns.announce(name, models, serving, names.index(name), at_once)


def abandon(host: str) -> None:
    """Report that this host did not get its agents back: others with these models keep theirs."""
    _turns.abandon(host)


def announced() -> Turn | None:
    """The current host's last turn, if it was not taken yet."""
    name = ctx_host.get().name
    mine = [turn for turn in _turns.turns if turn.host == name and turn.state == "announced"]
    return mine[-1] if mine else None


@contextmanager
def turn_taken(turn: Turn, *, together: bool = False) -> Iterator[None]:
    """Take the current host's turn.

    :param together: wait for nobody.
    :raises HostError: a host with the same model failed in its turn.
    """
    if together:
        turn.state = "done"
        yield
        return
    host, state = ctx_host.get(), ctx_state.get()
    everybody = (state.config.PARALLEL or 0) >= len(state.active_hosts)

    def meanwhile() -> None:
        with suppress(OSError, EOFError, SSHException):
            host.run_shell_command(
                StringCommand("true"),
                print_output=False,
                print_input=False,
                **connector_options(state, host),
            )

    with _turns.taken(
        turn,
        everybody=everybody,
        say=lambda sentence: host.log(f"    {sentence}"),
        meanwhile=meanwhile,
    ):
        yield


class Ending(BaseStateCallback):
    """Ends the turn of a host whose operation failed, for whatever reason."""

    @staticmethod
    def operation_host_error(
        state: State, host: Host, op_hash: str, retry_count: int = 0, max_retries: int = 0
    ) -> None:
        abandon(host.name)
