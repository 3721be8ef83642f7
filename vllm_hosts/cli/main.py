"""The command `vllm-hosts`: what people do with an inventory besides deploying it.

Exit codes: 0 all is well; 1 something is wrong, and was said; 2 the command was misused.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from shlex import quote

# isort: off
import pyinfra_cli  # noqa: F401  replaces the socket module by gevent's: before anybody uses ssl

# isort: on
import click

from vllm_hosts import __version__
from vllm_hosts.cli.agents import agents as agents_command
from vllm_hosts.cli.ca import ca
from vllm_hosts.cli.choice import host_option
from vllm_hosts.cli.common import inventory_argument, only, opened, says_problems
from vllm_hosts.cli.doctor import doctor
from vllm_hosts.cli.drift import show_drift
from vllm_hosts.cli.hosts import hosts as hosts_command
from vllm_hosts.cli.images import images
from vllm_hosts.cli.keys import keys
from vllm_hosts.cli.plan import plan
from vllm_hosts.cli.tls import tls
from vllm_hosts.cli.top import top
from vllm_hosts.connect import pyinfra_output
from vllm_hosts.drift import drift as find_drift
from vllm_hosts.errors import SettingsError
from vllm_hosts.keys import DEFAULT_CLIENT, KeyStore
from vllm_hosts.keys.ca import shown
from vllm_hosts.keys.pki import utc_now
from vllm_hosts.keys.places import CA_FILE, state_folder
from vllm_hosts.project.endpoints import client_to_name
from vllm_hosts.project.endpoints import endpoints as all_endpoints
from vllm_hosts.project.inventory import validate
from vllm_hosts.settings import HostSettings
from vllm_hosts.settings.exposure import exposed
from vllm_hosts.verify.promises import promises

_SUITE = Path(__file__).resolve().parent.parent / "tests" / "hosts"
_problems = says_problems("The settings cannot be deployed:")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """Check, call and verify hosts that `pyinfra INVENTORY deploy.py` deploys to.

    Completion for bash: eval "$(_VLLM_HOSTS_COMPLETE=bash_source vllm-hosts)"
    """
    pyinfra_output.install()


main.add_command(keys)
main.add_command(hosts_command)
main.add_command(ca)
main.add_command(agents_command)
main.add_command(images)
main.add_command(top)
main.add_command(doctor)
main.add_command(plan)
main.add_command(tls)


@main.command()
@inventory_argument
@_problems
def check(inventory: Path) -> None:
    """Validate all settings. Connects to nothing.

    Example: vllm-hosts check inventory/prod.py
    """
    settings = _settings(inventory)
    for host in settings.values():
        click.secho(f"{host.name} ({host.address})", bold=True)
        for agent in host.agents:
            click.echo(f"  {agent.name:16} {agent.model:32} port {agent.port}  {_gpus(agent.gpus)}")
        for sentence in exposed(host):
            click.secho(f"  {sentence}", fg="yellow")
    agents = sum(len(host.agents) for host in settings.values())
    click.echo(
        f"{_count(len(settings), 'host')} and {_count(agents, 'agent')}: all settings are valid"
    )


@main.command()
@inventory_argument
@click.option("--client", help=f"Whose key to name. Default: {DEFAULT_CLIENT}, or the first.")
@click.option("--json", "as_json", is_flag=True, help="For scripts: a list of objects.")
@says_problems("The endpoints cannot be named:")
def endpoints(inventory: Path, client: str | None, as_json: bool) -> None:
    """Print how to call each agent.

    Example: vllm-hosts endpoints inventory/prod.py --json
    """
    settings = _settings(inventory)
    client = client_to_name(KeyStore(inventory), client)
    found = list(
        all_endpoints(
            settings,
            state_folder(inventory),
            # Good in any folder, as all that is printed here.
            f"{_program()} keys show --force {quote(str(inventory.resolve()))} {quote(client)}",
            client,
        )
    )
    if as_json:
        click.echo(json.dumps([endpoint.as_json() for endpoint in found], indent=2))
        return
    for endpoint in found:
        click.secho(f"\n{endpoint.host}, agent {endpoint.agent}", bold=True)
        click.echo(f"  base URL  {endpoint.base_url}")
        click.echo(f"  model     {endpoint.served_model_name}")
        click.echo(f"  CA file   {_ca_file(endpoint.ca_file, inventory)}")
        click.echo(f"  key       of client {endpoint.client!r}: {endpoint.key_command}")
        click.echo(f"  try       {endpoint.curl()}")


def _ca_file(path: str | None, inventory: Path) -> str:
    """The file, or how to get it where it is not on this machine, or is not as it should be."""
    if path is None:
        return "none needed"
    store = KeyStore(inventory)
    if Path(path) != store.folder / CA_FILE:
        return path
    make = f"{_program()} ca {quote(str(inventory))} > {quote(path)}"
    if not Path(path).is_file():
        return f"{path} ({f'make it: {make}' if store.encrypted else 'the first deploy makes it'})"
    try:
        given, following = store.ca_certificate(), store.authority.following()
    except SettingsError:
        # Endpoints need no identity that opens the store.
        return path
    if given is not None and Path(path).read_bytes() != given:
        return f"{path} (not as the store has it; make it again: {make})"
    if following is None:
        return path
    if utc_now() < following.takes_over:
        return f"{path} (has a new CA too: give it to clients by {shown(following.takes_over)})"
    return f"{path} (has the old CA too, until {shown(following.old_ends)})"


@main.command(context_settings={"ignore_unknown_options": True})
@inventory_argument
@host_option
@click.option(
    "--promise",
    "chosen",
    multiple=True,
    type=click.Choice(list(promises())),
    metavar="ID",
    help="Check this promise only, such as NET-01. May be repeated.",
)
@click.option(
    "--skip",
    "skipped",
    multiple=True,
    type=click.Choice(list(promises())),
    metavar="ID",
    help="Leave this promise out. May be repeated.",
)
@click.option(
    "--ports",
    default="1-65535",
    metavar="FIRST-LAST",
    show_default=True,
    help="TCP ports to try from outside.",
)
@click.option(
    "--report",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Write report.html, report.json and junit.xml there.",
)
@click.argument("pytest_arguments", nargs=-1, type=click.UNPROCESSED)
@_problems
def verify(
    inventory: Path,
    hosts: tuple[str, ...],
    chosen: tuple[str, ...],
    skipped: tuple[str, ...],
    ports: str,
    report: Path | None,
    pytest_arguments: tuple[str, ...],
) -> None:
    """Verify every host independently, from inside, and from outside as clients and strangers.

    Exit code 0 only if every promise was checked and is kept. docs/security-model.md lists them.
    Further arguments go to pytest.

    Example: vllm-hosts verify inventory/prod.py --report report
    """
    only(inventory, _settings(inventory), hosts)
    first, _, last = ports.partition("-")
    if not (first.isdigit() and last.isdigit() and 1 <= int(first) <= int(last) <= 65535):
        raise click.UsageError(f"{ports!r} is no range of ports; write it like 1-65535")
    with suppress(SettingsError):
        # A clone with an encrypted store has no copy of the certificate that clients need.
        KeyStore(inventory).authority.refresh_file()
    command = [sys.executable, "-m", "pytest", str(_SUITE), "-p", "no:cacheprovider"]
    command += [
        "--no-header",
        "--tb=no",
        "-rN",
        "-o",
        "verbosity_assertions=2",
        f"--inventory={inventory.resolve()}",
    ]
    command += [f"--only-host={name}" for name in hosts]
    command += [
        f"--only-promise={identifier}"
        for identifier in chosen or promises()
        if identifier not in skipped
    ]
    command.append(f"--ports={ports}")
    if report is not None:
        command += [f"--report={report.resolve()}", f"--junitxml={report.resolve() / 'junit.xml'}"]
    code = subprocess.run([*command, *pytest_arguments], check=False).returncode
    # pytest's own codes above 1 mean that nothing, or not everything, was looked at.
    sys.exit(0 if code == 0 else 1)


@main.command()
@inventory_argument
@host_option
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
@_problems
def drift(inventory: Path, hosts: tuple[str, ...], as_json: bool) -> None:
    """Show what differs on hosts from what deploy.py would leave there. Writes nothing.

    Of files it shows the lines, - as the host has them and + as a deploy writes them, with secrets
    masked, and whether the host or the settings changed since the last deploy.

    Exit codes: 0 nothing differs, 2 something does, 1 some checks could not be completed.

    Example: vllm-hosts drift inventory/prod.py --json
    """
    only(inventory, _settings(inventory), hosts)
    found = find_drift(inventory, Path("deploy.py"), hosts)
    if as_json:
        click.echo(json.dumps({name: asdict(host) for name, host in found.items()}, indent=2))
    else:
        show_drift(found)
    if any(host.unknown for host in found.values()):
        sys.exit(1)
    sys.exit(2 if any(host.drifted for host in found.values()) else 0)


def _program() -> str:
    """How the reader's shell finds this command: by name, or by its path in an environment."""
    here = Path(sys.executable).parent / "vllm-hosts"
    if shutil.which("vllm-hosts") == str(here):
        return "vllm-hosts"
    return quote(str(here))


def _settings(inventory: Path) -> dict[str, HostSettings]:
    return validate(opened(inventory))


def _gpus(gpus: tuple[int, ...]) -> str:
    if not gpus:
        return "no GPU"
    return f"GPU {', '.join(str(gpu) for gpu in gpus)}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


if __name__ == "__main__":
    main()
