"""Commands for what goes on beside a run's other operations on a host."""

from __future__ import annotations

from pyinfra.api.command import FunctionCommand
from pyinfra.api.host import Host
from pyinfra.api.state import State
from pyinfra.context import ctx_host

from vllm_hosts.connect import alongside
from vllm_hosts.facts.base import LOST, has_ended
from vllm_hosts.operations.base import Commands, Shown, fail


def begun_here(command: Shown) -> Commands:
    """Start a command, and go on. Without a session for it, it is not begun."""
    yield FunctionCommand(_begin, (str(command.get_raw_value()),), {})


def awaited_here(label: str) -> FunctionCommand | None:
    """The command that waits for what has begun on this host; None: nothing has."""
    if not alongside.has_begun(ctx_host.get()):
        return None
    return FunctionCommand(_await, (label,), {})


def _begin(state: State, host: Host, script: str) -> bool:
    alongside.begin(state, host, script)
    return True


def _await(state: State, host: Host, label: str) -> bool:
    code, errors = alongside.ended(host)
    if code == 0:
        return True
    if code is None and has_ended(host):
        return fail(state, host, LOST)
    for line in errors.splitlines() or [f"{label} was ended on the host"]:
        fail(state, host, line)
    return False
