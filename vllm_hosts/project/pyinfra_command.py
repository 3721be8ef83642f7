"""pyinfra's own command: options that would fail unnoticed, and its confirmation."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from shlex import quote
from typing import Any, NoReturn

import click
from pyinfra.api.host import Host
from pyinfra.api.inventory import Inventory
from pyinfra.api.state import State, StateStage
from pyinfra_cli.exceptions import CliError

from vllm_hosts.keys.places import pyinfra_line, site_of
from vllm_hosts.project import ending
from vllm_hosts.project.inventory import LEFT, deployed


def options() -> dict[str, Any]:
    """What it was given; nothing where another command runs."""
    context = click.get_current_context(silent=True)
    return context.params if context else {}


def misused(sentence: str) -> NoReturn:
    """pyinfra would show a traceback of whatever is raised while config.py runs."""
    click.secho(f"--> {sentence}", fg="red", bold=True, err=True)
    raise SystemExit(ending.BAD_INPUT)


def check_options(given: Mapping[str, Any]) -> None:
    """:raises SystemExit: options with which failures would go unnoticed, or in a wrong order."""
    if given.get("no_wait"):
        misused("--no-wait exits with 0 after failures; leave it out")
    if given.get("dry") and given.get("yes"):
        misused(
            "--dry with -y (or PYINFRA_YES) checks nothing, and so reports nothing; leave -y out"
        )
    if wrong := [one for one in given.get("data") or () if "=" not in str(one)]:
        misused(f"--data {wrong[0]} has no value; write it as --data NAME=VALUE")
    inventory, files = str(given.get("inventory") or ""), given.get("operations") or ()
    ours = ("deploy.py", "keys.py", "rollback.py", "remove.py")
    if Path(inventory).name in ours and files:
        misused(f"the inventory comes first; run: pyinfra {files[0]} {inventory}")


def check_site(given: Mapping[str, Any], inventory: Path) -> None:
    """One site's deploy.py with another one's hosts and settings is nobody's intention.

    :raises SystemExit: they are of two sites.
    """
    site = site_of(inventory)
    if not inventory.is_file() or not (site / "deploy.py").is_file():
        return
    for file in map(Path, given.get("operations") or ()):
        if not file.is_file() or file.resolve().is_relative_to(site):
            continue
        if site != file.parent.resolve() and (site / file.name).is_file():
            misused(
                f"{file} is not of the site that {inventory} belongs to, which is {site}; type"
                f" {pyinfra_line(inventory, file.name)}"
            )


def without_config() -> str:
    """Why nothing was validated: pyinfra finds config.py in the folder that it is run in alone."""
    given = _typed()
    inventory = Path(str(given.get("inventory") or "INVENTORY"))
    files = [Path(str(file)) for file in given.get("operations") or ("deploy.py",)]
    names = " ".join(quote(file.name) for file in files)
    said = "pyinfra has not loaded config.py, so nothing was validated, and nothing was changed"
    site, other = site_of(inventory), files[0].parent.resolve()
    if site != Path.cwd() and inventory.is_file() and (site / "config.py").is_file():
        return f"{said}; run it in the site's own folder: {pyinfra_line(inventory, names)}"
    if other != Path.cwd() and (other / "config.py").is_file():
        line = f"cd {quote(str(other))} && pyinfra {quote(str(inventory.absolute()))} {names}"
        return f"{said}; run it in the folder that has it: {line}"
    return f"{said}; leave --config out, or run it in the folder that has config.py"


def _typed() -> dict[str, Any]:
    """The command's options, also in a greenlet of a host, where click knows of no command."""
    cli = sys.modules.get("pyinfra_cli.cli")
    if cli is None:
        return {}
    context = cli.cli.make_context("pyinfra", sys.argv[1:], resilient_parsing=True)
    found: dict[str, Any] = context.params
    return found


