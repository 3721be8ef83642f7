"""`vllm-hosts top`: what GPUs and agents do right now."""

from __future__ import annotations

import json
import logging
import sys
from datetime import datetime
from pathlib import Path

import click
from rich.console import Console

from vllm_hosts.cli.choice import choose, host_option
from vllm_hosts.cli.command import Command, Exit
from vllm_hosts.cli.common import inventory_argument
from vllm_hosts.top.draw import picture
from vllm_hosts.top.export import as_json
from vllm_hosts.top.live import Watch, live

#: Lines of a text that is no screen's: all of them.
_ENDLESS = 1_000_000


@click.command(cls=Command)
@inventory_argument
@host_option
@click.option(
    "--interval",
    type=click.FloatRange(min=0.5),
    default=2.0,
    metavar="SECONDS",
    show_default=True,
    help="Seconds between polls; each takes about two seconds.",
)
@click.option("--once", is_flag=True, help="Print once, from two samples a second apart.")
@click.option("--json", "json_too", is_flag=True, help="With --once: print JSON.")
def top(
    inventory: Path, hosts: tuple[str, ...], interval: float, once: bool, json_too: bool
) -> None:
    """Watch GPUs, requests, tokens and KV caches. Press q to quit. Changes no host.

    Behaves like --once when not on a terminal; the exit code is then 1 if a host does not answer.

    Example: vllm-hosts top inventory/prod.py --once --json
    """
    if json_too and not once:
        raise click.UsageError("--json goes with --once")
    chosen = choose(inventory, hosts, None)
    console = Console(highlight=False)
    title = f"vllm-hosts top {inventory}"
    drawable = sys.stdin.isatty() and console.is_terminal and not console.is_dumb_terminal
    if drawable and not once:
        live(chosen, f"{title}  every {interval:g} s", interval)
        return
    logging.disable(logging.CRITICAL)
    watch = Watch(chosen)
    watch.poll_twice()
    if json_too:
        click.echo(json.dumps(as_json(watch.views), indent=2))
    else:
        time = f"{datetime.now().astimezone():%H:%M:%S}"
        console.print(picture(watch.views, title, time, _ENDLESS))
    if any(view.problem is not None for view in watch.views.values()):
        sys.exit(Exit.WRONG)
