"""`vllm-hosts settings`: what can be set."""

from __future__ import annotations

import click

from vllm_hosts.cli.command import Command
from vllm_hosts.settings.docs import settings_md


@click.command(cls=Command)
def settings() -> None:
    """Print every setting: its type, default and meaning.

    Example: vllm-hosts settings | less
    """
    click.echo(settings_md(generated=False), nl=False)
