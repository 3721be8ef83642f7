"""`vllm-hosts docs`: the documents that messages name, wherever the toolkit is installed."""

from __future__ import annotations

from pathlib import Path, PurePath

import click

from vllm_hosts.cli.command import Command

#: In a checkout a link.
_FOLDER = Path(__file__).resolve().parents[1] / "docs"


@click.command(cls=Command)
@click.argument("page", required=False)
def docs(page: str | None) -> None:
    """Print a document that a message names, or list them all.

    Example: vllm-hosts docs docs/keys.md
    """
    pages = {path.stem: path for path in sorted(_FOLDER.glob("*.md"))}
    if page is None:
        for name, path in pages.items():
            title = path.read_text().partition("\n")[0].lstrip("# ")
            click.echo(f"{click.style(f'{name:18}', bold=True)}{title}")
        return
    # As messages name it, with the heading that they point to.
    name = PurePath(page.partition("#")[0]).stem
    if name not in pages:
        raise click.UsageError(f"there is no document {name!r}; there is {', '.join(pages)}")
    click.echo_via_pager(pages[name].read_text())
