"""Reboots hosts: one at a time, and none after one that did not come back."""

from __future__ import annotations

import time
from pathlib import Path

import gevent
from gevent.lock import BoundedSemaphore
from pyinfra import logger
from pyinfra.api.command import FunctionCommand, StringCommand
from pyinfra.api.host import Host
from pyinfra.api.state import State
from pyinfra.connectors.util import clear_askpass_cache

from vllm_hosts.connect import lock
from vllm_hosts.errors import HostError
from vllm_hosts.operations.base import fail
from vllm_hosts.operations.confirmed import connector_options

_BOOT_ID = "cat /proc/sys/kernel/random/boot_id"
#: Seconds for one attempt to connect and ask.
_PATIENCE = 20
#: pyinfra works on all hosts at once, in greenlets of one process.
_one_at_a_time = BoundedSemaphore(1)
_gone: list[str] = []


def rebooted(why: str, timeout: int) -> FunctionCommand:
    """A command that reboots its host and waits until it takes commands again.

    :param why: the reason, which is printed.
    :param timeout: seconds in which it must be back.
    """
    return FunctionCommand(_reboot, (why, timeout), {})


def _reboot(state: State, host: Host, why: str, timeout: int) -> bool:
    with _one_at_a_time:
        if _gone:
            return fail(
                state,
                host,
                f"a reboot is needed ({why}), and was not tried since {_gone[0]} did not come back"
                " from its own; check that host first",
            )
        before = _boot_id(state, host)
        if before == _own_boot_id():
            return fail(
                state,
                host,
                f"a reboot is needed ({why}), and this deploy runs on the machine itself; reboot it"
                " (systemctl reboot), then run this again",
            )
        host.log(f"    rebooting: {why}")
        host.run_shell_command(
            # In the background, so that we do not wait for a connection that breaks.
            StringCommand("( sleep 1; systemctl reboot ) </dev/null >/dev/null 2>&1 &"),
            print_output=False,
            print_input=False,
            **connector_options(state, host),
        )
        started = time.monotonic()
        while time.monotonic() - started < timeout:
            time.sleep(3)
            if _boot_id_anew(state, host) not in (None, before):
                host.log(f"    is back after {time.monotonic() - started:.0f} s")
                try:
                    lock.again(host)
                except HostError as error:
                    return fail(state, host, str(error))
                return True
        _gone.append(host.name)
        return fail(
            state, host, f"the host did not come back within {timeout} s from a reboot ({why})"
        )


def _boot_id(state: State, host: Host) -> str | None:
    """The kernel's identifier of this boot (proc_sys_kernel_random(5)); None: no answer."""
    done, output = host.run_shell_command(
        StringCommand(_BOOT_ID),
        print_output=False,
        print_input=False,
        **connector_options(state, host),
    )
    return output.stdout.strip() if done else None


def _own_boot_id() -> str | None:
    """This machine's own; None if it has none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None


def _boot_id_anew(state: State, host: Host) -> str | None:
    """The same over a new connection: the old one may hang if the host is down."""
    with gevent.Timeout(_PATIENCE, False):
        try:
            # Files on the host for sudo are gone after a reboot.
            clear_askpass_cache(host)
            host.disconnect()
            host.connect(show_errors=False)
            return _boot_id(state, host) if host.connected else None
        except Exception as error:
            # While a host goes down or comes up, anything may fail: it is polled again.
            logger.debug(f"{host.name} does not answer yet: {error!r}")
    return None
