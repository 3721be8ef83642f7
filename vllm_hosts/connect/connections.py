"""How commands, the doctor and the hosts suite connect to hosts and run something there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import gevent
from pyinfra.api.arguments import CONNECTOR_ARGUMENT_KEYS, pop_global_arguments
from pyinfra.api.command import PyinfraCommand, StringCommand
from pyinfra.api.config import Config
from pyinfra.api.host import Host
from pyinfra.api.inventory import Inventory
from pyinfra.api.state import State
from pyinfra.connectors.util import CommandOutput
from pyinfra.context import ctx_host, ctx_state

from vllm_hosts.connect import sudo
from vllm_hosts.connect.reach import connect, disconnect, require_root, saying
from vllm_hosts.connect.stopping import interruptible
from vllm_hosts.errors import HostError
from vllm_hosts.facts import HostFact

T = TypeVar("T")


class Connections:
    """Hosts of an inventory, connected to when they are first needed.

    :param state: pyinfra's, if there is one already.
    """

    def __init__(self, inventory: Inventory, state: State | None = None) -> None:
        self.state = state or State(inventory, Config())
        self.state.cwd = self.state.cwd or keys_from(inventory)
        interruptible()

    def at(self, name: str, do: Callable[[], T], *, limit: float | None = None) -> T:
        """Do something at a host: with ``ask_host``, ``carry_out``, or facts.

        :param limit: seconds; a host that has not answered by then is reconnected to next time.
        :raises HostError: the host cannot be reached, sudo is refused, or ``do`` raises it.
        """
        host = self.state.inventory.get_host(name)
        questions = sudo.questions
        try:
            with gevent.Timeout(limit), at_host(self.state, host), saying(host):
                connect_as_root(host)
                return do()
        except gevent.Timeout as late:
            self.drop(name)
            if sudo.questions != questions:
                # While somebody types a password, nothing else continues.
                return self.at(name, do, limit=limit)
            raise HostError(f"no answer within {late.seconds:g} s") from None

    def each(
        self,
        names: Iterable[str],
        do: Callable[[str], T],
        *,
        limit: float | None = None,
        leave: bool = False,
    ) -> dict[str, T | HostError]:
        """Do the same at several hosts at the same time; one host's failure stays its own.

        :param leave: disconnect from each host when it is done.
        """

        def one(name: str) -> T | HostError:
            try:
                return self.at(name, lambda: do(name), limit=limit)
            except HostError as error:
                return error
            finally:
                if leave:
                    disconnect(self.state.inventory.get_host(name))

        jobs = {name: gevent.spawn(one, name) for name in names}
        gevent.joinall(jobs.values(), raise_error=True)
        return {name: job.value for name, job in jobs.items()}

    def where_somebody_types(self, names: Iterable[str]) -> list[str]:
        """Hosts for which somebody may have to type a password at the first connection."""
        inventory = self.state.inventory
        return [name for name in names if sudo.may_ask(self.state, inventory.get_host(name))]

    def drop(self, name: str) -> None:
        """Forget a connection, which may be dead; the next use makes a new one."""
        host = self.state.inventory.get_host(name)
        client = getattr(host.connector, "client", None)
        if client is not None:
            gevent.spawn(client.close)
        host.connected = False


def keys_from(inventory: Inventory) -> str | None:
    """The folder that relative paths of SSH keys start from; None: the current one."""
    site = getattr(inventory, "site", None)
    return str(site) if site else None


def connect_as_root(host: Host) -> None:
    """Connect to the current host, and check that commands there run as root.

    :raises HostError: why that is not possible, without the host's name.
    """
    if host.connected:
        return
    connect(host)
    try:
        output = _run(host, StringCommand("id -u"))
        require_root("".join(output.stdout_lines).strip(), _words(output))
    except HostError:
        host.connected = False
        raise


def ask_host(fact: type[HostFact[T]], **arguments: object) -> T:
    """Read a fact of the current host. Prints nothing: the exception says what went wrong.

    :raises HostError: the connection is lost, or the fact cannot be read.
    """
    asked = fact()
    output = _run(ctx_host.get(), StringCommand(asked.command(**arguments)))
    lines = list(output.stdout_lines)
    if output.failed and (words := _words(output)):
        raise HostError(f"{fact.what} could not be read: {words}")
    return asked.process(lines)


def carry_out(commands: Iterable[PyinfraCommand]) -> None:
    """Run commands on the current host, one after the other, as a deploy would.

    :raises HostError: one of them failed; those after it were not run.
    """
    for command in commands:
        output = _run(ctx_host.get(), command)
        if output.failed:
            raise HostError(_words(output) or "a command failed; see its output above")


class _Output(CommandOutput):
    failed: bool = False


def _run(host: Host, command: PyinfraCommand) -> _Output:
    state = ctx_state.get()
    given, _ = pop_global_arguments(state, host, {})
    options = {key: given.get(key) for key in CONNECTOR_ARGUMENT_KEYS}
    with saying(host):
        done, output = command.execute(state, host, options)  # type: ignore[arg-type]
    found = _Output(list(output))
    found.failed = not done
    return found


def _words(output: CommandOutput) -> str:
    """The last line that a command printed."""
    lines = [line.strip() for line in output.stderr_lines or output.stdout_lines if line.strip()]
    return lines[-1] if lines else ""


@contextmanager
def at_host(state: State, host: Host) -> Iterator[None]:
    """Make this pyinfra's current host in this greenlet."""
    # pyinfra's own ``use`` does not restore the previous one after an exception.
    ctx_state.set(state)
    ctx_host.set(host)
    try:
        yield
    finally:
        ctx_host.reset()
