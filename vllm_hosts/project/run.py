"""Between pyinfra and the roles: what ``config.py`` calls, and what a role asks for."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import click
from pyinfra.api.exceptions import PyinfraError
from pyinfra.context import ctx_config, ctx_host, ctx_state

from vllm_hosts import compiled_once
from vllm_hosts.connect import pyinfra_output, pyinfra_speed
from vllm_hosts.connect.lock import Purpose
from vllm_hosts.errors import HostError
from vllm_hosts.facts import ahead, look
from vllm_hosts.facts.answered_inside import AnsweredInside
from vllm_hosts.host import probe
from vllm_hosts.host.marks import DEPLOY_SINCE, deploy_mark
from vllm_hosts.keys import ClientKey, HostKeys, OpenedStore
from vllm_hosts.keys.ownership import Claim
from vllm_hosts.keys.pki import utc_now
from vllm_hosts.keys.places import client_ca_file
from vllm_hosts.operations import one_by_one
from vllm_hosts.operations.one_by_one import Serving
from vllm_hosts.operations.rotation import Rotation
from vllm_hosts.operations.way_back import Way
from vllm_hosts.project import ending, outlook, pyinfra_command
from vllm_hosts.project.before import Run, initialise, load_our_way
from vllm_hosts.project.loaded import Project
from vllm_hosts.project.rotation import asked_inside, rotation_of
from vllm_hosts.project.site import held_for, import_from
from vllm_hosts.settings import HostSettings


@dataclass(frozen=True)
class Current:
    """What a role needs to know of the current host.

    ``on_hosts``: by model, how many hosts of the inventory serve it; ``in_front``: makes what the
    gateways in front of this one are told by.
    """

    settings: HostSettings
    keys: HostKeys
    store: OpenedStore
    on_hosts: Mapping[str, int] = field(default_factory=dict)
    in_front: Callable[[], Rotation] = Rotation

    @property
    def rotation(self) -> Rotation:
        """The gateways in front of this host."""
        return self.in_front()

    @property
    def serving(self) -> Serving:
        """What other hosts of the run may serve as well."""
        settings = self.settings
        return Serving(
            {agent.name: agent.client_model_name for agent in settings.agents},
            settings.vllm.directory,
            settings.vllm.health_timeout,
            settings.vllm.change_together,
            {
                model: settings.rolling.hosts(self.on_hosts.get(model, 1))
                for model in {agent.client_model_name for agent in settings.agents}
            },
            self.rotation,
        )

    @property
    def way(self) -> Way:
        """What is needed to put agents back to what they were."""
        return Way(
            directory=self.settings.vllm.directory,
            key_of=self.keys.internal_of,
            token=self.keys.hf_token,
            serving=self.serving,
            edge_is_up=self.edge_is_up,
            automatic=self.settings.vllm.roll_back,
        )

    @property
    def ca_file(self) -> str | None:
        """The CA that signed the edge's certificate; None: one that everybody knows."""
        return client_ca_file(self.settings, self.store.folder)

    def edge_is_up(self) -> bool:
        """What the edge says of its first agent, asked from here; of a machine that is a gateway as
        well, what its port for gateways says."""
        settings = self.settings
        if settings.is_gateway:
            asked = asked_inside(settings, settings.agents[0].name, "/v1/models")
            try:
                found = look(AnsweredInside, **asked)
            except HostError:
                return False
            return isinstance(found, probe.Response) and found.status == 200
        try:
            answer = probe.get(
                settings.address,
                settings.edge.https_port,
                "/health",
                name=settings.edge_names[0],
                ca_file=self.ca_file,
            )
        except OSError:
            return False
        return answer.status == 200


@dataclass(frozen=True)
class AtHand:
    """What is known of a host that need not be in the inventory any more.

    :param listed: whether it is.
    """

    claim: Claim
    clients: tuple[ClientKey, ...]
    listed: bool

    @property
    def agents(self) -> tuple[str, ...]:
        """Names of the agents that the host has."""
        return self.claim.way.agents


_run: Run | None = None


