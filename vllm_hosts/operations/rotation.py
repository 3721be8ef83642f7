"""Agents leave rotation before they change, and come back once they answer.

Gateways are asked over the connections of this run, or new ones where it is limited to other hosts.
HAProxy itself keeps what was drained, so that a run which is cut off leaves nothing that the next
one does not see.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import gevent
from pyinfra.context import ctx_state

from vllm_hosts.connect.connections import Connections
from vllm_hosts.errors import HostError
from vllm_hosts.host import probe
from vllm_hosts.host.balancer import ServerState
from vllm_hosts.host.rotation import Balancer, Member, agent_of, telling
from vllm_hosts.operations.balancers import Gate, of_this_run, seen_at, told_at
from vllm_hosts.operations.base import Commands, host_operation
from vllm_hosts.settings.fleet import host_label

#: Seconds between two looks at gateways, the first ones sooner; until the first line about them,
#: and between further ones.
_LOOK_SOON, _LOOK_EVERY = 0.25, 2.0
_SAY_AFTER, _SAY_EVERY = 5.0, 30.0
#: Seconds within which gateways find an agent that answers.
_UP_WITHIN = 60.0
#: How often the host's own edge is asked for a token, and seconds in between.
_ASKED, _ASKED_EVERY = 15, 2.0


class NoEdge(str):
    """Why an agent does not answer: its host has no edge, as before the end of a first deploy."""

    __slots__ = ()


@dataclass(frozen=True, eq=False)
class Rotation:
    """The gateways in front of a host, and its agents there. Without gateways, nothing is done.

    :param timeout: seconds that running requests have to end.
    :param answers: asks the host's own edge for an agent's token; returns why it has none.
    """

    host: str = ""
    gates: tuple[Gate, ...] = ()
    timeout: int = 0
    answers: Callable[[str], str | None] = lambda agent: None
    connections: Callable[[], Connections] = of_this_run
    said: set[str] = field(default_factory=set, init=False)

    def reachable(self) -> None:
        """Have every gateway asked once.

        :raises HostError: one cannot be, and may have clients all the same.
        """
        if self.gates:
            self.looks()

    def out(self, agents: Collection[str], *, by_hand: bool = False, last: bool = False) -> None:
        """Have no gateway send requests to these agents any more, and wait until none runs.

        Where no other agent gets the requests of one, it is left as it is: clients would lose them
        for longer.

        :param by_hand: it stays so over deploys.
        :param last: drain it nevertheless.
        :raises HostError: a gateway cannot be asked, and may have clients all the same.
        """
        if not (self.gates and agents):
            return
        looks, going = self.looks(), {self.server(agent) for agent in agents}
        alone = {} if last else _alone(looks, going)
        wanted: dict[str, list[Member]] = {}
        leaving: dict[str, set[str]] = {}
        for gate, seen in looks.items():
            for server in seen.of(going):
                if gate in alone.get(server.agent, ()):
                    continue
                if server.takes or (by_hand and not server.by_hand):
                    wanted.setdefault(gate, []).append(server)
                # Of one that is down, HAProxy has ended the requests.
                if server.takes or server.drained or (server.gone and server.running):
                    leaving.setdefault(gate, set()).add(server.name)
        for agent, gates in sorted(alone.items()):
            self._say(
                f"no other agent answers for {agent} at {', '.join(gates)}, so requests go on to it"
                " until it stops"
            )
        if wanted:
            names = _agents(one for ones in wanted.values() for one in ones)
            self._say(f"{', '.join(wanted)}: no new requests to {', '.join(names)}")
            self._tell(
                {
                    gate: telling(ones, ServerState.DRAIN, by_hand=by_hand)
                    for gate, ones in wanted.items()
                }
            )
        if leaving:
            self._empty(leaving)

    def back(
        self,
        agents: Collection[str],
        *,
        by_hand: bool = False,
        tolerant: bool = False,
        again_later: bool = False,
    ) -> None:
        """Put agents back that are out of rotation, once their host's edge answers for them, and
        wait until every gateway finds them well.

        :param by_hand: those too that somebody drained by hand.
        :param tolerant: go on without a gateway that cannot be asked.
        :param again_later: the same run does this once more, when the host has its edge.
        :raises HostError: an agent does not answer, or a gateway does not find it well.
        """
        if not (self.gates and agents):
            return
        looks = self.looks(tolerant=tolerant)
        names = {self.server(agent) for agent in agents}
        out = {gate: [one for one in seen.of(names) if one.drained] for gate, seen in looks.items()}
        if not by_hand:
            for agent in _agents(one for ones in out.values() for one in ones if one.by_hand):
                self._say(
                    f"{agent} was drained by hand and stays so until `vllm-hosts agents INVENTORY"
                    " undrain`"
                )
            out = {gate: [one for one in ones if not one.by_hand] for gate, ones in out.items()}
        out = {gate: ones for gate, ones in out.items() if ones}
        if not out:
            return
        for agent in _agents(one for ones in out.values() for one in ones):
            why = self._asked(agent, again_later=again_later)
            if again_later and isinstance(why, NoEdge):
                self._say(f"{agent} gets requests once its host has its edge, later in this run")
                return
            if why:
                raise HostError(
                    f"agent {agent} gets no requests from gateways, since its host's edge does not"
                    f" answer for it: {why}; see vllm-hosts doctor, and deploy again: that puts it"
                    " back"
                )
        self._tell(
            {gate: telling(ones, ServerState.READY, by_hand=False) for gate, ones in out.items()}
        )
        self._found_well({gate: {one.name for one in ones} for gate, ones in out.items()})

    def drained(self) -> dict[str, list[str]]:
        """By agent of this host, the gateways at which it is out of rotation.

        :raises HostError: as ``looks``.
        """
        found: dict[str, list[str]] = {}
        mine = f".{host_label(self.host)}"
        for gate, seen in self.looks(tolerant=True).items():
            for server in seen.servers:
                if server.drained and server.name.endswith(mine):
                    found.setdefault(server.name.removesuffix(mine), []).append(gate)
        return found

    def looks(
        self, *, tolerant: bool = False, only: Collection[str] | None = None
    ) -> dict[str, Balancer]:
        """What gateways see now; without those that pass nothing on.

        A gateway that answers neither SSH nor clients from here counts as down: waiting for it
        would mean that with one of two gateways lost, nothing can be repaired behind the other.

        :param tolerant: without those that cannot be asked as well.
        :param only: the names of those to ask; None: all.
        :raises HostError: one cannot be asked, and answers clients.
        """
        connections, asked = self.connections(), time.monotonic()
        jobs = {
            gate: gevent.spawn(seen_at, connections, gate.name, asked)
            for gate in self.gates
            if only is None or gate.name in only
        }
        gevent.joinall(jobs.values(), raise_error=True)
        found = {}
        for gate, job in jobs.items():
            if isinstance(seen := job.value, HostError):
                if tolerant:
                    self._say_once(f"{gate.name} is not asked: {seen}")
                elif probe.reachable(gate.address, gate.port):
                    raise HostError(
                        f"gateway {gate.name} answers clients and cannot be asked to send them"
                        f" elsewhere: {seen}; nothing was done to the agents behind it. Repair the"
                        " way to it, or take it out of gateways and out of service, and run this"
                        " again"
                    )
                else:
                    self._say_once(
                        f"{gate.name} counts as down: neither SSH nor port {gate.port} answers"
                    )
            elif seen is not None:
                found[gate.name] = seen
        return found

    def server(self, agent: str) -> str:
        """An agent's name in HAProxy."""
        return f"{agent}.{host_label(self.host)}"

    def _say(self, text: str) -> None:
        self.connections().state.inventory.get_host(self.host).log(f"    {text}")

    def _say_once(self, text: str) -> None:
        if text not in self.said:
            self.said.add(text)
            self._say(text)

    def _tell(self, scripts: Mapping[str, str]) -> None:
        """Run a script at each of these gateways."""
        connections = self.connections()
        jobs = {
            gate: gevent.spawn(told_at, connections, gate, script)
            for gate, script in scripts.items()
        }
        gevent.joinall(jobs.values(), raise_error=True)
        for gate, job in jobs.items():
            if isinstance(job.value, HostError):
                raise HostError(
                    f"HAProxy of gateway {gate} did not do what it was told: {job.value}; see"
                    f" vllm-hosts doctor there, and run this again"
                ) from job.value

    def _empty(self, leaving: Mapping[str, Collection[str]]) -> None:
        """Wait until nothing runs at these servers, and print who has how much to do."""
        began, due, pause = time.monotonic(), _SAY_AFTER, _LOOK_SOON
        agents = {agent_of(name) for names in leaving.values() for name in names}
        while True:
            busy = self._busy(leaving)
            waited = time.monotonic() - began
            if not busy:
                self._say(f"{_listed(agents)}: no request runs, after {waited:.0f} s")
                return
            if waited >= self.timeout:
                self._say(
                    f"still running after {waited:.0f} s (gateway.drain_timeout), and not waited"
                    f" for: {_listed(busy)}"
                )
                return
            if waited >= due:
                due = waited + _SAY_EVERY
                self._say(
                    f"waiting for running requests: {waited:.0f} s of {self.timeout},"
                    f" {_listed(busy)}"
                )
            time.sleep(min(pause, max(0.0, self.timeout - waited)))
            pause = min(2 * pause, _LOOK_EVERY)

    def _busy(self, leaving: Mapping[str, Collection[str]]) -> list[str]:
        """Who still runs how many, in words."""
        looks = self.looks(tolerant=True, only=leaving)
        return [
            f"{one.agent} {one.running} from {gate}"
            for gate, names in leaving.items()
            if gate in looks
            for one in looks[gate].of(names)
            if one.running
        ]

    def _asked(self, agent: str, *, again_later: bool) -> str | None:
        """Why the host's edge does not answer for an agent, after some time."""
        for left in range(_ASKED, 0, -1):
            why = self.answers(agent)
            if why is None or (again_later and isinstance(why, NoEdge)):
                return why
            if left > 1:
                time.sleep(_ASKED_EVERY)
        return why

    def _found_well(self, waiting: Mapping[str, Collection[str]]) -> None:
        began, pause = time.monotonic(), _LOOK_SOON
        while True:
            looks = self.looks(tolerant=True, only=waiting)
            missing = [
                f"{one.agent} at {gate}"
                for gate, names in waiting.items()
                if gate in looks
                for one in looks[gate].of(names)
                if not one.takes
            ]
            waited = time.monotonic() - began
            if not missing:
                agents = {agent_of(name) for names in waiting.values() for name in names}
                self._say(f"{', '.join(waiting)}: requests go to {_listed(agents)} again")
                return
            if waited >= _UP_WITHIN:
                raise HostError(
                    f"gateways do not find these agents well after {waited:.0f} s:"
                    f" {', '.join(missing)}; see vllm-hosts doctor, and deploy again"
                )
            time.sleep(pause)
            pause = min(2 * pause, _LOOK_EVERY)


