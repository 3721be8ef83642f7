"""testinfra over pyinfra's own connection, so that what can be deployed can be verified."""

from __future__ import annotations

import base64
from typing import Any

from pyinfra.api.arguments import CONNECTOR_ARGUMENT_KEYS, pop_global_arguments
from pyinfra.api.command import StringCommand
from pyinfra.api.host import Host
from pyinfra.api.inventory import Inventory
from pyinfra.api.state import State
from pyinfra.context import ctx_host, ctx_state
from testinfra.backend.base import BaseBackend, CommandResult
from testinfra.host import Host as TestinfraHost

from vllm_hosts.connect import pyinfra_output, pyinfra_speed
from vllm_hosts.connect.connections import Connections
from vllm_hosts.connect.reach import named, saying
from vllm_hosts.errors import HostError
from vllm_hosts.host.paths import LOOK

_MARK = "vllm-hosts-end"


class PyinfraBackend(BaseBackend):  # type: ignore[misc]
    """Runs testinfra's commands as the deploy runs its own: same connector, user and sudo."""

    NAME = "pyinfra"

    def __init__(self, state: State, host: Host) -> None:
        super().__init__(host.name)
        self._state = state
        self._host = host

    def run(self, command: str, *args: str, **kwargs: Any) -> CommandResult:
        """Run a shell command on the host.

        :raises HostError: the connection is lost, or sudo is refused; that is no exit code.
        """
        script = self.get_command(command, *args)
        # Output is sent as base64: pyinfra splits it into lines and prints some of them.
        wrapped = (
            f"own=$(mktemp -d {LOOK} 2>/dev/null || mktemp -d)\n"
            'out="$own/out" err="$own/err"; trap \'rm -rf "$own"\' EXIT\n'
            f'( {script}\n) >"$out" 2>"$err" </dev/null; echo "code $?"\n'
            f'base64 -w 0 "$out"; echo; base64 -w 0 "$err"; echo; echo {_MARK}'
        )
        with ctx_state.use(self._state), ctx_host.use(self._host), saying(self._host):
            arguments, _ = pop_global_arguments(self._state, self._host, {})
            options = {key: arguments.get(key) for key in CONNECTOR_ARGUMENT_KEYS}
            _, output = self._host.run_shell_command(
                StringCommand(wrapped), print_output=False, print_input=False, **options
            )
        lines = output.stdout_lines
        if len(lines) < 4 or lines[-1] != _MARK:
            said = " ".join(output.stderr.split()) or "the connection ended"
            raise HostError(f"{self._host.name}: a command got no answer: {said}")
        code, out, err = lines[-4:-1]
        return self.result(
            int(code.removeprefix("code ")),
            self.encode(script),
            base64.b64decode(out),
            base64.b64decode(err),
        )


class CheckedHost(TestinfraHost):  # type: ignore[misc]
    """testinfra's host; if a query fails, that is not a broken promise."""

    def check_output(self, command: str, *args: str, **kwargs: Any) -> str:
        """A command's output.

        :raises HostError: its exit code is not 0, so there is nothing to judge.
        """
        done = self.run(command, *args, **kwargs)
        if done.rc != 0:
            words = done.stderr.strip().splitlines() or [f"exit code {done.rc}"]
            raise HostError(f"{self.backend.hostname}: {command.split()[0]} failed: {words[-1]}")
        return str(done.stdout).rstrip("\r\n")


class Hosts:
    """Connections to an inventory's hosts, made when a host is first needed."""

    def __init__(self, inventory: Inventory) -> None:
        pyinfra_output.install()
        pyinfra_speed.install()
        self._connections = Connections(inventory)
        self._made: dict[str, TestinfraHost | HostError] = {}

    def get(self, name: str) -> TestinfraHost:
        """A host for testinfra.

        :raises HostError: it cannot be reached, or does not let us in. Tried once only.
        """
        if name not in self._made:
            self._made[name] = self._connect(name)
        found = self._made[name]
        if isinstance(found, HostError):
            raise found
        return found

    def _connect(self, name: str) -> TestinfraHost | HostError:
        state = self._connections.state
        host = state.inventory.get_host(name)
        try:
            self._connections.at(name, lambda: None)
        except HostError as error:
            return named(host, error)
        return CheckedHost(PyinfraBackend(state, host))
