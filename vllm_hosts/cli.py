"""The command `vllm-hosts`: what people do with an inventory besides deploying it.

Exit codes: 0 all is well; 1 something is wrong, and was said; 2 the command was misused.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import ParamSpec

# isort: off
import pyinfra_cli  # noqa: F401  replaces the socket module by gevent's: before anybody uses ssl

# isort: on
import click

from vllm_hosts import __version__, keys
from vllm_hosts.controller import state_folder
from vllm_hosts.endpoints import endpoints as all_endpoints
from vllm_hosts.errors import SettingsError
from vllm_hosts.inventory import load, validate
from vllm_hosts.settings import HostSettings

P = ParamSpec("P")
_SUITE = Path(__file__).resolve().parent.parent / "tests" / "hosts"

inventory_argument = click.argument(
    "inventory", type=click.Path(path_type=Path), metavar="INVENTORY"
)


def _says_problems(command: Callable[P, None]) -> Callable[P, None]:
    """Settings that cannot be deployed end a command with their sentences and exit code 1."""

    @wraps(command)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except SettingsError as error:
            click.secho("The settings cannot be deployed:", fg="red", bold=True, err=True)
            for problem in error.problems:
                click.echo(f"  - {problem}", err=True)
            sys.exit(1)

    return guarded


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """Check, call and verify hosts that `pyinfra INVENTORY deploy.py` deploys to.

    Completion for bash: eval "$(_VLLM_HOSTS_COMPLETE=bash_source vllm-hosts)"
    """


@main.command()
@inventory_argument
@_says_problems
def check(inventory: Path) -> None:
    """Validate all settings. Connects to nothing.

    Example: vllm-hosts check inventory/prod.py
    """
    settings = _settings(inventory)
    for host in settings.values():
        click.secho(f"{host.name} ({host.address})", bold=True)
        for agent in host.agents:
            click.echo(f"  {agent.name:16} {agent.model:32} port {agent.port}  {_gpus(agent.gpus)}")
    agents = sum(len(host.agents) for host in settings.values())
    click.echo(
        f"{_count(len(settings), 'host')} and {_count(agents, 'agent')}: all settings are valid"
    )


@main.command()
@inventory_argument
@click.option("--json", "as_json", is_flag=True, help="For scripts: a list of objects.")
@_says_problems
def endpoints(inventory: Path, as_json: bool) -> None:
    """Print how to call each agent.

    Example: vllm-hosts endpoints inventory/prod.py --json
    """
    found = list(
        all_endpoints(_settings(inventory), state_folder(inventory), inventory, _program())
    )
    if as_json:
        click.echo(json.dumps([endpoint.as_json() for endpoint in found], indent=2))
        return
    for endpoint in found:
        click.secho(f"\n{endpoint.host}, agent {endpoint.agent}", bold=True)
        click.echo(f"  base URL  {endpoint.base_url}")
        click.echo(f"  model     {endpoint.served_model_name}")
        click.echo(f"  CA file   {endpoint.ca_file or 'none needed'}")
        click.echo(f"  key       of client {endpoint.client!r}: {endpoint.key_command}")
        click.echo(f"  try       {endpoint.curl()}")


@main.command()
@inventory_argument
@click.argument("client", default=keys.DEFAULT_CLIENT)
@_says_problems
def key(inventory: Path, client: str) -> None:
    """Print a client's API key. No other command shows one.

    Example: export OPENAI_API_KEY="$(vllm-hosts key inventory/prod.py)"
    """
    load(inventory)
    value = keys.FileKeyStore(state_folder(inventory)).client_key(client).get_secret_value()
    click.echo(value, nl=sys.stdout.isatty())


@main.command(context_settings={"ignore_unknown_options": True})
@inventory_argument
@click.argument("pytest_arguments", nargs=-1, type=click.UNPROCESSED)
@_says_problems
def verify(inventory: Path, pytest_arguments: tuple[str, ...]) -> None:
    """Look at every host again, by other means, and from here as a client and a stranger.

    Further arguments go to pytest. Example: vllm-hosts verify inventory/prod.py -k firewall
    """
    _settings(inventory)
    command = [sys.executable, "-m", "pytest", str(_SUITE), "-p", "no:cacheprovider"]
    command += [f"--inventory={inventory.resolve()}", *pytest_arguments]
    code = subprocess.run(command, check=False).returncode
    # pytest's own codes above 1 mean that nothing, or not everything, was looked at.
    sys.exit(0 if code == 0 else 1)


def _program() -> str:
    """How the reader's shell finds this command: by name, or by its path in an environment."""
    here = Path(sys.executable).parent / "vllm-hosts"
    if shutil.which("vllm-hosts") == str(here):
        return "vllm-hosts"
    return os.path.relpath(here) if here.is_relative_to(Path.cwd()) else str(here)


def _settings(inventory: Path) -> dict[str, HostSettings]:
    return validate(load(inventory))


def _gpus(gpus: tuple[int, ...]) -> str:
    if not gpus:
        return "no GPU"
    return f"GPU {', '.join(str(gpu) for gpu in gpus)}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


if __name__ == "__main__":
    main()
