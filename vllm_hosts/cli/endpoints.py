"""`vllm-hosts endpoints`: how to call each agent, with which key and which CA."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from shlex import quote

import click

from vllm_hosts.cli.command import Command
from vllm_hosts.cli.common import inventory_argument, opened
from vllm_hosts.errors import SettingsError
from vllm_hosts.keys import DEFAULT_CLIENT
from vllm_hosts.keys.ca import shown
from vllm_hosts.keys.pki import utc_now
from vllm_hosts.keys.places import CA_FILE
from vllm_hosts.project.endpoints import client_to_name
from vllm_hosts.project.endpoints import endpoints as all_endpoints
from vllm_hosts.project.loaded import Project


@click.command(cls=Command, problems="The endpoints cannot be listed:")
@inventory_argument
@click.option(
    "--client",
    help=f"Client whose key to use. Default: the client {DEFAULT_CLIENT!r}, or the first.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, a list of objects.")
def endpoints(inventory: Path, client: str | None, as_json: bool) -> None:
    """Print how to call each agent.

    Example: vllm-hosts endpoints inventory/prod.py --json
    """
    project = opened(inventory)
    settings = project.settings
    client = client_to_name(project.store, client)
    found = list(
        all_endpoints(
            settings,
            project.store.folder,
            # Good in any folder, as all that is printed here.
            f"{_program()} keys show --force {quote(str(inventory.resolve()))} {quote(client)}",
            client,
        )
    )
    if as_json:
        click.echo(json.dumps([endpoint.as_json() for endpoint in found], indent=2))
        return
    # Most hosts have the same.
    files = {path: _ca_file(path, project) for path in {one.ca_file for one in found}}
    for endpoint in found:
        click.secho(f"\n{endpoint.host}, agent {endpoint.agent}", bold=True)
        click.echo(f"  base URL  {endpoint.base_url}")
        click.echo(f"  model     {endpoint.served_model_name}")
        click.echo(f"  CA file   {files[endpoint.ca_file]}")
        click.echo(f"  key       of client {endpoint.client!r}: {endpoint.key_command}")
        click.echo(f"  try       {endpoint.curl()}")


def _ca_file(path: str | None, project: Project) -> str:
    """The file, or how to get it where it is not on this machine, or is not as it should be."""
    if path is None:
        return "none needed"
    store = project.store
    if Path(path) != store.folder / CA_FILE:
        return path
    make = f"{_program()} ca {quote(str(project.file))} > {quote(path)}"
    if not Path(path).is_file():
        return (
            f"{path} ({f'write it: {make}' if store.encrypted else 'the first deploy creates it'})"
        )
    try:
        given, following = store.ca_certificate(), store.authority.following()
    except SettingsError:
        # Endpoints need no identity that opens the store.
        return path
    if given is not None and Path(path).read_bytes() != given:
        return f"{path} (not the store's own; write it again: {make})"
    if following is None:
        return path
    if utc_now() < following.takes_over:
        return f"{path} (includes the new CA: give it to clients by {shown(following.takes_over)})"
    return f"{path} (still includes the old CA, until {shown(following.old_ends)})"


def _program() -> str:
    """How the reader's shell finds this command: by name, or by its path in an environment."""
    here = Path(sys.executable).parent / "vllm-hosts"
    if shutil.which("vllm-hosts") == str(here):
        return "vllm-hosts"
    return quote(str(here))
