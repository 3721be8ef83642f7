"""What differs on hosts from what a deploy would leave there. Nothing is written on any host."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import gevent
from pyinfra.api.command import FunctionCommand
from pyinfra.api.config import Config
from pyinfra.api.connect import disconnect_all
from pyinfra.api.host import Host
from pyinfra.api.state import State, StateStage
from pyinfra.context import ctx_config, ctx_host, ctx_inventory, ctx_state
from pyinfra_cli.util import load_deploy_file

from vllm_hosts.connect.connections import Connections
from vllm_hosts.errors import HostError, SettingsError
from vllm_hosts.facts import look
from vllm_hosts.facts.base import has_ended
from vllm_hosts.facts.tree import FileTexts
from vllm_hosts.host.changes import NOT_SHOWN, NOT_TEXT, changed_lines
from vllm_hosts.host.files import Cause, File, cause
from vllm_hosts.keys.places import site_of
from vllm_hosts.operations.base import fail
from vllm_hosts.operations.differences import Difference, listening
from vllm_hosts.project import run
from vllm_hosts.project.loaded import Project
from vllm_hosts.text import clean


@dataclass(frozen=True)
class Drifted:
    """One thing that a deploy would change. ``role`` owns it.

    ``cause`` says who changed the content of a file since the last deploy, where it is one that
    differs. ``diff`` has its lines: ``-`` as the host has them, ``+`` as a deploy writes them.
    ``missing``: nothing is at its path.
    """

    role: str
    what: str
    how: str
    cause: Cause | None = None
    diff: list[str] = field(default_factory=list)
    missing: bool = False

    def as_json(self) -> dict[str, Any]:
        """The names here are the names in the JSON, and stay."""
        return {
            "role": self.role,
            "what": self.what,
            "how": self.how,
            "cause": self.cause,
            "diff": self.diff,
        }


@dataclass
class HostDrift:
    """``unknown``: why something could not be checked; empty: everything could."""

    drifted: list[Drifted] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """The names here are the names in the JSON, and stay."""
        return {"drifted": [one.as_json() for one in self.drifted], "unknown": self.unknown}


def drift(project: Project, chosen: Iterable[str]) -> dict[str, HostDrift]:
    """By host: what a deploy would change. Looks with the deploy's own facts, and runs none of its
    commands.

    :param chosen: names of the hosts to check.
    :raises SettingsError: the settings cannot be deployed.
    """
    inventory = project.inventory
    deploy_file = site_of(project.file) / "deploy.py"
    if not deploy_file.is_file():
        raise SettingsError(
            [
                f"there is no {deploy_file}, and so nothing that a deploy of {project.file} would"
                " do; name the inventory of a site, which vllm-hosts init makes"
            ]
        )
    state = State(check_for_changes=False)
    state.cwd = str(deploy_file.parent)
    config = Config()
    ctx_state.set(state)
    ctx_config.set(config)
    ctx_inventory.set(inventory)
    run.install(project)
    limit = [inventory.get_host(name) for name in chosen]
    state.init(inventory, config, initial_limit=limit)
    found = {host.name: HostDrift() for host in inventory if state.is_host_in_limit(host)}
    state.set_stage(StateStage.Connect)
    reached = _connect(state, found)
    state.set_stage(StateStage.Prepare)
    if reached:
        load_deploy_file(state, str(deploy_file))
    with listening() as told:
        looks = [gevent.spawn(_look, state, host, found[host.name], told) for host in reached]
        gevent.joinall(looks, raise_error=True)
    state.set_stage(StateStage.Disconnect)
    disconnect_all(state)
    return found


def _connect(state: State, found: dict[str, HostDrift]) -> list[Host]:
    """Hosts that were reached. pyinfra's own ``connect_all`` ends the run where none is."""
    inventory = state.inventory
    reached = []
    for name, error in Connections(inventory, state).each(found, lambda _: None).items():
        host = inventory.get_host(name)
        if isinstance(error, HostError):
            found[name].unknown.append(str(error))
        else:
            state.activate_host(host)
            reached.append(host)
    return reached


def _look(state: State, host: Host, into: HostDrift, told: dict[str, list[Any]]) -> None:
    with ctx_state.use(state), ctx_host.use(host):
        for op_hash in state.get_op_order():
            if op_hash not in state.ops[host]:
                continue
            before = len(told.get(host.name, []))
            name = next(iter(state.get_op_meta(op_hash).names))
            role, _, what = name.partition(" | ")
            commands = list(state.get_op_data_for_host(host, op_hash).command_generator())
            failures = [sentence for command in commands if (sentence := _failure(command))]
            if failures and has_ended(host):
                # The rest would be as many sentences that say the same.
                into.unknown.append(failures[0])
                return
            into.unknown += [f"{role}: {sentence}" for sentence in failures]
            if failures or not commands:
                continue
            details = told.get(host.name, [])[before:]
            try:
                into.drifted += _explained(role, details) or [Drifted(role, what, "differs")]
            except HostError as error:
                into.unknown.append(f"{role}: {error}")


def _explained(role: str, details: list[Difference]) -> list[Drifted]:
    """What differs on the current host, with its cause, and the lines where they may be shown."""
    current = run.current()
    causes = {
        item.what: found
        for item in details
        if item.entry and item.found and (found := cause(item.entry, item.found))
    }
    shown = [
        item.what
        for item in details
        if item.what in causes and not (isinstance(item.entry, File) and item.entry.secret)
    ]
    texts = look(FileTexts, paths=shown, directory=current.settings.vllm.directory) if shown else {}
    return [
        Drifted(
            role,
            item.what,
            item.how,
            causes.get(item.what),
            _lines(item, texts.get(item.what)) if item.what in causes else [],
            missing=item.found is not None and item.found.kind == "-",
        )
        for item in details
    ]


def _lines(item: Difference, there: str | None) -> list[str]:
    if not isinstance(item.entry, File) or item.found is None or item.found.kind != "f":
        return []
    if item.entry.secret:
        return [NOT_SHOWN]
    try:
        wanted = item.entry.content.decode()
    except UnicodeDecodeError:
        return [NOT_TEXT]
    return [NOT_TEXT] if there is None else changed_lines(there, wanted)


def _failure(command: object) -> str | None:
    """The sentence of a command that only fails its host."""
    if isinstance(command, FunctionCommand) and command.function is fail:
        return clean(command.args[0])
    return None
