"""A host is held for one deploy, before anything is asked of it."""

from __future__ import annotations

from pyinfra.api.host import Host
from pyinfra.api.state import BaseStateCallback, State, StateStage
from pyinfra.context import ctx_state

from vllm_hosts.connect import alongside, lock
from vllm_hosts.operations.base import Commands, host_operation, say_if_lost


@host_operation
def host_held(purpose: lock.Purpose) -> Commands:
    """Wait until nobody else changes this host, and keep others from it until the run ends.

    Never counts as a change, and a run that only looks holds nothing.
    """
    if ctx_state.get().is_executing:
        lock.take(purpose)
    yield from ()


class Releasing(BaseStateCallback):
    """A host is free again when the run has ended there, however that came."""

    @staticmethod
    def operation_host_error(
        state: State, host: Host, op_hash: str, retry_count: int = 0, max_retries: int = 0
    ) -> None:
        say_if_lost(state, host)
        alongside.end(host)
        lock.release(host, f"failed at {next(iter(state.get_op_meta(op_hash).names))}")

    @staticmethod
    def host_disconnect(state: State, host: Host) -> None:
        done = state.current_stage is StateStage.Disconnect
        lock.release(host, "done" if done else "interrupted")
