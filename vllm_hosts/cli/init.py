"""`vllm-hosts init`: a site of one's own."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from shlex import quote

import click

from vllm_hosts import __version__
from vllm_hosts.cli.command import Command, Exit
from vllm_hosts.project.new_site import GENERATED, make, site_above, upgrade


@click.command(cls=Command, problems="Nothing was written:")
@click.argument("folder", required=False, type=click.Path(path_type=Path))
@click.option("--upgrade", "upgrades", is_flag=True, help="Show what this version would rewrite.")
@click.option("--write", is_flag=True, help="With --upgrade: write it as well.")
def init(folder: Path | None, upgrades: bool, write: bool) -> None:
    """Make a site: a folder with your inventory and settings. Asks nothing.

    With --upgrade, in a site or with its folder: show as a diff what this version of the toolkit
    would write into group_data/all.py. What you set there stays.

    Example: vllm-hosts init my-site
    """
    if upgrades:
        _upgrade(site_above(folder or Path()), write)
        return
    if write:
        raise click.UsageError("--write is for --upgrade; a new site is written without it")
    if folder is None:
        raise click.UsageError("name the folder of the new site, such as: vllm-hosts init my-site")
    files = make(folder)
    here = folder.resolve() == Path.cwd()
    click.echo(f"{'This folder' if here else folder} is a site now, with {', '.join(files)}.")
    click.echo("Edit there:")
    click.echo("  inventory/prod.py        your hosts, in the place of gpu1.example.com")
    click.echo("  group_data/gpu_hosts.py  which models run on them")
    click.echo("Then type:")
    if not here:
        click.echo(f"  cd {quote(str(folder))}")
    click.echo("  vllm-hosts check inventory/prod.py")
    click.echo("  pyinfra --dry inventory/prod.py deploy.py")
    click.echo("  pyinfra inventory/prod.py deploy.py")


def _upgrade(site: Path, write: bool) -> None:
    lines = upgrade(site, write=write)
    shown = os.path.relpath(site / GENERATED)
    if not lines:
        click.echo(f"{shown} is as vllm-hosts {__version__} writes it")
        return
    for line in lines:
        colour = {"-": "red", "+": "green"}.get(line[:1])
        click.secho(line, fg=colour)
    if write:
        click.echo(f"{shown} is written; what you set is as it was", err=True)
    else:
        click.echo("Nothing was written; --write writes it. What you set stays.", err=True)
        sys.exit(Exit.DIFFERS)