def check_limit(given: Mapping[str, Any], inventory: Inventory, file: Path) -> None:
    """pyinfra only warns of a name that is no host's, and does the rest: nothing, or too much.

    :raises SystemExit: such a name.
    """
    hosts = [*deployed(inventory), *inventory.groups.get(LEFT, ())]
    known = ", ".join(host.name for host in hosts)
    for pattern in given.get("limit") or ():
        if not _matching(pattern, hosts, inventory):
            misused(
                f"--limit {pattern} names no host that {file} deploys to; it has {known}. No host"
                " was changed"
            )
    for pattern in given.get("exclude") or ():
        if not _matching(pattern, inventory, inventory):
            misused(
                f"--exclude {pattern} names no host of {file}; it has {known}. No host was changed"
            )


def check_chosen(chosen: Sequence[Host]) -> None:
    """:raises SystemExit: no host is left."""
    if not chosen:
        misused("--limit and --exclude leave no host to deploy to; no host was changed")


def _matching(pattern: str, hosts: Iterable[Host], inventory: Inventory) -> list[Host]:
    """As pyinfra reads it: the name of a group, or a pattern of names."""
    if pattern in inventory.groups:
        return [host for host in hosts if pattern in host.groups]
    return [host for host in hosts if fnmatch(host.name, pattern)]


def only_keys(operations: Sequence[object]) -> bool:
    """Whether a run is of keys.py alone."""
    return [Path(str(operation)).name for operation in operations] == ["keys.py"]


def only_removal(operations: Sequence[object]) -> bool:
    """Whether a run is of remove.py alone."""
    return [Path(str(operation)).name for operation in operations] == ["remove.py"]


def data_again(given: Mapping[str, Any]) -> str:
    """The options ``--data`` as they were typed, for the line to type again."""
    return "".join(f"--data {quote(str(one))} " for one in given.get("data") or ())


def what_runs(*, ours: bool) -> str:
    """The name of what a run is made of, such as ``deploy.py``; a command of ours, such as drift,
    looks at what that would do."""
    files = () if ours else options().get("operations") or ()
    return "+".join(Path(str(file)).name for file in files) or "deploy.py"


def ask_somebody() -> None:
    """pyinfra asks before it changes anything, and breaks where nobody can answer."""
    cli = sys.modules.get("pyinfra_cli.cli")
    ask = getattr(cli, "_do_confirm", None)
    if cli is None or ask is None or getattr(ask, "says_why", False):
        return

    def asked(question: str) -> bool:
        try:
            answer: bool = ask(question)
        except EOFError:
            click.echo(err=True)
            refusal = CliError(
                "confirmation is needed, and there is no terminal to ask on; nothing more was"
                " changed. Add -y to go on without being asked, even if hosts cannot be reached"
            )
            refusal.exit_code = ending.BAD_INPUT
            raise refusal from None
        if not answer:
            ending.declined()
        return answer

    asked.says_why = True  # type: ignore[attr-defined]
    cli._do_confirm = asked  # type: ignore[attr-defined]


def with_old_keys(chosen: Iterable[Host], state: State) -> list[str]:
    """Hosts that a run of ``keys.py`` was for, and that have not taken the keys."""
    executed = state.current_stage in (StateStage.Execute, StateStage.Disconnect)
    return [
        host.name
        for host in chosen
        if not executed or host in state.failed_hosts or host not in state.activated_hosts
    ]


def say_who_has_old_keys(chosen: Iterable[Host], state: State, inventory: Path) -> None:
    """The last words of a run: its table counts the others only."""
    left = with_old_keys(chosen, state)
    if not left:
        return
    limits = " ".join(f"--limit {quote(name)}" for name in left)
    click.secho(f"--> Still with their old keys: {', '.join(left)}", fg="red", bold=True, err=True)
    click.echo("    Revoked keys still work there, and new ones do not. To finish, run:", err=True)
    click.echo(f"    {pyinfra_line(inventory, 'keys.py', f'-y {limits}')}", err=True)