def alone(going: Mapping[Rotation, Collection[str]]) -> dict[str, list[str]]:
    """By agent, the gateways at which nobody would answer in the place of these. All are agents of
    hosts that are behind the same gateways.

    :raises HostError: as ``Rotation.looks``.
    """
    servers = {one.server(agent) for one, agents in going.items() for agent in agents}
    return _alone(next(iter(going)).looks(), servers) if going else {}


def _alone(looks: Mapping[str, Balancer], going: Collection[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for gate, seen in looks.items():
        last = [one for one in seen.of(going) if one.takes and not seen.others_take(one, going)]
        for agent in _agents(last):
            found.setdefault(agent, []).append(gate)
    return found


def _agents(servers: Iterable[Member]) -> list[str]:
    return sorted({one.agent for one in servers})


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


@host_operation
def in_rotation(rotation: Rotation, agents: Sequence[str]) -> Commands:
    """Put agents back that a run which was cut off, or failed, has left out of rotation. To be
    called once their host's edge has its keys. Never counts as a change."""
    if ctx_state.get().is_executing:
        rotation.back(agents, tolerant=True)
    yield from ()


@host_operation
def out_of_rotation(rotation: Rotation, agents: Sequence[str]) -> Commands:
    """Have gateways send no more requests to agents that are about to go."""
    if ctx_state.get().is_executing:
        rotation.out(agents)
    yield from ()