def install(project: Project | None = None) -> None:
    """Have everything validated before the first connection. Called by ``config.py``.

    pyinfra loads ``config.py`` before the inventory, and has no other place for this.

    :param project: of a command of ours, which no pyinfra command says.
    :raises SystemExit: an option with which failures would go unnoticed.
    """
    global _run
    context = click.get_current_context(silent=True)
    if context and project is None:
        # First: until then pyinfra ends with 0 if it is interrupted.
        ending.listen(ctx_state.get())
        # The last of what is done then.
        context.call_on_close(ending.keep_code)
    compiled_once()
    pyinfra_output.install()
    pyinfra_speed.install()
    pyinfra_speed.few_collections()
    options = pyinfra_command.options()
    pyinfra_command.check_options(options)
    pyinfra_command.ask_somebody()
    named = project.file if project else options.get("inventory")
    if named is None:
        pyinfra_command.misused(
            "the inventory's file is not known; run pyinfra INVENTORY deploy.py"
        )
    _run = Run(
        Path(named),
        dry=bool(options.get("dry")),
        ours=project is not None,
        what=pyinfra_command.what_runs(ours=project is not None),
        keys_only=pyinfra_command.only_keys(options.get("operations") or ()),
        removal=pyinfra_command.only_removal(options.get("operations") or ()),
        project=project,
    )
    _made.clear()
    one_by_one.begin()
    if not _run.ours:
        pyinfra_command.check_site(options, _run.file)
        outlook.install(dry=_run.dry)
    if context and not options.get("dry") and "operations" in options:
        # Of pyinfra's own command alone: what only looks is no deploy. config.ENV would be lost:
        # pyinfra copies the configuration for each file that it runs, without that.
        config = ctx_config.get()
        os.environ[DEPLOY_SINCE] = deploy_mark(utc_now())
        config.INHERIT_ENV = (*config.INHERIT_ENV, DEPLOY_SINCE)
    state = ctx_state.get()
    if _run.file.is_file():
        # pyinfra looks there for group data and for SSH keys with relative names.
        state.cwd = import_from(_run.file)
    state.init = partial(initialise, _run, state, state.init)
    if context and not _run.ours:
        load_our_way(_run)
    run = _run
    if context:
        context.call_on_close(lambda: ahead.end(state))
    if context and not (run.ours or run.dry or run.keys_only):
        file = " ".join(Path(str(name)).name for name in options.get("operations") or ())
        further = pyinfra_command.data_again(options) if run.removal else ""
        context.call_on_close(
            lambda: ending.say_how_to_retry(lambda: run.chosen, state, run.file, file, further)
        )
    if context and run.keys_only and not run.dry:
        context.call_on_close(
            lambda: pyinfra_command.say_who_has_old_keys(run.chosen, state, run.file)
        )


def _loaded() -> Project:
    if _run is None or _run.project is None:
        raise PyinfraError(pyinfra_command.without_config())
    return _run.project


def current() -> Current:
    """Settings and secrets of the host that pyinfra is at.

    :raises PyinfraError: ``config.py`` was not loaded, as when run from another folder.
    """
    project, name = _loaded(), ctx_host.get().name
    made = _made.get(name)
    if made is None or made[0] is not project:
        made = _made[name] = project, _current(project, name)
    return made[1]


#: By host, with the project that they are of: what roles work out for one is found by another.
_made: dict[str, tuple[Project, Current]] = {}


def _current(project: Project, name: str) -> Current:
    return Current(
        project.settings[name],
        project.keys[name],
        project.opened,
        project.on_hosts,
        partial(rotation_of, project, name),
    )


def purpose() -> Purpose:
    """What hosts are held for by this run, as others there read it."""
    project = _loaded()
    return held_for(_run.what if _run else "deploy.py", project.file)


def at_hand() -> AtHand:
    """What is known of the host that pyinfra is at, also where only the store remembers it.

    :raises PyinfraError: as ``current``.
    """
    project, name = _loaded(), ctx_host.get().name
    if name not in project.settings:
        opened = project.opened
        way = opened.content.hosts[name]
        return AtHand(Claim(name, project.file, opened, way), opened.client_keys(name), False)
    return AtHand(project.claim(name), project.keys[name].clients, True)
